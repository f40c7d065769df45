// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line: parse → resolve → run → report → exit code.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::Args::parse()).into()
}
