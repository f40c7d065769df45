// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask`: what a developer and a continuous-integration machine run before a change lands.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command-line program"
)]

mod ci;
mod command;
mod fuzz;
mod metadata;
mod msrv;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask ci                           every step, stops at the first failure
  cargo xtask ci --only fmt --only tidy    these two
  cargo xtask ci --list                    the steps and what they run";

const VM_EXAMPLES: &str = "\
Examples:
  cargo xtask vm test                      every test
  cargo xtask vm test vm_machine pins::    those with one of these in their names
  cargo xtask vm bench -- --test           every bench once
  echo 'dmesg | tail' | cargo xtask vm shell";

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
    /// Boots an emulated machine with an IOMMU and two devices for VFIO.
    #[command(subcommand, after_help = VM_EXAMPLES)]
    Vm(vm::Task),
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Ci(arguments) => ci::run(&arguments),
        Task::Vm(task) => vm::run(&task),
    }
}
