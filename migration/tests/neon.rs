// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The NEON loop, on any machine: its assembly is linked to a small C program and run under qemu-user.
//!
//! Needs Debian's `gcc-aarch64-linux-gnu`, `libc6-dev-arm64-cross` and `qemu-user-static` (or `qemu-user`).

use std::{
    io,
    path::Path,
    process::{Command, Output},
};

fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    text
}

#[test]
fn the_neon_loop_finds_every_odd_byte_and_reads_nothing_outside() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("neon-check");
    let mut compile = Command::new("aarch64-linux-gnu-gcc");
    compile
        .args(["-O2", "-Wall", "-Werror", "-static", "-o"])
        .arg(&program)
        .arg(here.join("tests/neon/check.c"))
        .arg(here.join("src/sys/zero_neon.s"));
    let Some(compiled) = run(&mut compile) else {
        eprintln!("skipped: no aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)");
        return;
    };
    succeeded(&compiled);
    let qemus = ["qemu-aarch64-static", "qemu-aarch64"];
    let checked = qemus
        .iter()
        .find_map(|qemu| run(Command::new(qemu).arg(&program)));
    let Some(checked) = checked else {
        eprintln!("skipped: no qemu-aarch64 (Debian: qemu-user-static)");
        return;
    };
    let text = succeeded(&checked);
    assert!(text.starts_with("checked "), "{text}");
}
