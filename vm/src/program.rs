// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The programs that the host put here, and the surroundings that they can rely on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Runs first: when the machine is not what it should be, that is the failure to look at.
const FIRST: &str = "vm_machine";

/// The programs in a directory, in the order in which they run.
pub(crate) fn all_in(directory: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {directory}"))?;
    let mut programs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    programs.sort_by_key(|program| (!program.ends_with(FIRST), program.clone()));
    Ok(programs)
}

pub(crate) fn name_of(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A program in the surroundings that tests and benches can rely on.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/tmp").envs([
        ("HOME", "/"),
        ("PATH", "/bin"),
        ("TMPDIR", "/tmp"),
        ("PARAPIN_VM", "1"),
        ("PARAPIN_TEST_MACHINE", "1"),
        ("PARAPIN_BIN", "/bin/parapin"),
    ]);
    command
}
