// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A minute of libFuzzer on what comes from the other end, with AddressSanitizer where there is a nightly toolchain.
//!
//! ```text
//!  fuzz/ ── built with coverage counters ──► decode_page ── 60 s ──► nothing found, or a file that repeats what was
//! ```

use std::fs;

use anyhow::Result;

use crate::{
    ci::{Outcome, target_directory_of},
    command::{CommandLine, root},
};

/// What libFuzzer needs to see which way an input took.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const SECONDS: u32 = 60;

/// Builds it, with the sanitizer if there is one.
fn build(sanitizer: bool) -> CommandLine {
    let (toolchain, flag) = match sanitizer {
        true => ("+nightly ", " -Zsanitizer=address"),
        false => ("", ""),
    };
    // Naming the target leaves build scripts without counters.
    CommandLine::new(format!(
        "cargo {toolchain}build --release --locked --manifest-path fuzz/Cargo.toml --target {TARGET}"
    ))
    .flags("RUSTFLAGS", &format!("{COVERAGE}{flag}"))
    .variable("CARGO_TARGET_DIR", directory(sanitizer))
}

fn directory(sanitizer: bool) -> String {
    target_directory_of(if sanitizer { "fuzz-asan" } else { "fuzz" })
}

/// Runs what was built. What it finds is left beside it.
fn run_built(sanitizer: bool) -> CommandLine {
    let directory = directory(sanitizer);
    CommandLine::new(format!(
        "{directory}/{TARGET}/release/decode_page -max_total_time={SECONDS} -rss_limit_mb=2048 -max_len=16384 -timeout=10 \
         -print_final_stats=1 -verbosity=0 -artifact_prefix={directory}/"
    ))
    // libdeflate's tables come up more than once, which is of no matter here.
    .variable("ASAN_OPTIONS", "detect_odr_violation=0")
}

/// What it does, for a list of steps.
pub(crate) fn commands() -> String {
    format!("{} && {}", build(false), run_built(false))
}

pub(crate) fn run() -> Result<Outcome> {
    if !cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
        let reason = "the flags are those for x86-64 and glibc";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let sanitizer = CommandLine::new("cargo +nightly --version").succeeds();
    fs::create_dir_all(root().join(directory(sanitizer)))?;
    build(sanitizer).show()?;
    run_built(sanitizer).show()?;
    Ok(match sanitizer {
        true => Outcome::Passed,
        false => Outcome::Partly("AddressSanitizer: no nightly toolchain".to_owned()),
    })
}
