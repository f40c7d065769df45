// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What reviewers said of QEMU's version, and what is wrong with it, each as a test of ours.
//!
//! | remark or defect | tests |
//! |---|---|
//! | `exit`, `assert(false)`, abort on a status that is not expected | `every_status_of_…` |
//! | the completion thread ends, and waiters wait for ever | `every_status_of_…`, `a_keep_that_panics_…` |
//! | one poller in order of submission: a slow device holds up a fast one | `a_silent_device_holds_up_nobody` |
//! | the result of submitting is ignored: a full queue is a deadlock | `a_queue_that_is_…`, `tenants_…` |
//! | the limit of polling is an iteration count | `a_deadline_is_a_time_…` |
//! | status compared with bit 7 | `bit_7_of_a_status_…`, `every_status_of_…` |
//! | batches larger than the queue allows | `a_count_that_the_queue_does_not_allow_…` |
//! | status read once by the compiler, start and stop reordered | atomics; `starting_and_stopping_…`, and the loom models |
//! | mappings leaked by a configuration that fails half way | `write_path.rs` |

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
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use by_hand::Hand;
use fly::{LONG, fly};
use idxd::{
    CompletionEngine, Flight, Kind, Limits, Mode, Queue, Status, SubmitError, Task, Ticket,
    WaitError,
    model::{Device, EntryFate, MemberFate, Model, Rate},
};
use pages::{Pages, answers};
use script::Script;

const PAGE: u32 = 4096;
/// Longer than the engine naps, and short beside a test.
const SHORT: Duration = Duration::from_millis(30);

fn started() -> CompletionEngine {
    let engine = CompletionEngine::new();
    assert!(engine.start().unwrap());
    engine
}

/// One device of the model, and its queue.
fn model(device: Device) -> (Model, Arc<Queue>) {
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    (model, queue)
}

fn deep() -> Limits {
    Limits {
        size: 2048,
        ..Device::LIMITS
    }
}

fn statuses(task: &Task) -> Vec<Status> {
    (0..task.len())
        .map(|index| task.completion(index).status)
        .collect()
}

fn batch_statuses(task: &Task) -> Vec<Status> {
    task.batch_completions().map(|said| said.status).collect()
}

fn byte(index: usize) -> u8 {
    u8::try_from(index % 256).unwrap()
}

#[test]
fn every_status_of_a_member_is_told_of_that_member_and_of_no_other() {
    let members = |index| match index {
        0..256 => MemberFate::Status(byte(index)),
        _ => MemberFate::Done,
    };
    let script = Script::new(|_| false, |_| EntryFate::Done, members);
    let (_model, queue) = model(Device::new("odd", deep()).behaviour(script));
    let engine = started();
    let odd = Pages::new(256, 64, |page| page % 3 == 0);
    let after = Pages::new(64, PAGE, |page| page % 3 == 0);
    // In this order, by one device: the trouble is all in the first task.
    let tickets = [&odd, &after].map(|pages| engine.hand_over(fly(&queue, pages.task(), LONG)));
    let [odd, fine] = tickets.map(|ticket| ticket.wait().unwrap());
    let expected: Vec<_> = (0..256).map(|index| Status::of_byte(byte(index))).collect();
    assert_eq!(statuses(&odd), expected);
    assert_eq!(batch_statuses(&odd), [Status::BATCH_FAIL; 2]);
    // Success is believed, and nothing else: bit 7 makes no sense beside it.
    let believed: Vec<_> = answers(&odd)
        .iter()
        .enumerate()
        .filter_map(|(index, answer)| answer.map(|_| index))
        .collect();
    assert_eq!(believed, [0x01]);
    assert_eq!(answers(&fine), after.answers());
    assert!(engine.is_running());
}

/// Every second entry gets the next status byte, the others are worked on. Byte 0 is no answer at all.
fn every_second_is_odd() -> Script {
    Script::entries(|index| match index % 2 {
        0 => EntryFate::Status(byte(index / 2)),
        _ => EntryFate::Done,
    })
}

