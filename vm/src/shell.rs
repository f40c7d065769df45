// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A shell for whoever wants to look around: at the console, or fed with commands.

use std::path::Path;

use anyhow::{Context, Result};
use parapin_vm::Job;

use crate::{live, process, program::command, results::Results};

/// Runs until the shell is left.
pub(crate) fn interactive() -> Result<()> {
    // A session and a terminal of its own, or Ctrl-C would stop nothing.
    let mut shell = command(Path::new("/bin/setsid"));
    let shell = shell
        .args(["cttyhack", "/bin/ash"])
        .env("PS1", "vm:\\w# ")
        .current_dir("/")
        .spawn()
        .context("cannot start a shell")?;
    process::wait_for(shell.id())?;
    Ok(())
}

/// Runs the commands of the job, and relays what they print.
pub(crate) fn script(job: &Job, results: &mut Results) -> Result<()> {
    let mut shell = command(Path::new("/bin/sh"));
    shell.arg(Job::SCRIPT).current_dir("/");
    let verdict = live::run("script", shell, job, results);
    results.ended("script", verdict);
    results.finish();
    Ok(())
}
