// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The steps that a change has to pass, in order, and how each is told of.

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{command::CommandLine, fuzz, msrv, tidy, vm};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Runs this step alone; may be given more than once.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Prints the steps and what they run, and does nothing.
    #[arg(long)]
    list: bool,
}

/// One step, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// Lints, warnings are errors
    Clippy,
    /// Unit, integration and documentation tests
    Test,
    /// Loom models of the hand-out of chunks, and of tasks for devices
    Models,
    /// Memory that devices write to, under AddressSanitizer, where there is a nightly toolchain
    Asan,
    /// A minute of any bytes as compressed pages
    Fuzz,
    /// Documentation builds without a warning
    Doc,
    /// Licences, sources and duplicates of dependencies
    Deny,
    /// Every bench runs once
    Benches,
    /// Tests on an emulated machine with an IOMMU and devices for VFIO
    Vm,
    /// No dependency needs a newer compiler than is promised
    Msrv,
    /// File lengths, headers, the code map, orphans, crate edges
    Tidy,
}

/// How a step ended that did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// Passed but for a part, with the reason.
    Partly(String),
    Skipped(String),
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let steps: Vec<_> = Step::value_variants()
        .iter()
        .filter(|step| arguments.only.is_empty() || arguments.only.contains(step))
        .collect();
    if arguments.list {
        for step in steps {
            println!("{:<8} {}", step.name(), step.commands());
        }
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    for step in &steps {
        if !step.report() {
            return ExitCode::FAILURE;
        }
    }
    println!(
        "ok    {} of {} steps  {}",
        steps.len(),
        Step::value_variants().len(),
        seconds(start.elapsed())
    );
    ExitCode::SUCCESS
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Runs and prints the line that says how it went. Returns whether it did not fail.
    fn report(self) -> bool {
        let start = Instant::now();
        let outcome = self.run();
        let (name, time) = (self.name(), seconds(start.elapsed()));
        match &outcome {
            Ok(Outcome::Passed) => println!("ok    {name:<8} {time}"),
            Ok(Outcome::Partly(reason)) => println!("ok    {name:<8} {time}  skipped: {reason}"),
            Ok(Outcome::Skipped(reason)) => println!("skip  {name:<8} {time}  skipped: {reason}"),
            Err(error) => println!("FAIL  {name}: {error:#} ({time})"),
        }
        outcome.is_ok()
    }

    fn run(self) -> Result<Outcome> {
        match self {
            Self::Test => return test(self.command()),
            Self::Vm => return test_in_vm(&self.command()),
            Self::Models => check_models(&self.command())?,
            Self::Asan => return check_memory(&self.command()),
            Self::Fuzz => return fuzz::run(),
            Self::Deny => return check_deny(&self.command()),
            Self::Msrv => return msrv::check(),
            Self::Tidy => tidy::check()?,
            Self::Clippy => {
                self.command().read()?;
                bare_clippy().read()?;
            }
            Self::Fmt | Self::Doc | Self::Benches => _ = self.command().read()?,
        }
        Ok(Outcome::Passed)
    }

    fn commands(self) -> String {
        match self {
            Self::Clippy => format!("{} && {}", self.command(), bare_clippy()),
            Self::Asan => format!("{} && {}", self.command(), sanitized_pages()),
            Self::Fuzz => fuzz::commands(),
            _ => self.command().to_string(),
        }
    }

    /// What it runs, or, for a step without a command of its own, how to run it alone.
    fn command(self) -> CommandLine {
        match self {
            Self::Fmt => CommandLine::new("cargo fmt --all --check"),
            Self::Clippy => {
                CommandLine::new("cargo clippy --workspace --all-targets -- -D warnings")
            }
            Self::Test => CommandLine::new("cargo test --workspace"),
            // A directory of its own: other flags would have everything built anew, here and at the next step.
            Self::Models => {
                let crates = MODELLED.map(|name| format!("-p {name}")).join(" ");
                CommandLine::new(format!("cargo test {crates} --lib --release models"))
                    .flags("RUSTFLAGS", "--cfg loom")
                    .variable("CARGO_TARGET_DIR", target_directory_of("loom"))
            }
            Self::Asan => sanitized("-p parapin-idxd --features model --lib --tests"),
            Self::Doc => CommandLine::new("cargo doc --workspace --no-deps")
                .flags("RUSTDOCFLAGS", "-D warnings"),
            Self::Deny => {
                CommandLine::new("cargo deny --offline --workspace check bans licenses sources")
            }
            Self::Benches => CommandLine::new("cargo bench -p parapin -- --test"),
            Self::Vm => CommandLine::new("cargo xtask vm test"),
            Self::Fuzz | Self::Msrv | Self::Tidy => {
                CommandLine::new(format!("cargo xtask ci --only {}", self.name()))
            }
        }
    }
}