/// Of 512 tasks in flight at once the odd ones get every status byte there is, and the others never notice.
fn every_status_of_an_entry(pages: &Pages, check: impl Fn(u8, &Task)) {
    let (_model, queue) = model(Device::new("odd", deep()).behaviour(every_second_is_odd()));
    let engine = started();
    let tickets: Vec<Ticket> = (0..512)
        .map(|index| {
            let patience = if index == 0 { SHORT } else { LONG };
            engine.hand_over(fly(&queue, pages.task(), patience))
        })
        .collect();
    for (index, ticket) in tickets.into_iter().enumerate() {
        let outcome = ticket.wait();
        if index == 0 {
            let error = outcome.unwrap_err();
            assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
        } else if index % 2 == 0 {
            check(byte(index / 2), &outcome.unwrap());
        } else {
            assert_eq!(answers(&outcome.unwrap()), pages.answers(), "{index}");
        }
    }
    assert!(engine.is_running());
    // Byte 0, which says that nothing was said.
    assert_eq!(queue.quarantined(), 1);
}

#[test]
fn every_status_of_a_batch_is_told_and_its_members_are_not_believed() {
    let pages = Pages::new(4, 64, |page| page % 2 == 0);
    every_status_of_an_entry(&pages, |byte, task| {
        assert_eq!(batch_statuses(task), [Status::of_byte(byte)]);
        // Also if the batch says that all is well: no member was worked on.
        assert_eq!(statuses(task), [Status::NONE; 4], "{byte:#x}");
    });
}

#[test]
fn every_status_of_a_lone_descriptor_is_told() {
    let pages = Pages::new(1, 64, |_| false);
    every_status_of_an_entry(&pages, |byte, task| {
        assert_eq!(statuses(task), [Status::of_byte(byte)]);
        let believed = Status::of_byte(byte) == Status::SUCCESS;
        assert_eq!(answers(task), [believed.then_some(false)], "{byte:#x}");
    });
}

#[test]
fn bit_7_of_a_status_says_that_the_access_was_a_write_and_nothing_else() {
    let (hand, queue) = Hand::queue(Mode::Shared, 4, 1, true);
    let pages = Pages::new(1, PAGE, |_| false);
    for byte in [0x03, 0x83] {
        let flight = fly(&queue, pages.task(), LONG);
        hand.answer(1, |descriptor| {
            // SAFETY: it was submitted, and is answered once.
            unsafe { records::complete(descriptor, byte, 0, 512) };
        });
        let said = flight.wait().unwrap().completion(0);
        assert_eq!(said.status, Status::PAGE_FAULT_NOBOF);
        assert!(said.status.is_page_fault());
        assert_eq!(said.completed, 512);
        assert_eq!(said.fault_addr, pages.source.address() + 512);
    }
}

/// The silent device's task is handed over first. With a poller that goes by that order, nothing else would ever be done: no
/// clock is needed to see it.
#[test]
fn a_silent_device_holds_up_nobody() {
    let (hand, slow) = Hand::queue(Mode::Shared, 16, 16, true);
    let (_model, fast) = model(Device::new("fast", Device::LIMITS));
    let engine = started();
    let pages = Pages::new(16, PAGE, |page| page % 3 == 0);
    let mut held = engine.hand_over(fly(&slow, pages.task(), LONG));
    for _ in 0..100 {
        let task = engine
            .hand_over(fly(&fast, pages.task(), LONG))
            .wait()
            .unwrap();
        assert_eq!(answers(&task), pages.answers());
        assert!(!held.is_ready());
    }
    // Nor do tasks of one queue wait for one another.
    let mut second = engine.hand_over(fly(&slow, pages.task(), LONG));
    assert_eq!(hand.waiting(), 2);
    hand.work(1);
    assert_eq!(answers(&held.wait().unwrap()), pages.answers());
    assert!(!second.is_ready());
    hand.work(1);
    assert_eq!(answers(&second.wait().unwrap()), pages.answers());
}

