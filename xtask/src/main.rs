// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask`: what a developer and a continuous-integration machine run before a change lands.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a command-line program")]

mod ci;
mod command;
mod metadata;
mod msrv;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask ci                           every step, stops at the first failure
  cargo xtask ci --only fmt --only tidy    these two
  cargo xtask ci --list                    the steps and what they run";

/// Checks the workspace with one command.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the checks that a change has to pass.
    #[command(after_help = EXAMPLES)]
    Ci(ci::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Ci(arguments) => ci::run(&arguments),
    }
}
