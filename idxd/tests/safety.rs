// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Nothing is freed that a device may still read or write, and everything is when it no longer can.
//!
//! Two witnesses: the keep of a source, which is alive exactly as long as somebody holds the task's memory; and
//! AddressSanitizer, under which a device's late write to freed memory ends the test:
//!
//! `RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 cargo +nightly test -p parapin-idxd --features model --target
//! x86_64-unknown-linux-gnu`
//!
//! (Leaks: what cannot be drained is never freed, on purpose.)

#![cfg(feature = "model")]
#![expect(unsafe_code, reason = "plays a device by hand")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/by_hand.rs"]
mod by_hand;
#[path = "stage/fly.rs"]
mod fly;
#[path = "stage/pages.rs"]
mod pages;
#[path = "stage/records.rs"]
mod records;
#[path = "stage/script.rs"]
mod script;

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use by_hand::Hand;
use fly::{LONG, fly};
use idxd::{
    CompletionEngine, Flight, Mode, Queue, Task,
    model::{Device, EntryFate, Model},
};
use pages::{Pages, answers};
use script::Script;

/// Knows whether anybody holds the pages.
struct Witness(Weak<dyn Any + Send + Sync>);

impl Witness {
    /// A task whose memory nobody else holds.
    fn task(pages: usize) -> (Self, Task) {
        let pages = Pages::new(pages, 64, |page| page % 3 == 0);
        let witness = Self(Arc::downgrade(pages.source.keep()));
        (witness, pages.task())
    }

    fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The flight is put somewhere where it has to be waited for. Returns after the device has answered, and the wait has ended.
fn ends_with_the_answer(queue: &Arc<Queue>, hand: &Hand, wait: impl FnOnce(Flight) + Send) {
    let (witness, task) = Witness::task(6);
    let flight = fly(queue, task, LONG);
    let entries = hand.waiting();
    let (begun, begins) = mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            begun.send(()).unwrap();
            wait(flight);
        });
        begins.recv().unwrap();
        for _ in 0..entries {
            assert!(witness.is_held());
            assert!(!waiter.is_finished());
            hand.work(1);
        }
    });
    assert!(!witness.is_held());
    assert_eq!(queue.quarantined(), 0);
}

#[test]
fn a_flight_that_is_dropped_waits_for_the_device() {
    // As one batch, as two, and without.
    for max_batch in [8, 3, 1] {
        let (hand, queue) = Hand::queue(Mode::Dedicated, 8, max_batch, true);
        ends_with_the_answer(&queue, &hand, drop);
        ends_with_the_answer(&queue, &hand, |flight| _ = flight.wait().unwrap());
    }
}

#[test]
fn a_panic_with_flights_under_way_waits_for_the_device() {
    let (hand, queue) = Hand::queue(Mode::Shared, 8, 2, true);
    ends_with_the_answer(&queue, &hand, |flight| {
        let end = panic::catch_unwind(AssertUnwindSafe(|| {
            let _flight = flight;
            panic!("a submitter's");
        }));
        end.unwrap_err();
    });
}

#[test]
fn a_ticket_that_is_dropped_cancels_nothing() {
    let (hand, queue) = Hand::queue(Mode::Shared, 8, 2, true);
    let engine = CompletionEngine::new();
    ends_with_the_answer(&queue, &hand, |flight| drop(engine.hand_over(flight)));
    engine.start().unwrap();
    ends_with_the_answer(&queue, &hand, |flight| {
        drop(engine.hand_over(flight));
        // It goes home when it has nothing left to wait for.
        engine.stop();
    });
    engine.start().unwrap();
    ends_with_the_answer(&queue, &hand, |flight| {
        let ticket = engine.hand_over(flight);
        let end = panic::catch_unwind(AssertUnwindSafe(|| {
            let _ticket = ticket;
            panic!("a submitter's");
        }));
        end.unwrap_err();
        engine.stop();
    });
}