/// What a task of a device that takes a millisecond costs in time, alone and beside a device that does not answer. Printed;
/// only what no busy machine explains is an error.
#[test]
fn the_latency_of_a_fast_device_does_not_change_beside_a_slow_one() {
    let (hand, slow) = Hand::queue(Mode::Shared, 16, 16, true);
    let rate = Rate::Clock {
        bytes_per_second: 1e12,
        per_descriptor: Duration::from_micros(63),
    };
    let (_model, fast) = model(Device::new("fast", Device::LIMITS).rate(rate));
    let engine = started();
    let pages = Pages::new(16, 64, |_| false);
    let median = || {
        let mut times: Vec<Duration> = (0..51)
            .map(|_| {
                let begin = Instant::now();
                let ticket = engine.hand_over(fly(&fast, pages.task(), LONG));
                ticket.wait().unwrap();
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[25]
    };
    let alone = median();
    let mut held = engine.hand_over(fly(&slow, pages.task(), LONG));
    let beside = median();
    println!("latency alone {alone:?}, beside a silent device {beside:?}");
    assert!(
        beside < alone + Duration::from_millis(500),
        "{alone:?} {beside:?}"
    );
    assert!(!held.is_ready());
    hand.work(1);
    held.wait().unwrap();
}

#[test]
fn a_queue_that_is_always_full_takes_nothing_and_nobody_waits_for_it() {
    let script = Script::new(|_| true, |_| EntryFate::Done, |_| MemberFate::Done);
    let (model, queue) = model(Device::new("full", Device::LIMITS).behaviour(script));
    let engine = started();
    let pages = Pages::new(4, PAGE, |_| true);
    let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
    for _ in 0..100 {
        assert!(!flight.submit().unwrap());
    }
    assert_eq!(flight.sent(), 0);
    let task = engine.hand_over(flight).wait().unwrap();
    assert_eq!((task.sent(), statuses(&task)), (0, vec![Status::NONE; 4]));
    assert_eq!((model.counts(0).full, model.counts(0).taken), (100, 0));
}

#[test]
fn a_queue_that_is_full_on_the_way_keeps_what_it_took_and_the_rest_follows_or_not() {
    let pages = Pages::new(10, 64, |page| page % 2 == 0);
    // Lone descriptors, batches of three, and a last batch that is not taken.
    for (room, max_batch, sent) in [(4, 1, 4), (2, 3, 6), (3, 3, 8)] {
        let (hand, queue) = Hand::queue(Mode::Shared, room, max_batch, true);
        let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
        assert!(!flight.submit().unwrap());
        assert!(!flight.submit().unwrap());
        assert_eq!(flight.sent(), sent);
        hand.work(room as usize);
        let task = flight.wait().unwrap();
        let mut expected = pages.answers();
        expected[sent..].fill(None);
        assert_eq!((task.sent(), answers(&task)), (sent, expected));
        // The same task again, with somebody at work: nothing of the first time is taken for an answer.
        let mut flight = Flight::new(&queue, task, LONG).unwrap();
        while !flight.submit().unwrap() {
            assert!(!flight.is_done());
            hand.work(1);
        }
        assert!(!flight.is_done());
        hand.work(hand.waiting());
        assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
    }
}

/// Runs so many rounds on each of eight threads, and wants every answer.
fn eight_threads(queue: &Arc<Queue>, engine: &CompletionEngine, rounds: usize) {
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..rounds {
                    let pages = Pages::new(1 + (thread + round) % 40, 64, |page| page % 3 == 0);
                    let flight = fly(queue, pages.task(), LONG);
                    let task = match round % 3 {
                        0 => flight.wait(),
                        _ => engine.hand_over(flight).wait(),
                    };
                    assert_eq!(answers(&task.unwrap()), pages.answers());
                }
            });
        }
    });
}

