// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line of parapin, over the library's public interface.
//!
//! ```text
//!  Args (what was typed) ──► Resolved (what the machine can map) ──► Pinner ──► Outcome ──► text or JSON, exit code
//! ```

mod args;
mod bench;
mod check;
mod device;
mod exit;
mod json;
mod limits;
mod pin;
mod progress;
mod resolve;
mod signals;
mod text;

pub(crate) use args::Args;
use args::Command;
pub(crate) use exit::Exit;

/// Does what was asked on the command line.
pub(crate) fn run(args: Args) -> Exit {
    match args.command {
        Command::Pin(args) => pin::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// A number of bytes for people.
fn human(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}