#[test]
fn an_engine_that_is_dropped_waits_for_the_device() {
    let (hand, queue) = Hand::queue(Mode::Shared, 8, 2, true);
    ends_with_the_answer(&queue, &hand, |flight| {
        let engine = CompletionEngine::new();
        engine.start().unwrap();
        let ticket = engine.hand_over(flight);
        drop(engine);
        drop(ticket);
    });
}

/// Lets a task run out of time, in each of the ways in which that is noticed.
fn timed_out(queue: &Arc<Queue>, way: usize) -> Witness {
    let (witness, task) = Witness::task(6);
    let flight = fly(queue, task, Duration::from_millis(1));
    match way {
        0 => _ = flight.wait().unwrap_err(),
        1 => drop(flight),
        _ => {
            let engine = CompletionEngine::new();
            engine.start().unwrap();
            let ticket = engine.hand_over(flight);
            match way {
                2 => _ = ticket.wait().unwrap_err(),
                _ => drop(ticket),
            }
        }
    }
    witness
}

#[test]
fn what_timed_out_is_held_until_the_late_answer() {
    for way in 0..4 {
        let (hand, queue) = Hand::queue(Mode::Dedicated, 8, 2, true);
        let witness = timed_out(&queue, way);
        // Half of it is answered late: the other half may still be written to.
        hand.work(2);
        assert_eq!(queue.quarantined(), 1);
        assert!(witness.is_held());
        hand.work(1);
        assert_eq!(queue.quarantined(), 0);
        assert!(!witness.is_held());
    }
}

#[test]
fn what_timed_out_is_held_until_the_queue_is_closed() {
    for way in 0..4 {
        let (hand, queue) = Hand::queue(Mode::Shared, 8, 2, true);
        let witness = timed_out(&queue, way);
        let another = Arc::clone(&queue);
        drop(queue);
        assert!(witness.is_held());
        hand.work(1);
        drop(another);
        assert!(!witness.is_held());
        assert_eq!(hand.waiting(), 0);
    }
}

/// A port that cannot say that it is drained: its device may write as long as the process lives.
#[test]
fn what_cannot_be_drained_is_never_freed() {
    for way in 0..4 {
        let (hand, queue) = Hand::queue(Mode::Shared, 16, 2, false);
        let witness = timed_out(&queue, way);
        let answered = timed_out(&queue, way);
        let rest = hand.waiting() / 2;
        drop(queue);
        assert!(witness.is_held() && answered.is_held());
        hand.work(rest);
        hand.work(rest);
        assert!(witness.is_held());
    }
}

/// The same, but the device was done when the queue was closed.
#[test]
fn what_was_answered_late_is_freed_also_without_a_drain() {
    let (hand, queue) = Hand::queue(Mode::Shared, 16, 2, false);
    let [answered, not] = [0, 1].map(|way| timed_out(&queue, way));
    hand.work(3);
    drop(queue);
    assert!(!answered.is_held());
    assert!(not.is_held());
}

#[test]
fn a_queue_lives_as_long_as_its_flights() {
    let (hand, queue) = Hand::queue(Mode::Shared, 8, 8, true);
    let closed = Arc::downgrade(&queue);
    let (witness, task) = Witness::task(6);
    let flight = fly(&queue, task, LONG);
    drop(queue);
    assert!(closed.strong_count() > 0);
    hand.work(1);
    let task = flight.wait().unwrap();
    assert_eq!(closed.strong_count(), 0);
    // The task is a task, and holds what its descriptors name until it is cleared.
    assert!(witness.is_held());
    drop(task);
    assert!(!witness.is_held());
}