#[test]
fn tenants_that_fill_a_queue_delay_work_and_lose_none() {
    let script = Script::new(|n| n % 3 != 0, |_| EntryFate::Done, |_| MemberFate::Done);
    let small = Limits {
        size: 4,
        max_batch: 8,
        ..Device::LIMITS
    };
    let (model, queue) = model(Device::new("shared", small).behaviour(script));
    eight_threads(&queue, &started(), 30);
    let members: usize = (0..8 * 30).map(|n| 1 + (n / 30 + n % 30) % 40).sum();
    let counts = model.counts(0);
    assert_eq!(counts.descriptors, members as u64);
    assert!(counts.full > 0);
    assert_eq!(counts.dropped, 0);
}

#[test]
fn a_dedicated_queue_is_never_given_more_than_it_holds() {
    for max_batch in [1, 8] {
        let dedicated = Limits {
            mode: Mode::Dedicated,
            size: 5,
            max_batch,
            ..Device::LIMITS
        };
        let late = Script::entries(|n| match n % 10 {
            0 => EntryFate::Late(Duration::from_micros(200)),
            _ => EntryFate::Done,
        });
        let (model, queue) = model(Device::new("own", dedicated).behaviour(late));
        eight_threads(&queue, &started(), 20);
        let counts = model.counts(0);
        assert_eq!((counts.dropped, counts.full), (0, 0));
        assert!(counts.taken > 0);
    }
}

/// What timed out still takes its place in a dedicated queue, until the device has answered.
#[test]
fn credits_come_back_with_late_answers() {
    let (hand, queue) = Hand::queue(Mode::Dedicated, 3, 1, true);
    let pages = Pages::new(3, 64, |page| page == 1);
    let error = fly(&queue, pages.task(), Duration::ZERO)
        .wait()
        .unwrap_err();
    assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
    let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
    assert!(!flight.submit().unwrap());
    assert_eq!((flight.sent(), hand.waiting()), (0, 3));
    // Part of the answer is none: the task is answered when all of it is.
    hand.work(2);
    assert!(!flight.submit().unwrap());
    hand.work(1);
    assert!(flight.submit().unwrap());
    assert_eq!((flight.sent(), hand.waiting()), (3, 3));
    hand.work(3);
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
    // And all of them are there again, once.
    let mut large = Flight::new(&queue, Pages::new(4, 64, |_| true).task(), LONG).unwrap();
    assert!(!large.submit().unwrap());
    assert_eq!(large.sent(), 3);
    hand.work(3);
    assert_eq!(large.wait().unwrap().sent(), 3);
}

#[test]
fn a_deadline_is_a_time_and_a_late_answer_ends_the_quarantine() {
    let pages = Pages::new(4, 64, |page| page == 1);
    for engine in [None, Some(started())] {
        let (hand, queue) = Hand::queue(Mode::Shared, 4, 4, true);
        let begin = Instant::now();
        let flight = fly(&queue, pages.task(), SHORT);
        let outcome = match &engine {
            None => flight.wait(),
            Some(engine) => engine.hand_over(flight).wait(),
        };
        assert!(begin.elapsed() >= SHORT);
        let expected = WaitError::TimedOut {
            queue: "by hand".to_owned(),
            after: SHORT,
        };
        assert_eq!(outcome.unwrap_err(), expected);
        assert_eq!(queue.quarantined(), 1);
        hand.work(1);
        assert_eq!(queue.quarantined(), 0);
        // Both go on as before.
        let flight = fly(&queue, pages.task(), LONG);
        hand.work(1);
        assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
        assert!(engine.is_none_or(|engine| engine.is_running()));
    }
}