/// Tests under AddressSanitizer.
fn sanitized(tests: &str) -> CommandLine {
    CommandLine::new(format!(
        "cargo +nightly test {tests} --target x86_64-unknown-linux-gnu"
    ))
    .flags("RUSTFLAGS", "-Zsanitizer=address")
    // What a device may still write to is leaked on purpose.
    .variable("ASAN_OPTIONS", "detect_leaks=0")
    .variable("CARGO_TARGET_DIR", target_directory_of("asan"))
}

/// Pages that devices and libraries write to.
fn sanitized_pages() -> CommandLine {
    sanitized("-p parapin-migration --lib --test iaa --test iaa_late --test bodies")
}

/// Crates with loom models.
const MODELLED: [&str; 2] = ["parapin-pinning", "parapin-idxd"];

/// A directory of its own for builds with other flags.
pub(crate) fn target_directory_of(what: &str) -> String {
    let all = env::var("CARGO_TARGET_DIR").unwrap_or("target".into());
    format!("{all}/{what}")
}

/// The library alone has to stand without the command line's dependencies.
fn bare_clippy() -> CommandLine {
    CommandLine::new("cargo clippy -p parapin --no-default-features --lib -- -D warnings")
}

/// Compares our view of the kernel's interface with its own headers, where they can be had: Debian's are too old.
fn test(command: CommandLine) -> Result<Outcome> {
    if vm::has_kernel_source() {
        let headers = vm::headers()?;
        command
            .variable("PARAPIN_KERNEL_HEADERS", headers.to_string_lossy())
            .show()?;
        return Ok(Outcome::Passed);
    }
    command.show()?;
    Ok(Outcome::Partly("the kernel's own headers".to_owned()))
}

fn test_in_vm(command: &CommandLine) -> Result<Outcome> {
    if let Some(reason) = vm::missing() {
        if env::var_os("CI").is_some() {
            bail!("{reason}; repeat with: {command}");
        }
        return Ok(Outcome::Skipped(reason));
    }
    ensure!(vm::test_all()?, "a test failed; repeat with: {command}");
    Ok(Outcome::Passed)
}

/// A filter that matches nothing passes too, so the counts are looked at.
fn check_models(command: &CommandLine) -> Result<()> {
    let output = command.read()?;
    print!("{output}");
    let with_models = output
        .split("\nrunning ")
        .filter(|run| run.contains("::models::"))
        .count();
    ensure!(
        with_models == MODELLED.len(),
        "models ran in {with_models} of {} crates; repeat with: {command}",
        MODELLED.len()
    );
    Ok(())
}

fn check_memory(command: &CommandLine) -> Result<Outcome> {
    if !cfg!(target_arch = "x86_64") || !CommandLine::new("cargo +nightly --version").succeeds() {
        let reason = "no nightly toolchain for x86-64, which has the sanitizer";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    command.show()?;
    sanitized_pages().show()?;
    Ok(Outcome::Passed)
}

fn check_deny(command: &CommandLine) -> Result<Outcome> {
    if CommandLine::new("cargo deny --version").succeeds() {
        // It looks at the crates of all platforms; a build fetches those of this one only.
        CommandLine::new("cargo fetch --quiet --locked").read()?;
        command.read()?;
        return Ok(Outcome::Passed);
    }
    let reason = "cargo-deny is not installed (cargo install --locked cargo-deny)";
    if env::var_os("CI").is_some() {
        bail!("{reason}; repeat with: {command}");
    }
    Ok(Outcome::Skipped(reason.to_owned()))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
