// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask vm`: tests and benches on a machine with an IOMMU, which QEMU emulates.
//!
//! ```text
//!  kernel.fragment ─► kernel ──────── bzImage (cached) ─┐
//!  cargo ───────────► programs ─┐                       ├─► machine ─► QEMU ─► relay ─► lines, exit code
//!  Debian's tools ──► tools ────┴──► initramfs ─────────┘                └───► console.log
//! ```

mod cache;
mod child;
mod contents;
mod initramfs;
mod kernel;
mod machine;
mod programs;
mod relay;
mod session;
mod tools;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use parapin_vm::{Job, Mode};

use session::Session;
pub(crate) use tools::missing;

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Runs the tests that need VFIO, one line a test
    Test(Tests),
    /// Runs the benches that need VFIO
    Bench(Benches),
    /// Opens a shell in the machine; runs what comes through a pipe instead
    Shell,
    /// Prints where the kernel's headers are, and installs them there if need be
    Headers,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tests {
    /// Only tests that have one of these in `program::name`
    filters: Vec<String>,
    /// Prints the tests and runs none
    #[arg(long)]
    list: bool,
    /// How long one test may take
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    limit: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Benches {
    /// Only benches that have one of these in their names
    filters: Vec<String>,
    /// How long one bench may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
    /// CPUs of the machine
    #[arg(long, default_value_t = CPUS)]
    cpus: u32,
    /// For the benches themselves: parts of names of rows, or `--test`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// CPUs of the machine for benches, no more than an ordinary host has.
const CPUS: u32 = 2;
/// How long one test may take.
const LIMIT: u64 = 120;
/// How long the commands of a script may take.
const SCRIPT_LIMIT: u64 = 600;
/// How long all tests may take, or all benches.
const ALL_TESTS: Duration = Duration::from_secs(3600);
const ALL_BENCHES: Duration = Duration::from_secs(6 * 3600);

pub(crate) fn run(task: &Task) -> ExitCode {
    let done = match task {
        Task::Test(tests) if tests.list => list(&tests.filters),
        Task::Test(tests) => test(tests),
        Task::Bench(benches) => bench(benches),
        Task::Shell => shell(),
        Task::Headers => headers().map(|directory| {
            println!("{}", directory.display());
            true
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every test, as the step of `cargo xtask ci` runs them. Returns whether all of them passed.
pub(crate) fn test_all() -> Result<bool> {
    test(&Tests {
        filters: Vec::new(),
        list: false,
        limit: LIMIT,
    })
}

/// The include directory of the kernel's own headers.
pub(crate) fn headers() -> Result<PathBuf> {
    kernel::headers()
}

/// Whether the kernel's source is here, out of which headers and kernel are built.
pub(crate) fn has_kernel_source() -> bool {
    kernel::has_source()
}

fn list(filters: &[String]) -> Result<bool> {
    let job = job(Mode::Test, 0, filters);
    let tests = programs::list_tests(filters)?;
    for name in tests.iter().filter(|name| job.selects(name)) {
        println!("{name}");
    }
    Ok(true)
}

fn test(tests: &Tests) -> Result<bool> {
    let session = Session {
        job: job(Mode::Test, tests.limit, &tests.filters),
        script: None,
        whole: ALL_TESTS,
        cpus: CPUS,
    };
    session.run()
}

fn bench(benches: &Benches) -> Result<bool> {
    let mut job = job(Mode::Bench, benches.limit, &benches.filters);
    job.arguments.clone_from(&benches.arguments);
    let session = Session {
        job,
        script: None,
        whole: ALL_BENCHES,
        cpus: benches.cpus,
    };
    session.run()
}

fn shell() -> Result<bool> {
    let mut session = Session {
        job: job(Mode::Shell, SCRIPT_LIMIT, &[]),
        script: None,
        whole: Duration::from_secs(SCRIPT_LIMIT + 300),
        cpus: CPUS,
    };
    if io::stdin().is_terminal() {
        return session.at_terminal();
    }
    let script = io::read_to_string(io::stdin());
    session.script = Some(script.context("cannot read the commands from standard input")?);
    session.job.mode = Mode::Script;
    session.run()
}

fn job(mode: Mode, seconds: u64, filters: &[String]) -> Job {
    Job {
        mode,
        seconds,
        filters: filters.to_vec(),
        arguments: Vec::new(),
    }
}