#[test]
fn somebody_with_endless_patience_waits_like_others() {
    let (hand, queue) = Hand::queue(Mode::Shared, 4, 4, true);
    let pages = Pages::new(4, 64, |page| page == 1);
    let flight = fly(&queue, pages.task(), Duration::MAX);
    hand.work(1);
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
}

#[test]
fn a_list_that_cannot_be_read_to_its_end_leaves_the_rest_without_answers() {
    let pages = Pages::new(8, 64, |page| page % 2 == 0);
    for readable in 0..8 {
        let fault = move |_| EntryFate::ListFault(readable);
        let device = Device::new("torn", Device::LIMITS).behaviour(Script::entries(fault));
        let (_model, queue) = model(device);
        let task = fly(&queue, pages.task(), LONG).wait().unwrap();
        let mut expected = pages.answers();
        expected[readable as usize..].fill(None);
        assert_eq!(answers(&task), expected);
        let batches: Vec<_> = task.batch_completions().collect();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].status, Status::BATCH_PAGE_FAULT);
        assert_eq!(batches[0].completed, readable);
    }
}

/// What QEMU's documentation leads to: the queue allows 32, and is believed to allow more.
#[test]
fn a_count_that_the_queue_does_not_allow_is_an_error_of_that_batch() {
    let real = Limits {
        max_batch: 32,
        ..Device::LIMITS
    };
    let believed = Limits {
        max_batch: 1024,
        ..Device::LIMITS
    };
    let model = Model::start(vec![Device::new("default", real)]).unwrap();
    let engine = started();
    let pages = Pages::new(300, 64, |page| page % 2 == 0);
    let wrong = model.open_as(0, believed).unwrap();
    let right = model.open(0).unwrap();
    let [wrong, right] = [wrong, right]
        .map(|queue| engine.hand_over(fly(&queue, pages.task(), LONG)))
        .map(|ticket| ticket.wait().unwrap());
    assert_eq!(batch_statuses(&wrong), [Status::DESC_CNT_ERANGE]);
    assert_eq!(statuses(&wrong), [Status::NONE; 300]);
    assert_eq!(batch_statuses(&right), [Status::SUCCESS; 10]);
    assert_eq!(answers(&right), pages.answers());
    assert_eq!(model.counts(0).largest_batch, 32);
}

#[test]
fn a_port_that_refuses_is_an_error_of_the_submitter_and_of_nobody_else() {
    let device = Device::new("written to", Device::LIMITS).by_write();
    let model = Model::start(vec![device]).unwrap();
    let pages = Pages::new(8, 64, |page| page % 2 == 0);
    // Believes that there are batches, which `write` refuses.
    let wrong = model.open_as(0, Device::LIMITS).unwrap();
    let mut refused = Flight::new(&wrong, pages.task(), LONG).unwrap();
    let error = refused.submit().unwrap_err();
    assert!(matches!(error, SubmitError::Port { .. }), "{error}");
    let task = refused.wait().unwrap();
    assert_eq!((task.sent(), statuses(&task)), (0, vec![Status::NONE; 8]));
    let right = model.open(0).unwrap();
    let task = fly(&right, task, LONG).wait().unwrap();
    assert_eq!(answers(&task), pages.answers());
    // For another kind of device, the task comes back.
    let other = Task::with_capacity(Kind::Iax, 1).unwrap();
    let (other, error) = Flight::new(&right, other, LONG).unwrap_err();
    assert!(matches!(error, SubmitError::Kind { .. }), "{error}");
    assert_eq!(other.kind(), Kind::Iax);
}

