// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin pin`.

use std::{
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use cgroup::ProcessMemory;
use parapin::{IoUring, PinError, PinErrorKind, PinReport, Pinned, Pinner, Populate, Target};

use super::{
    args::{PinArgs, TargetName},
    exit::Exit,
    json,
    progress::Bar,
    resolve::{Refused, Resolved},
    signals::Interrupts,
    text,
};

/// What is told of a run that pinned.
#[derive(Debug)]
pub(crate) struct Success<'a> {
    pub(crate) report: &'a PinReport,
    pub(crate) pins: bool,
    pub(crate) before: ProcessMemory,
    pub(crate) pinned: ProcessMemory,
}

impl Success<'_> {
    /// Whether the kernel's counter moved by exactly what was asked for, or nothing was to be pinned.
    pub(crate) fn exact(&self) -> bool {
        let grown = self.pinned.pinned.wrapping_sub(self.before.pinned);
        !self.pins || grown == self.report.job.bytes
    }
}

/// What is told of a run that did not.
#[derive(Debug)]
pub(crate) struct Failure<'a> {
    pub(crate) exit: Exit,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
    pub(crate) error: Option<&'a PinError>,
    pub(crate) left_pinned: u64,
}

impl Failure<'_> {
    fn other(exit: Exit, kind: &'static str, message: String, remedy: Option<String>) -> Self {
        Self {
            exit,
            kind,
            message,
            remedy,
            error: None,
            left_pinned: 0,
        }
    }
}

/// Pins, reports, holds, unpins.
pub(crate) fn run(args: &PinArgs) -> Exit {
    let mut interrupts = match Interrupts::new() {
        Ok(interrupts) => interrupts,
        Err(error) => {
            let message = format!("signals cannot be handled: {error}");
            return fail(args, &Failure::other(Exit::Failed, "other", message, None));
        }
    };
    match Resolved::new(args) {
        Err(Refused {
            exit,
            kind,
            message,
            remedy,
        }) => fail(args, &Failure::other(exit, kind.name(), message, remedy)),
        Ok(resolved) => match args.target {
            TargetName::IoUring => pin(args, &resolved, &IoUring, &mut interrupts),
            TargetName::Populate => pin(args, &resolved, &Populate::default(), &mut interrupts),
        },
    }
}

fn pin<T: Target>(
    args: &PinArgs,
    resolved: &Resolved,
    target: &T,
    interrupts: &mut Interrupts,
) -> Exit {
    let before = memory();
    let bar = Bar::new(resolved.size, args.quiet);
    let mut pinner = Pinner::new()
        .nice(args.nice)
        .min_chunk(args.min_chunk)
        .max_chunk(args.max_chunk)
        .check(!args.no_check)
        .cancel(interrupts.cancel.clone())
        .progress(|progress| bar.show(progress));
    if let Some(threads) = args.threads {
        pinner = pinner.threads(threads);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| pinner.pin(target, &resolved.regions)));
    bar.clear();
    match outcome {
        Ok(Ok(pinned)) => {
            let now = memory();
            finish(args, pinned, before, now, interrupts)
        }
        Ok(Err(error)) => fail(args, &failed(&error, before)),
        Err(_) => fail(args, &panicked(before)),
    }
}

/// The panic itself has been printed by the hook.
fn panicked(before: ProcessMemory) -> Failure<'static> {
    let left_pinned = memory().pinned.saturating_sub(before.pinned);
    let (exit, message) = match left_pinned {
        0 => (Exit::Failed, "the job panicked; everything was undone"),
        _ => (Exit::LeftPinned, "the job panicked"),
    };
    let mut failure = Failure::other(exit, "panicked", message.to_owned(), None);
    failure.left_pinned = left_pinned;
    failure
}

/// Reports, holds if asked to, unpins, and looks whether all is gone.
///
/// Without `--hold` the report comes after the unpin, so that there is one answer for both.
fn finish<T: Target>(
    args: &PinArgs,
    pinned: Pinned<T>,
    before: ProcessMemory,
    now: ProcessMemory,
    interrupts: &mut Interrupts,
) -> Exit {
    let report = pinned.report().clone();
    let success = Success {
        report: &report,
        pins: args.target == TargetName::IoUring,
        before,
        pinned: now,
    };
    if args.hold {
        show(args, &success);
        if !args.quiet {
            tell("holding; Ctrl-C unpins");
        }
        interrupts.wait();
    }
    let outcome = pinned.unpin();
    let left = memory().pinned.saturating_sub(before.pinned);
    if left > 0 {
        let reason = outcome
            .err()
            .map_or_else(String::new, |error| format!(": {error}"));
        let message = format!("{left} bytes are still pinned after the unpin{reason}");
        let mut failure = Failure::other(Exit::LeftPinned, "undo-failed", message, None);
        failure.left_pinned = left;
        // With --hold standard output has had its object.
        return if args.hold {
            tell(&text::failure(&failure));
            Exit::LeftPinned
        } else {
            fail(args, &failure)
        };
    }
    if !args.hold {
        show(args, &success);
    }
    if let (Ok(unpinned), true) = (&outcome, success.pins && !args.quiet && !args.json) {
        tell(&text::unpinned(unpinned));
    }
    if success.exact() {
        Exit::Done
    } else {
        Exit::Failed
    }
}

fn failed(error: &PinError, before: ProcessMemory) -> Failure<'_> {
    let listed: u64 = error.left_pinned().iter().map(|left| left.size).sum();
    let left_pinned = listed.max(memory().pinned.saturating_sub(before.pinned));
    let exit = match error.kind() {
        _ if left_pinned > 0 => Exit::LeftPinned,
        PinErrorKind::Cancelled => Exit::Cancelled,
        _ => Exit::Failed,
    };
    let cause =
        std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Failure {
        exit,
        kind: error.kind().name(),
        message: format!("{error}{cause}"),
        remedy: error.remedy().map(ToOwned::to_owned),
        error: Some(error),
        left_pinned,
    }
}

/// What /proc says now; nothing where it cannot be read, so that nothing is claimed.
fn memory() -> ProcessMemory {
    ProcessMemory::current().unwrap_or(ProcessMemory {
        locked: 0,
        pinned: 0,
        resident: 0,
    })
}

fn show(args: &PinArgs, success: &Success<'_>) {
    if args.json {
        print(&json::success(success));
    } else if !args.quiet {
        print(&text::success(success));
    }
}

fn fail(args: &PinArgs, failure: &Failure<'_>) -> Exit {
    tell(&text::failure(failure));
    if args.json && failure.exit != Exit::Usage {
        print(&json::failure(args, failure));
    }
    failure.exit
}

/// To standard output; a reader that went away is not our failure.
fn print(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// To standard error.
fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