/// A task that came back is as good as a new one, also if nobody cleared it: the device's last answers are not taken for
/// those to come, which would give the memory back while the device still writes.
#[test]
fn a_task_that_is_submitted_again_waits_again() {
    let pages = Pages::new(6, 64, |page| page % 2 == 0);
    for max_batch in [8, 3, 1] {
        let (hand, queue) = Hand::queue(Mode::Shared, 8, max_batch, true);
        let mut task = pages.task();
        for _ in 0..3 {
            let mut flight = fly(&queue, task, LONG);
            for _ in 0..hand.waiting() {
                assert!(!flight.is_done(), "{max_batch}");
                hand.work(1);
            }
            task = flight.wait().unwrap();
            assert_eq!(answers(&task), pages.answers());
        }
        // Through a queue that takes nothing, there are no answers at all.
        let (_, full) = Hand::queue(Mode::Shared, 0, max_batch, true);
        let task = Flight::new(&full, task, LONG).unwrap().wait().unwrap();
        assert_eq!(answers(&task), [None; 6]);
        assert_eq!(task.batch_completions().count(), 0);
    }
}

/// Where a flight is given up.
#[derive(Clone, Copy)]
enum GivenUp {
    Dropped,
    Waited,
    Panicked,
    HandedOver,
    Ticket,
    TimedOut,
    Forgotten,
}

const EVERYWHERE: [GivenUp; 7] = [
    GivenUp::Dropped,
    GivenUp::Waited,
    GivenUp::Panicked,
    GivenUp::HandedOver,
    GivenUp::Ticket,
    GivenUp::TimedOut,
    GivenUp::Forgotten,
];

fn give_up(flight: Flight, engine: &CompletionEngine, at: GivenUp) {
    match at {
        GivenUp::Dropped | GivenUp::TimedOut => drop(flight),
        GivenUp::Waited => _ = flight.wait(),
        GivenUp::Panicked => {
            // Without the hook, which would print it some hundred times.
            let end = panic::catch_unwind(AssertUnwindSafe(|| {
                let _flight = flight;
                panic::resume_unwind(Box::new("a submitter's"));
            }));
            end.unwrap_err();
        }
        GivenUp::HandedOver => _ = engine.hand_over(flight).wait(),
        GivenUp::Ticket => drop(engine.hand_over(flight)),
        GivenUp::Forgotten => std::mem::forget(flight),
    }
}

/// Every way to give a flight up, at every time from before the device begins to after it is done, while a model writes.
/// AddressSanitizer sees what it writes to.
#[test]
fn a_model_that_writes_late_finds_its_memory_wherever_a_flight_is_given_up() {
    let late = Script::entries(|n| EntryFate::Late(Duration::from_micros(n as u64 * 37 % 3_000)));
    let model = Model::start(vec![Device::new("late", Device::LIMITS).behaviour(late)]).unwrap();
    let engine = CompletionEngine::new();
    let mut entries = 0;
    for round in 0..30 {
        if round % 2 == 0 {
            engine.start().unwrap();
        }
        let queue = model.open(0).unwrap();
        for at in EVERYWHERE {
            let patience = match at {
                GivenUp::TimedOut => Duration::from_micros(round * 40),
                _ => LONG,
            };
            let (_, task) = Witness::task(6);
            let flight = fly(&queue, task, patience);
            entries += 1;
            // Not hoped for: any moment will do.
            let pause = round * 29 % 700;
            thread::sleep(Duration::from_micros(pause));
            give_up(flight, &engine, at);
        }
        if round % 3 == 0 {
            engine.stop();
        }
        drop(queue);
    }
    drop(engine);
    assert_eq!(model.counts(0).taken, entries);
}

/// A queue that is closed while the model works for it: nothing is written afterwards.
#[test]
fn a_model_writes_nothing_after_a_queue_was_closed() {
    let late = Script::entries(|n| EntryFate::Late(Duration::from_micros(n as u64 * 13 % 400)));
    let model = Model::start(vec![Device::new("late", Device::LIMITS).behaviour(late)]).unwrap();
    for round in 0..200 {
        let queue = model.open(0).unwrap();
        let witnesses: Vec<Witness> = (0..4)
            .map(|_| {
                let (witness, task) = Witness::task(40);
                drop(fly(&queue, task, Duration::from_micros(round)));
                witness
            })
            .collect();
        drop(queue);
        assert!(
            witnesses.iter().all(|witness| !witness.is_held()),
            "{round}"
        );
    }
}