/// Four submit, and three start and stop the engine, all at once. Every third entry is late, one in 50 is never answered.
#[test]
fn starting_and_stopping_from_many_threads_loses_no_task() {
    let script = Script::entries(|n| match n {
        n if n % 50 == 49 => EntryFate::Silent,
        n if n % 3 == 0 => EntryFate::Late(Duration::from_micros(300)),
        _ => EntryFate::Done,
    });
    let (_model, queue) = model(Device::new("late", deep()).behaviour(script));
    let engine = CompletionEngine::new();
    let busy = AtomicUsize::new(4);
    let [starts, stops] = [const { AtomicUsize::new(0) }; 2];
    let (done, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let pages = Pages::new(8, 64, |page| page % 3 == 0);
                for _ in 0..100 {
                    match engine.hand_over(fly(&queue, pages.task(), SHORT)).wait() {
                        Ok(task) => {
                            assert_eq!(answers(&task), pages.answers());
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(WaitError::TimedOut { .. }) => _ = late.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("{error}"),
                    }
                }
                busy.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                while busy.load(Ordering::SeqCst) > 0 {
                    starts.fetch_add(usize::from(engine.start().unwrap()), Ordering::Relaxed);
                    thread::yield_now();
                    stops.fetch_add(usize::from(engine.stop()), Ordering::Relaxed);
                }
            });
        }
    });
    let all = done.into_inner() + late.load(Ordering::Relaxed);
    assert_eq!(all, 400);
    // A machine that is busy may add to these.
    assert!(late.into_inner() >= 8);
    let (starts, stops) = (starts.into_inner(), stops.into_inner());
    let running = usize::from(engine.stop());
    assert_eq!(starts, stops + running);
    assert!(starts > 1, "{starts}");
}

/// Says so when it is dropped, and panics.
struct Cursed(Arc<AtomicBool>);

impl Drop for Cursed {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        panic!("a test's keep, dropped by whoever was last");
    }
}

#[test]
fn a_keep_that_panics_on_the_engines_thread_ends_nobody_elses_wait() {
    let (hand, queue) = Hand::queue(Mode::Shared, 8, 1, true);
    let engine = started();
    let pages = Pages::new(1, 64, |_| true);
    let dropped = Arc::new(AtomicBool::new(false));
    let keep: idxd::Keep = Arc::new(Cursed(Arc::clone(&dropped)));
    let mut task = Task::with_capacity(Kind::Dsa, 1).unwrap();
    let descriptor = idxd::Descriptor::compval(pages.source.address(), 64, 0);
    // SAFETY: the pages outlive the test.
    unsafe { task.push(descriptor, &keep) }.unwrap();
    drop(keep);
    // The first is answered, and nobody waits for it: the engine drops it, before it looks at the second.
    drop(engine.hand_over(fly(&queue, task, LONG)));
    let mut other = engine.hand_over(fly(&queue, pages.task(), LONG));
    assert!(!dropped.load(Ordering::SeqCst));
    assert!(!other.is_ready());
    hand.work(2);
    let task = other.wait().unwrap();
    assert_eq!(answers(&task), pages.answers());
    let after = engine.hand_over(fly(&queue, task, LONG));
    hand.work(1);
    assert_eq!(answers(&after.wait().unwrap()), pages.answers());
    assert!(engine.is_running());
    assert!(engine.stop());
    assert!(dropped.load(Ordering::SeqCst));
    assert!(engine.start().unwrap());
}

/// Not compared: how much depends on the machine. One thread for all devices was accepted by reviewers for its CPU time.
#[test]
fn one_poller_beside_one_for_each_device_is_printed() {
    let devices = |_| {
        Device::new("clock", Device::LIMITS)
            .rate(Rate::bytes_per_second(2e9))
            .prepared(Arc::new(|_, _| false))
    };
    let pages = Pages::new(128, PAGE, |_| false);
    for engines in [1, 4] {
        let model = Model::start((0..4).map(devices).collect()).unwrap();
        let queues: Vec<_> = (0..4).map(|device| model.open(device).unwrap()).collect();
        let engines: Vec<_> = (0..engines).map(|_| started()).collect();
        thread::scope(|scope| {
            for (index, queue) in queues.iter().enumerate() {
                let engine = &engines[index % engines.len()];
                let pages = &pages;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let flight = fly(queue, pages.task(), LONG);
                        let task = engine.hand_over(flight).wait().unwrap();
                        assert_eq!(answers(&task), pages.answers());
                    }
                });
            }
        });
        let times: Option<Duration> = engines.iter().map(CompletionEngine::cpu_time).sum();
        let pages = 4 * 200 * 128;
        match times {
            Some(time) => println!(
                "{} poller(s) for 4 devices: {time:?} of CPU time, {} ns a page",
                engines.len(),
                time.as_nanos() / pages
            ),
            None => println!("skipped: the kernel tells no CPU times of threads"),
        }
    }
}

