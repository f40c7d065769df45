// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is in the machine: our programs, a shell with its commands, and a few tools of Debian with their libraries.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use parapin_vm::Job;

use super::{
    initramfs::Archive,
    programs::{Program, Programs},
    tools,
};

/// The shell is Debian's, since that of busybox takes its own poor `setpriv` for the one that is here.
const TOOLS: [&str; 6] = ["busybox", "dash", "setpriv", "prlimit", "taskset", "strace"];

/// Writes the initramfs.
pub(crate) fn pack(to: &Path, programs: &Programs, job: &Job, script: Option<&str>) -> Result<()> {
    let mut archive = Archive::create(to)?;
    archive.program("/init", &programs.init)?;
    archive.program("/bin/parapin", &programs.parapin)?;
    for (directory, programs) in [
        (Job::TESTS, &programs.tests),
        (Job::BENCHES, &programs.benches),
        (Job::EXAMPLES, &programs.examples),
    ] {
        archive.directory(directory)?;
        for (name, path) in programs as &Vec<Program> {
            archive.program(&format!("{directory}/{name}"), path)?;
        }
    }
    archive.text(Job::FILE, &job.to_string())?;
    if let Some(script) = script {
        archive.text(Job::SCRIPT, script)?;
    }
    archive.text(
        "/etc/passwd",
        "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    archive.text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    for tool in TOOLS {
        let path = tools::find(tool).with_context(|| format!("cannot find {tool}"))?;
        archive.program(&format!("/bin/{tool}"), &path)?;
        for library in libraries(&path)? {
            archive.program(&library.to_string_lossy(), &library)?;
        }
    }
    archive.link("/bin/sh", "dash")?;
    for applet in run(Command::new("busybox").arg("--list"))?.lines() {
        archive.link(&format!("/bin/{applet}"), "busybox")?;
    }
    archive.finish()?;
    Ok(())
}

/// What the loader would load; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    Ok(loaded(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines are `name => path (address)`, or `path (address)` for the loader itself.
fn loaded(text: &str) -> Vec<PathBuf> {
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output();
    let output = output.with_context(|| {
        format!(
            "cannot start {}",
            Path::new(command.get_program()).display()
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_have_a_path() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(loaded(text), expected.map(PathBuf::from));
        assert!(loaded("\tnot a dynamic executable\n").is_empty());
    }
}
