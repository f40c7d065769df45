// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin pin`.

use std::{
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use cgroup::ProcessMemory;
use parapin::{
    Alarm, IoUring, PinError, PinErrorKind, PinReport, Pinned, Pinner, Placement, Populate,
    Strategy, Target,
};

use super::{
    args::{PinArgs, PlacementName, StrategyName, TargetName},
    device,
    exit::Exit,
    json,
    progress::Bar,
    resolve::{Refused, Resolved},
    signals::Interrupts,
    text,
};

/// The kernel's counter that shows what a target pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Nothing is pinned.
    None,
    /// Pins of io_uring and iommufd.
    VmPin,
    /// Pins of type1.
    VmLck,
}

impl Counter {
    /// Bytes in it.
    pub(crate) fn read(self, memory: &ProcessMemory) -> u64 {
        match self {
            Self::None => 0,
            Self::VmPin => memory.pinned,
            Self::VmLck => memory.locked,
        }
    }

    /// How far it has grown.
    pub(crate) fn grown(self, before: &ProcessMemory, after: &ProcessMemory) -> u64 {
        self.read(after).saturating_sub(self.read(before))
    }
}

/// What is told of a run that pinned.
#[derive(Debug)]
pub(crate) struct Success<'a> {
    pub(crate) report: &'a PinReport,
    pub(crate) counter: Counter,
    pub(crate) before: ProcessMemory,
    pub(crate) pinned: ProcessMemory,
}

impl Success<'_> {
    /// Whether the kernel's counter moved by exactly what was asked for, or nothing was to be pinned.
    pub(crate) fn exact(&self) -> bool {
        self.counter == Counter::None
            || self.counter.grown(&self.before, &self.pinned) == self.report.job.bytes
    }

    pub(crate) fn pins(&self) -> bool {
        self.counter != Counter::None
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
        Err(refused) => fail(args, &refused.into()),
        Ok(resolved) => pin_to(args, &resolved, &mut interrupts),
    }
}

fn pin_to(args: &PinArgs, resolved: &Resolved, interrupts: &mut Interrupts) -> Exit {
    // Without one the parser does not let these targets pass.
    let device = args
        .device
        .map_or_else(String::new, |device| device.to_string());
    let device = device.as_str();
    let strategy = strategy(args.strategy);
    let refused = match args.target {
        TargetName::IoUring => {
            return pin(args, resolved, (&IoUring, Counter::VmPin), interrupts);
        }
        TargetName::Populate => {
            let target = Populate::default();
            return pin(args, resolved, (&target, Counter::None), interrupts);
        }
        TargetName::Type1 => match device::open_type1(device) {
            Ok((target, _device)) => {
                // What iommufd pins is in one counter alone, if the process may lock without limit.
                let counter = match target.info().maps_in_parallel() {
                    true => Counter::VmPin,
                    false => Counter::VmLck,
                };
                let target = target.strategy(strategy);
                return pin(args, resolved, (&target, counter), interrupts);
            }
            Err(refused) => refused,
        },
        TargetName::Iommufd => match device::open_iommufd(device) {
            Ok((target, _device)) => {
                let target = target.strategy(strategy);
                return pin(args, resolved, (&target, Counter::VmPin), interrupts);
            }
            Err(refused) => refused,
        },
    };
    fail(args, &refused.into())
}

fn strategy(name: StrategyName) -> Strategy {
    match name {
        StrategyName::Auto => Strategy::Auto,
        StrategyName::Serial => Strategy::Serial,
        StrategyName::PopulateThenMap => Strategy::PopulateThenMap,
        StrategyName::Pipeline => Strategy::Pipeline,
        StrategyName::Parallel => Strategy::Parallel,
    }
}

fn placement(name: PlacementName) -> Placement {
    match name {
        PlacementName::Local => Placement::Local,
        PlacementName::Spread => Placement::Spread,
    }
}

impl From<Refused> for Failure<'_> {
    fn from(refused: Refused) -> Self {
        let Refused {
            exit,
            kind,
            message,
            remedy,
        } = refused;
        Self::other(exit, kind.name(), message, remedy)
    }
}

fn pin<T: Target>(
    args: &PinArgs,
    resolved: &Resolved,
    (target, counter): (&T, Counter),
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
        // For those without a handler here, where whoever started this process had them blocked.
        .cancel_on_signals(true)
        .placement(placement(args.placement))
        .spread_cpus(args.spread_cpus)
        .stuck(Alarm::AFTER, |helper| {
            bar.warn(&format!("parapin: {helper}"))
        })
        .progress(|progress| bar.show(progress));
    if let Some(threads) = args.threads {
        pinner = pinner.threads(threads);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| pinner.pin(target, &resolved.regions)));
    bar.clear();
    match outcome {
        Ok(Ok(pinned)) => {
            let now = memory();
            finish(args, pinned, (counter, before, now), interrupts)
        }
        Ok(Err(error)) => fail(args, &failed(&error, counter, before)),
        Err(_) => fail(args, &panicked(counter, before)),
    }
}

/// The panic itself has been printed by the hook.
fn panicked(counter: Counter, before: ProcessMemory) -> Failure<'static> {
    let left_pinned = counter.grown(&before, &memory());
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
    (counter, before, now): (Counter, ProcessMemory, ProcessMemory),
    interrupts: &mut Interrupts,
) -> Exit {
    let report = pinned.report().clone();
    let success = Success {
        report: &report,
        counter,
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
    let left = success.counter.grown(&before, &memory());
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
    if let (Ok(unpinned), true) = (&outcome, success.pins() && !args.quiet && !args.json) {
        tell(&text::unpinned(unpinned));
    }
    if success.exact() {
        Exit::Done
    } else {
        Exit::Failed
    }
}

fn failed(error: &PinError, counter: Counter, before: ProcessMemory) -> Failure<'_> {
    let listed: u64 = error.left_pinned().iter().map(|left| left.size).sum();
    let left_pinned = listed.max(counter.grown(&before, &memory()));
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
        if args.explain {
            print(&text::explain(success.report));
        }
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