#[test]
fn a_ticket_whose_time_is_over_is_ready() {
    let pages = Pages::new(4, 64, |_| false);
    for engine in [CompletionEngine::new(), started()] {
        let (_hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
        let mut ticket = engine.hand_over(fly(&queue, pages.task(), SHORT));
        while !ticket.is_ready() {
            thread::yield_now();
        }
        assert!(matches!(ticket.wait(), Err(WaitError::TimedOut { .. })));
    }
}

#[test]
fn a_device_that_has_left_many_tasks_unanswered_gets_no_more() {
    let pages = Pages::new(4, 64, |_| false);
    let (hand, queue) = Hand::queue(Mode::Shared, 1024, 8, true);
    let error = loop {
        let mut flight = Flight::new(&queue, pages.task(), Duration::ZERO).unwrap();
        match flight.submit() {
            Ok(all) => assert!(all),
            Err(error) => break error,
        }
        assert!(flight.wait().is_err());
    };
    assert!(
        matches!(error, SubmitError::Unanswered { tasks: 64, .. }),
        "{error}"
    );
    // It answers after all.
    hand.work(hand.waiting());
    assert_eq!(queue.quarantined(), 0);
    let flight = fly(&queue, pages.task(), LONG);
    hand.work(1);
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
}

/// What keeps a guest's memory may be what owns the engine, too: the last of it goes on the engine's own thread.
#[test]
fn an_engine_may_be_dropped_by_its_own_thread() {
    let engine = Arc::new(started());
    let (hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
    let bytes: &'static [u8] = Box::leak(vec![0_u8; 4096].into_boxed_slice());
    let keep: idxd::Keep = Arc::new(Arc::clone(&engine));
    // SAFETY: it is never freed.
    let source =
        unsafe { idxd::Source::new(std::ptr::NonNull::from(bytes).cast(), 4096, keep) }.unwrap();
    let mut task = Task::with_capacity(Kind::Dsa, 2).unwrap();
    task.push_compval(&source, 0, 4096, 0).unwrap();
    let last = Arc::downgrade(&engine);
    let ticket = engine.hand_over(fly(&queue, task, LONG));
    drop((ticket, source, engine));
    assert!(last.upgrade().is_some());
    hand.work(1);
    while last.strong_count() > 0 {
        thread::yield_now();
    }
}

#[test]
fn waiting_for_a_while_tells_whether_there_is_anything_to_wait_for() {
    let pages = Pages::new(4, 64, |page| page % 2 == 0);
    for engine in [CompletionEngine::new(), started()] {
        let (hand, queue) = Hand::queue(Mode::Shared, 16, 8, true);
        let mut ticket = engine.hand_over(fly(&queue, pages.task(), LONG));
        assert!(!ticket.wait_until(Instant::now() + Duration::from_millis(2)));
        assert!(!ticket.wait_until(Instant::now()));
        hand.work(1);
        assert!(ticket.wait_until(Instant::now() + LONG));
        assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
        // One that is never answered is over.
        let mut ticket = engine.hand_over(fly(&queue, pages.task(), SHORT));
        assert!(ticket.wait_until(Instant::now() + LONG));
        assert!(matches!(ticket.wait(), Err(WaitError::TimedOut { .. })));
    }
}
