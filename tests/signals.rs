// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Signals while a job runs: one that is blocked and pending cancels it if that was asked for, and is still there
//! afterwards; helpers never take one.
//!
//! Children inherit the blocked signals of the thread that starts them, so that no thread of theirs can take one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod machine;
mod steered;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    num::NonZeroUsize,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use child::Blocked;
use machine::{alone, cannot_pin, field, parapin, vm_pin};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction},
    unistd::{Pid, getpid},
};
use parapin::{
    CancelToken, Crew, IoUring, Iova, Mapping, Pages, PinError, PinErrorKind, Pinned, Pinner,
    Region, Regions,
};
use rustix::thread::gettid;
use serde_json::Value;
use steered::{Gate, Meeting, PATIENCE, Piece, Steered, no_helpers, until};

const MIB: u64 = 1 << 20;
/// Of each job.
const SIZE: u64 = 128 * MIB;
/// What asks a process to end.
const TERMINATION: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
];
/// What does not.
const OTHERS: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGCHLD];

fn memory() -> Regions {
    let mapping = Arc::new(Mapping::anonymous(SIZE, Pages::Small).unwrap());
    Regions::new([Region::of_mapping(mapping, Iova(0)).unwrap()]).unwrap()
}

fn small_chunks<'a>() -> Pinner<'a> {
    Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .min_chunk(MIB)
        .max_chunk(MIB)
}

/// Whether the signal waits for this thread or its process.
fn is_pending(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    ["SigPnd:", "ShdPnd:"].iter().any(|key| {
        let mask = u64::from_str_radix(&field(&status, key).unwrap(), 16).unwrap();
        mask & (1 << (signal as i32 - 1)) != 0
    })
}

/// Takes the signal, which must be pending, as a VMM that waits for it does.
fn take(signal: Signal) {
    assert!(is_pending(signal), "{signal} is where its owner looks");
    assert_eq!(SigSet::from(signal).wait(), Ok(signal));
    assert!(!is_pending(signal));
}

/// The job was cancelled and nothing of it is left.
fn assert_cancelled<T: parapin::Target>(outcome: Result<Pinned<T>, PinError>, before: u64) {
    let error = outcome.map(drop).unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::Cancelled, "{error}");
    assert!(error.left_pinned().is_empty(), "{error}");
    assert_eq!(vm_pin(), before, "{error}");
}

/// The job was not: everything is pinned, and then unpinned.
fn assert_completed<T: parapin::Target>(outcome: Result<Pinned<T>, PinError>, before: u64) {
    let pinned = outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(vm_pin() - before, SIZE);
    drop(pinned);
    assert_eq!(vm_pin(), before);
}

/// Runs the part `name` in a child whose threads have all of these signals blocked.
fn in_child(name: &str) {
    let _alone = alone();
    if no_helpers() || cannot_pin(SIZE) {
        return;
    }
    let _blocked = Blocked::new(&[&TERMINATION[..], &OTHERS].concat());
    assert_eq!(child::answer("signalled_child", name), "done");
}

/// What is done in a process of its own, for the tests below.
#[test]
fn signalled_child() {
    let Some(part) = child::part() else {
        return;
    };
    child::end_at_panic();
    match part.as_str() {
        "before" => before_the_job(),
        "during" => during_the_job(),
        "again" => again(),
        "helpers" => helpers(),
        _ => panic!("no part is called {part}"),
    }
    child::tell("done");
}

#[test]
fn a_termination_signal_that_is_pending_keeps_a_job_from_beginning() {
    in_child("before");
}

fn before_the_job() {
    let (memory, before) = (memory(), vm_pin());
    let to_process = |signal| kill(getpid(), signal).unwrap();
    let to_thread = |signal| raise(signal).unwrap();
    for send in [&to_process as &dyn Fn(_), &to_thread] {
        for signal in TERMINATION {
            send(signal);
            let job = || {
                small_chunks()
                    .cancel_on_signals(true)
                    .pin(&IoUring, &memory)
            };
            assert_cancelled(job(), before);
            assert_completed(small_chunks().pin(&IoUring, &memory), before);
            take(signal);
            assert_completed(job(), before);
        }
        for signal in OTHERS {
            send(signal);
            let job = small_chunks()
                .cancel_on_signals(true)
                .pin(&IoUring, &memory);
            assert_completed(job, before);
            take(signal);
        }
    }
}

#[test]
fn one_that_comes_while_a_job_runs_has_it_undone() {
    in_child("during");
}

fn during_the_job() {
    let (memory, before) = (memory(), vm_pin());
    for cancels in [true, false] {
        let cancel = CancelToken::new();
        let target = long(cancels.then(|| cancel.clone()));
        let mut sent_at = None;
        let outcome = small_chunks()
            .cancel(cancel.clone())
            .cancel_on_signals(cancels)
            .progress(|now| {
                if sent_at.is_none() {
                    kill(getpid(), Signal::SIGTERM).unwrap();
                    sent_at = Some(now.done);
                }
            })
            .pin(&target, &memory);
        let sent_at = sent_at.unwrap();
        assert!(0 < sent_at && sent_at < SIZE, "it came in the middle");
        assert_eq!(cancel.is_cancelled(), cancels);
        if cancels {
            let error = outcome.as_ref().unwrap_err();
            assert!(error.chunks_undone() > 0, "{error}");
            assert!(error.report().unwrap().job.bytes < SIZE, "{error}");
            assert_cancelled(outcome, before);
        } else {
            assert_completed(outcome, before);
        }
        take(Signal::SIGTERM);
    }
}

