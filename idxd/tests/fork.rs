// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A fork while descriptors are in flight: the child can do nothing with what it inherited, and let go of all of it; the parent
//! does not notice. A process of its own, since a fork concerns all tests that run beside it.

#![cfg(feature = "model")]
#![expect(unsafe_code, reason = "forks, and plays a device by hand")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/by_hand.rs"]
mod by_hand;
#[path = "stage/fly.rs"]
mod fly;
#[path = "stage/pages.rs"]
mod pages;
#[path = "stage/records.rs"]
mod records;

use std::{
    panic::{self, AssertUnwindSafe},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use by_hand::Hand;
use fly::{LONG, fly};
use idxd::{
    CompletionEngine, Flight, Mode, SubmitError,
    model::{Device, Model},
};
use pages::{Pages, answers};

/// Runs `child` in a child, which is killed if it takes longer than a minute, and wants it to end well.
fn fork(child: impl FnOnce()) {
    // SAFETY: what the child does with locks that other threads had is what is tested.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: sets a timer, whose signal ends this child.
        unsafe { libc::alarm(60) };
        let end = panic::catch_unwind(AssertUnwindSafe(child));
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(end.is_err())) };
    }
    let mut status = 0;
    // SAFETY: `status` is written to.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0);
}

#[test]
fn a_child_cannot_submit_and_the_parents_flights_are_answered() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    for max_batch in [8, 1] {
        let (hand, queue) = Hand::queue(Mode::Shared, 16, max_batch, true);
        let flight = fly(&queue, pages.task(), LONG);
        let ours = hand.waiting();
        fork(|| {
            let mut theirs = Flight::new(&queue, pages.task(), LONG).unwrap();
            let error = theirs.submit().unwrap_err();
            assert!(matches!(error, SubmitError::Forked { .. }), "{error}");
            assert_eq!(theirs.wait().unwrap().sent(), 0);
            // What it opens itself is its own.
            let (hand, own) = Hand::queue(Mode::Shared, 16, 8, true);
            let flight = fly(&own, pages.task(), LONG);
            hand.work(1);
            assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
        });
        assert_eq!(hand.waiting(), ours);
        hand.work(ours);
        assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
    }
}

/// The device writes while the child has the same pages: to the parent's, not to a copy.
#[test]
fn records_reach_the_parent_also_while_the_child_lives() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    let (hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
    let flight = fly(&queue, pages.task(), LONG);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child waits for the end of the pipe and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(writer);
        let mut byte = [0];
        let _ = rustix::io::read(&reader, &mut byte);
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    drop(reader);
    hand.work(1);
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
    drop(writer);
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(pid, ptr::null_mut(), 0) }, pid);
}

/// A page that both have would be copied when one of the two writes to it, and a device would go on with either: descriptors and
/// records are the parent's alone, and zeroes in the child.
#[test]
fn a_child_has_zeroes_for_records() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    for max_batch in [8, 1] {
        let (hand, queue) = Hand::queue(Mode::Shared, 16, max_batch, true);
        let mut flight = fly(&queue, pages.task(), LONG);
        hand.work(hand.waiting());
        // First there: what was seen to be done is not looked at again.
        fork(|| assert!(!flight.is_done()));
        assert!(flight.is_done());
        assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
    }
}

/// A queue that a child may hold open is not known to be drained when it is closed: what is in quarantine stays.
#[test]
fn after_a_fork_the_parent_does_not_trust_the_closing_of_a_queue() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    let task = pages.task();
    let keep = Arc::downgrade(pages.source.keep());
    drop(pages);
    let (hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
    drop(fly(&queue, task, Duration::from_millis(1)));
    assert_eq!(queue.quarantined(), 1);
    fork(|| ());
    drop(queue);
    assert!(keep.strong_count() > 0);
    assert_eq!(hand.waiting(), 0);
}

#[test]
fn an_engine_does_not_run_in_a_child_nor_start() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    let (hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
    let engine = CompletionEngine::new();
    engine.start().unwrap();
    let ours = engine.hand_over(fly(&queue, pages.task(), LONG));
    fork(|| {
        assert!(!engine.is_running());
        engine.start().unwrap_err();
        assert!(!engine.stop());
        assert_eq!(engine.cpu_time(), None);
        let flight = Flight::new(&queue, pages.task(), LONG).unwrap();
        assert_eq!(engine.hand_over(flight).wait().unwrap().sent(), 0);
        // One of its own does.
        let engine = CompletionEngine::new();
        engine.start().unwrap();
        let (hand, own) = Hand::queue(Mode::Shared, 16, 8, true);
        let ticket = engine.hand_over(fly(&own, pages.task(), LONG));
        hand.work(1);
        assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
    });
    assert!(engine.is_running());
    hand.work(1);
    assert_eq!(answers(&ours.wait().unwrap()), pages.answers());
}

/// Drops a value as a child has it: a copy of the parent's memory.
///
/// # Safety
///
/// This is a child, and the value is not used again.
unsafe fn drop_inherited<T>(value: &T) {
    // SAFETY: by contract; the parent's own is in the parent.
    drop(unsafe { ptr::read(value) });
}

/// Forks while other threads hold any lock there is, and lets the child drop everything.
#[test]
fn a_child_can_drop_everything_whatever_other_threads_were_doing() {
    let pages = Pages::new(20, 64, |page| page % 2 == 0);
    let model = Model::start(vec![Device::new("busy", Device::LIMITS)]).unwrap();
    let queue = model.open(0).unwrap();
    let engine = CompletionEngine::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let ticket = engine.hand_over(fly(&queue, pages.task(), LONG));
                    assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                engine.start().unwrap();
                thread::yield_now();
                engine.stop();
            }
        });
        for _ in 0..60 {
            let flight = fly(&queue, pages.task(), LONG);
            let ticket = engine.hand_over(fly(&queue, pages.task(), LONG));
            let own = (flight, ticket, model.open(0).unwrap());
            fork(|| {
                // SAFETY: this is the child.
                unsafe { drop_inherited(&own) };
                // SAFETY: as above.
                unsafe { drop_inherited(&engine) };
                // SAFETY: as above.
                unsafe { drop_inherited(&model) };
            });
            let (flight, ticket, _idle) = own;
            assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
            assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
        }
        stop.store(true, Ordering::Relaxed);
    });
}