/// A target whose jobs take far longer than the calling thread needs to look for signals and for progress a few times,
/// which it does every tenth of a second: each of its own 127 pieces takes a hundredth, and the helper does but one
/// until `cancel` is raised.
fn long(cancel: Option<CancelToken>) -> Steered<IoUring> {
    let meeting = Meeting::default();
    Steered::new(IoUring, move |piece: Piece| {
        meeting.come(piece.worker);
        match &cancel {
            Some(cancel) if piece.worker == 1 => {
                until("the job is cancelled", || cancel.is_cancelled());
            }
            _ => thread::sleep(Duration::from_millis(10)),
        }
    })
}

#[test]
fn a_pinner_can_be_used_again_when_the_signal_was_taken() {
    in_child("again");
}

fn again() {
    let (memory, before) = (memory(), vm_pin());
    let mut pinner = small_chunks().cancel_on_signals(true);
    kill(getpid(), Signal::SIGTERM).unwrap();
    assert_cancelled(pinner.pin(&IoUring, &memory), before);
    take(Signal::SIGTERM);
    assert_completed(pinner.pin(&IoUring, &memory), before);
}

/// The thread on which the handler ran last, and how often it did.
static HANDLED_BY: AtomicI32 = AtomicI32::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_signal: i32) {
    // Both only make a system call or write to a word. Relaxed: looked at after the signal was seen to be handled.
    HANDLED_BY.store(gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn helpers_take_no_signal_even_if_nobody_else_can() {
    in_child("helpers");
}

fn helpers() {
    let action = SigAction::new(
        SigHandler::Handler(handle),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    #[expect(unsafe_code, reason = "there is no safe way to install a handler")]
    // SAFETY: the handler calls only what is async-signal-safe.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let usr1 = SigSet::from(Signal::SIGUSR1);
    let send = || kill(getpid(), Signal::SIGUSR1).unwrap();
    let handled = || HANDLED.load(Ordering::SeqCst);

    // A thread inherits the mask of the one that starts it: an ordinary one could take the signal, and does.
    usr1.thread_unblock().unwrap();
    let crew = Arc::new(Crew::new(1, 19));
    let only = Gate::default();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            only.pass();
            send();
            until("another thread takes it", || handled() == 1);
        });
        usr1.thread_block().unwrap();
        only.open();
        // The end of a scope does not wait until the thread has ended, and until then it could take another one.
        thread.join().unwrap();
    });
    let other = HANDLED_BY.load(Ordering::Relaxed);
    assert_ne!(other, gettid().as_raw_nonzero().get());

    // The crew's cannot, at rest, at work, and when they are the only ones that might.
    let (memory, before) = (memory(), vm_pin());
    send();
    let mut sent = 1;
    let outcome = small_chunks()
        .crew(crew)
        .progress(|_| {
            for _ in 0..1000 {
                send();
                sent += 1;
            }
        })
        .pin(&long(None), &memory);
    let pinned = outcome.unwrap();
    assert!(pinned.report().job.workers[1].bytes > 0, "it was at work");
    assert!(sent > 3000, "several times in the middle of the job");
    let by = HANDLED_BY.load(Ordering::Relaxed);
    assert_eq!((handled(), by), (1, other), "nobody took it");
    assert_eq!(vm_pin() - before, SIZE);
    drop(pinned);
    assert_eq!((handled(), vm_pin()), (1, before));
    assert!(is_pending(Signal::SIGUSR1));

    usr1.thread_unblock().unwrap();
    assert_eq!(handled(), 2, "it waited for the thread that takes it");
    let by = HANDLED_BY.load(Ordering::Relaxed);
    assert_eq!(by, gettid().as_raw_nonzero().get());
}

/// `parapin`, started by somebody who has SIGTERM blocked; killed when the test fails.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let _blocked = Blocked::new(&[Signal::SIGTERM]);
        let child = parapin(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn status(&self, key: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).ok()?;
        field(&text, key)
    }

    /// Bytes that it has resident; 0 when it has ended.
    fn resident(&self) -> u64 {
        let text = self.status("VmRSS:").unwrap_or_default();
        let number = text.split_whitespace().next();
        number.map_or(0, |number| number.parse::<u64>().unwrap() << 10)
    }

    fn terminate(&self) {
        let process = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(process, Signal::SIGTERM).unwrap();
    }

    /// The exit code, within `limit`.
    fn exit(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            thread::yield_now();
        }
        panic!("it did not end within {limit:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_command_line_is_cancelled_by_a_signal_that_its_parent_had_blocked() {
    let _alone = alone();
    let target = if cannot_pin(2 << 30) {
        "populate"
    } else {
        "io-uring"
    };
    let mut running = Running::start(&[
        "pin",
        "--size",
        "2G",
        "--threads",
        "1",
        "--target",
        target,
        "--min-chunk",
        "1M",
        "--max-chunk",
        "1M",
        "--json",
    ]);
    until("it is at work", || running.resident() > 64 << 20);
    running.terminate();
    assert_eq!(running.exit(PATIENCE), Some(130));
    let mut text = String::new();
    let stdout = running.0.stdout.as_mut().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["error"]["kind"], "cancelled", "{text}");
    assert_eq!(value["error"]["left_pinned_bytes"], 0, "{text}");
    assert!(value["error"]["chunks_undone"].as_u64().unwrap() > 0);
    assert!(value["bytes"].as_u64().unwrap() < 2 << 30, "{text}");
}

#[test]
fn hold_ends_by_a_signal_that_its_parent_had_blocked() {
    let _alone = alone();
    if cannot_pin(32 << 20) {
        return;
    }
    let mut running = Running::start(&["pin", "--size", "32M", "--hold"]);
    let mut line = String::new();
    BufReader::new(running.0.stderr.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "holding; Ctrl-C unpins\n");
    running.terminate();
    assert_eq!(running.exit(Duration::from_secs(10)), Some(0));
}
