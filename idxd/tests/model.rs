// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rules of the model: what a device refuses, in which order it does things, how fast it is, and what goes wrong when it is
//! told to.

#![cfg(feature = "model")]
#![expect(
    unsafe_code,
    reason = "gives descriptors to the model that no safe function makes"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/fly.rs"]
mod fly;
#[path = "stage/pages.rs"]
mod pages;
#[path = "stage/script.rs"]
mod script;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use fly::{LONG, fly};
use idxd::{
    Completion, Descriptor, Flags, Flight, Keep, Kind, Limits, Source, Status, SubmitError, Task,
    model::{Chances, Counts, Device, EntryFate, MemberFate, Model, Random, Rate},
};
use pages::{Pages, answers};
use script::Script;

const SHORT: Duration = Duration::from_millis(50);

/// Believes that there are no batches, so that a batch can be given to it by hand.
const LONE: Limits = Limits {
    max_batch: 1,
    ..Device::LIMITS
};

fn honest() -> Model {
    Model::start(vec![Device::new("honest", Device::LIMITS)]).unwrap()
}

/// A task of these descriptors.
fn task(descriptors: &[Descriptor], keep: &Keep) -> Task {
    let mut task = Task::with_capacity(Kind::Dsa, descriptors.len()).unwrap();
    for descriptor in descriptors {
        // SAFETY: each test keeps what they name.
        unsafe { task.push(*descriptor, keep) }.unwrap();
    }
    task
}

fn said(task: &Task) -> Vec<Completion> {
    (0..task.len())
        .map(|index| task.completion(index))
        .collect()
}

fn statuses(task: &Task) -> Vec<Status> {
    said(task).iter().map(|said| said.status).collect()
}

/// The descriptor with other bytes from `at` on.
fn with_bytes(descriptor: Descriptor, at: usize, bytes: &[u8]) -> Descriptor {
    let mut all = descriptor.to_bytes();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    Descriptor::from_bytes(&all)
}

/// Descriptors that are refused or not, whether they are alone or in a batch.
fn cases(address: u64) -> Vec<(Descriptor, Status)> {
    let good = Descriptor::compval(address, 64, 0);
    let records = Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD;
    let mut cases = vec![
        (good, Status::SUCCESS),
        (Descriptor::noop(), Status::SUCCESS),
        (Descriptor::compval(address, 0, 0), Status::XFER_ERANGE),
        (Descriptor::memfill(address, 0, 0), Status::XFER_ERANGE),
        (
            Descriptor::compval(address, (2 << 20) + 1, 0),
            Status::XFER_ERANGE,
        ),
        (with_bytes(good, 7, &[0x05]), Status::BAD_OPCODE),
        (with_bytes(good, 7, &[0xff]), Status::BAD_OPCODE),
        // Of IAA.
        (with_bytes(good, 7, &[0x43]), Status::BAD_OPCODE),
        (
            good.with_flags(records | Flags::BLOCK_ON_FAULT),
            Status::INVALID_FLAGS,
        ),
        (
            good.with_flags(records | Flags::REQUEST_COMPLETION_INTERRUPT),
            Status::INVALID_FLAGS,
        ),
        (
            good.with_flags(records | Flags::READ_SOURCE_2_AECS),
            Status::INVALID_FLAGS,
        ),
        (good.with_flags(records | Flags::FENCE), Status::SUCCESS),
    ];
    // PASID, interrupt handle, and all behind it.
    for at in (0..4).chain(36..64) {
        cases.push((with_bytes(good, at, &[1]), Status::NOZERO_RESERVE));
    }
    cases
}

#[test]
fn what_is_wrong_with_a_descriptor_is_its_status_alone_and_in_a_batch() {
    let model = honest();
    let pages = Pages::new(1, 64, |_| false);
    let cases = cases(pages.source.address());
    let descriptors: Vec<_> = cases.iter().map(|case| case.0).collect();
    let expected: Vec<_> = cases.iter().map(|case| case.1).collect();
    for limits in [LONE, Device::LIMITS] {
        let queue = model.open_as(0, limits).unwrap();
        let task = fly(&queue, task(&descriptors, pages.source.keep()), LONG);
        assert_eq!(statuses(&task.wait().unwrap()), expected, "{limits:?}");
    }
    let members = cases.len() as u64;
    assert_eq!(
        model.counts(0),
        Counts {
            taken: members + 1,
            batches: 1,
            descriptors: 2 * members,
            largest_batch: u32::try_from(members).unwrap(),
            ..Counts::default()
        }
    );
}

/// A list whose records are its own, in memory that is kept.
fn list(descriptors: &[Descriptor]) -> (Vec<[AtomicU64; 8]>, Vec<Descriptor>) {
    let records: Vec<_> = (0..=descriptors.len())
        .map(|_| <[AtomicU64; 8]>::default())
        .collect();
    let first = records.as_ptr().expose_provenance() as u64;
    let aligned = first.next_multiple_of(64);
    let placed = descriptors
        .iter()
        .enumerate()
        .map(|(index, descriptor)| descriptor.completing_at(aligned + index as u64 * 64));
    (records, placed.collect())
}

#[test]
fn a_batch_is_refused_by_count_and_alignment_and_inside_another() {
    let model = honest();
    let queue = model.open_as(0, LONE).unwrap();
    let (records, list) = list(&[Descriptor::noop(); 129]);
    let list = Arc::new((list, records));
    let address = list.0.as_ptr().expose_provenance() as u64;
    let blocking =
        Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD | Flags::BLOCK_ON_FAULT;
    let batches = [
        (Descriptor::batch(address, 0), Status::DESC_CNT_ERANGE),
        (Descriptor::batch(address, 1), Status::DESC_CNT_ERANGE),
        (Descriptor::batch(address, 129), Status::DESC_CNT_ERANGE),
        (Descriptor::batch(address + 32, 2), Status::DESCLIST_ALIGN),
        (
            Descriptor::batch(address, 2).with_flags(blocking),
            Status::INVALID_FLAGS,
        ),
        (Descriptor::batch(address, 2), Status::SUCCESS),
        (Descriptor::batch(address, 128), Status::SUCCESS),
    ];
    let keep: Keep = list;
    let alone = task(&batches.map(|case| case.0), &keep);
    let alone = fly(&queue, alone, LONG).wait().unwrap();
    assert_eq!(statuses(&alone), batches.map(|case| case.1));
    // As members of a batch, neither batches nor drains are known.
    let nested = [batches[6].0, Descriptor::drain(), Descriptor::noop()];
    let nested = task(&nested, &keep);
    let nested = fly(&model.open(0).unwrap(), nested, LONG).wait().unwrap();
    let expected = [Status::BAD_OPCODE, Status::BAD_OPCODE, Status::SUCCESS];
    assert_eq!(statuses(&nested), expected);
    let outer: Vec<_> = nested.batch_completions().collect();
    assert_eq!(
        (outer[0].status, outer[0].completed),
        (Status::BATCH_FAIL, 3)
    );
}

/// Records of a DSA's size are not aligned, every second time, for an IAA.
#[test]
fn a_record_that_is_not_aligned_is_dropped_or_refused() {
    let limits = Limits {
        kind: Kind::Iax,
        ..LONE
    };
    let through_portal = Device::new("iax", limits);
    let written = Device::new("iax, written to", limits).by_write();
    let model = Model::start(vec![through_portal, written]).unwrap();
    let keep: Keep = Arc::new(());
    let two = || task(&[Descriptor::noop(); 2], &keep);
    let queue = model.open_as(0, LONE).unwrap();
    fly(&queue, two(), SHORT).wait().unwrap_err();
    assert_eq!((model.counts(0).taken, model.counts(0).dropped), (2, 1));
    let queue = model.open_as(1, LONE).unwrap();
    let mut flight = Flight::new(&queue, two(), LONG).unwrap();
    assert!(!flight.submit().unwrap());
    let error = flight.submit().unwrap_err();
    assert!(matches!(error, SubmitError::Port { .. }), "{error}");
    let task = flight.wait().unwrap();
    assert_eq!(statuses(&task), [Status::SUCCESS, Status::NONE]);
}

#[test]
fn a_comparison_tells_the_first_difference_and_a_fill_fills() {
    let model = honest();
    let queue = model.open(0).unwrap();
    let pattern = 0x0807_0605_0403_0201_u64;
    let memory: Arc<Vec<AtomicU8>> = Arc::new((0..256).map(|_| AtomicU8::new(0)).collect());
    let address = memory.as_ptr().expose_provenance() as u64;
    let keep: Keep = memory.clone();
    let fill = task(&[Descriptor::memfill(address + 3, 100, pattern)], &keep);
    let fill = fly(&queue, fill, LONG).wait().unwrap();
    assert_eq!(statuses(&fill), [Status::SUCCESS]);
    let bytes: Vec<u8> = memory
        .iter()
        .map(|byte| byte.load(Ordering::Relaxed))
        .collect();
    let expected: Vec<u8> = (0..256_usize)
        .map(|at| match at {
            3..103 => pattern.to_le_bytes()[(at - 3) % 8],
            _ => 0,
        })
        .collect();
    assert_eq!(bytes, expected);
    let compare = [
        (Descriptor::compval(address + 3, 100, pattern), 0, 100),
        (Descriptor::compval(address + 3, 101, pattern), 1, 100),
        (Descriptor::compval(address, 256, 0), 1, 3),
        (Descriptor::compval(address + 103, 153, 0), 0, 153),
    ];
    let task = task(&compare.map(|case| case.0), &keep);
    let task = fly(&queue, task, LONG).wait().unwrap();
    let found: Vec<_> = said(&task)
        .iter()
        .map(|said| (said.result, said.completed))
        .collect();
    assert_eq!(found, compare.map(|case| (case.1, case.2)));
}

/// A fault ends a comparison where it is, unless a difference did before.
#[test]
fn a_fault_tells_how_far_the_device_came() {
    let faults = |_| MemberFate::FaultAt(40);
    let script = Script::new(|_| false, |_| EntryFate::Done, faults);
    let device = Device::new("faulty", Device::LIMITS).behaviour(script);
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    for (odd, status, completed) in [
        (None, Status::PAGE_FAULT_NOBOF, 40),
        (Some(50), Status::PAGE_FAULT_NOBOF, 40),
        (Some(40), Status::PAGE_FAULT_NOBOF, 40),
        (Some(39), Status::SUCCESS, 39),
    ] {
        let mut bytes = vec![0; 64];
        if let Some(odd) = odd {
            bytes[odd] = 1;
        }
        let source = Source::of_vec(bytes).unwrap();
        let mut task = Task::with_capacity(Kind::Dsa, 1).unwrap();
        task.push_compval(&source, 0, 64, 0).unwrap();
        let said = fly(&queue, task, LONG).wait().unwrap().completion(0);
        let fault_addr = match status {
            Status::SUCCESS => 0,
            _ => source.address() + 40,
        };
        let expected = Completion {
            status,
            result: u8::from(status == Status::SUCCESS),
            completed,
            fault_addr,
        };
        assert_eq!(said, expected, "{odd:?}");
    }
}

fn noops(count: usize) -> Task {
    let mut task = Task::with_capacity(Kind::Dsa, count).unwrap();
    for _ in 0..count {
        task.push_noop().unwrap();
    }
    task
}

/// A drain waits for what this opening of the queue submitted before, also if that is late, and for nobody else's.
#[test]
fn a_drain_is_done_after_what_was_before_it() {
    let fates = Script::entries(|n| match n {
        0 => EntryFate::Silent,
        1 => EntryFate::Late(SHORT),
        _ => EntryFate::Done,
    });
    let device = Device::new("late", Device::LIMITS).behaviour(fates);
    let model = Model::start(vec![device]).unwrap();
    let (another, queue) = (model.open(0).unwrap(), model.open(0).unwrap());
    let silent = fly(&another, noops(1), Duration::ZERO);
    let mut late = fly(&queue, noops(1), LONG);
    // What is after the late one and no drain does not wait.
    fly(&queue, noops(1), LONG).wait().unwrap();
    let keep: Keep = Arc::new(());
    let drain = fly(&queue, task(&[Descriptor::drain()], &keep), LONG);
    let drained = drain.wait().unwrap();
    assert!(late.is_done());
    assert_eq!(statuses(&drained), [Status::SUCCESS]);
    assert_eq!(statuses(&late.wait().unwrap()), [Status::SUCCESS]);
    silent.wait().unwrap_err();
}

/// Answers come no sooner than the rate allows; how much later, is the machine's affair.
#[test]
fn the_rate_is_kept_by_the_clock_and_for_each_device() {
    let rate = Rate::Clock {
        bytes_per_second: 1e9,
        per_descriptor: Duration::from_micros(10),
    };
    // Prepared, so that there is nothing else that takes time.
    let pages = Pages::new(100, 65_536, |_| true);
    let devices = ["first", "second"].map(|name| {
        Device::new(name, Device::LIMITS)
            .rate(rate)
            .prepared(Arc::new(|_, _| true))
    });
    let model = Model::start(devices.into()).unwrap();
    let least = Duration::from_nanos(100 * 65_536) + 100 * Duration::from_micros(10);
    let begin = Instant::now();
    let flights = [0, 1, 0].map(|device| {
        let queue = model.open(device).unwrap();
        (fly(&queue, pages.task(), LONG), begin)
    });
    let times = flights.map(|(flight, begin)| {
        assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
        begin.elapsed()
    });
    assert!(times[0] >= least, "{times:?}");
    // The second of the first device waits for the first.
    assert!(times[2] >= 2 * least, "{times:?}");
    println!("{least:?} of work on each of two devices, and twice that on one: {times:?}");
}

#[test]
fn prepared_answers_are_given_and_memory_is_not_looked_at() {
    let pages = Pages::new(100, 64, |_| false);
    let first = pages.source.address();
    let answer = move |address: u64, len: u32| len == 64 && (address - first) / 64 % 3 == 1;
    let device = Device::new("knows", Device::LIMITS).prepared(Arc::new(answer));
    let model = Model::start(vec![device]).unwrap();
    let task = fly(&model.open(0).unwrap(), pages.task(), LONG)
        .wait()
        .unwrap();
    let expected: Vec<_> = (0..100).map(|page| Some(page % 3 == 1)).collect();
    assert_eq!(answers(&task), expected);
}

/// What a port waits for when it is closed is held up here by hand, in the middle of the work.
#[test]
fn a_port_that_is_closed_waits_for_what_is_being_worked_on() {
    let (begun, begins) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let gates = Mutex::new((begun, goes_on));
    let answer = move |_, _| {
        let (begun, goes_on) = &*gates.lock().unwrap();
        begun.send(()).unwrap();
        goes_on.recv().is_err()
    };
    let device = Device::new("held up", Device::LIMITS).prepared(Arc::new(answer));
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let pages = Pages::new(1, 64, |_| false);
    let task = pages.task();
    let keep = Arc::downgrade(pages.source.keep());
    drop(pages);
    let flight = fly(&queue, task, Duration::ZERO);
    begins.recv().unwrap();
    flight.wait().unwrap_err();
    thread::scope(|scope| {
        let closer = scope.spawn(|| drop(queue));
        // Long enough to be seen, if it does not wait; if it does, any time will do.
        thread::sleep(SHORT);
        assert!(!closer.is_finished());
        assert!(keep.strong_count() > 0);
        go_on.send(()).unwrap();
    });
    assert_eq!(keep.strong_count(), 0);
}

#[test]
fn a_queue_is_full_when_its_entries_are_used_up_or_tenants_have_them() {
    let small = Limits { size: 3, ..LONE };
    let silent = Device::new("silent", small).behaviour(Script::entries(|_| EntryFate::Silent));
    let tenants = Script::new(|n| n < 2, |_| EntryFate::Done, |_| MemberFate::Done);
    let shared = Device::new("shared", small).behaviour(tenants);
    let model = Model::start(vec![silent, shared]).unwrap();
    let queue = model.open(0).unwrap();
    let mut flight = Flight::new(&queue, noops(5), Duration::ZERO).unwrap();
    assert!(!flight.submit().unwrap());
    assert_eq!(
        (flight.sent(), model.counts(0).taken, model.counts(0).full),
        (3, 3, 1)
    );
    // Entries of one opening take room from another.
    let another = model.open(0).unwrap();
    assert!(
        !Flight::new(&another, noops(1), LONG)
            .unwrap()
            .submit()
            .unwrap()
    );
    flight.wait().unwrap_err();
    drop(queue);
    let mut late = Flight::new(&another, noops(1), Duration::ZERO).unwrap();
    assert!(late.submit().unwrap());
    let queue = model.open(1).unwrap();
    let mut flight = Flight::new(&queue, noops(1), LONG).unwrap();
    let taken: Vec<_> = (0..3).map(|_| flight.submit().unwrap()).collect();
    assert_eq!(taken, [false, false, true]);
    assert_eq!((model.counts(1).taken, model.counts(1).full), (1, 2));
    assert_eq!(statuses(&flight.wait().unwrap()), [Status::SUCCESS]);
}

#[test]
fn a_halted_device_answers_nothing_more_and_others_go_on() {
    let halts = Script::entries(|n| match n {
        0..2 => EntryFate::Done,
        _ => EntryFate::Halt,
    });
    let devices = vec![
        Device::new("halts", Device::LIMITS).behaviour(halts),
        Device::new("other", Device::LIMITS),
    ];
    let model = Model::start(devices).unwrap();
    let (queue, other) = (model.open(0).unwrap(), model.open(1).unwrap());
    for _ in 0..2 {
        fly(&queue, noops(1), LONG).wait().unwrap();
    }
    for quarantined in 1..4 {
        fly(&queue, noops(1), SHORT).wait().unwrap_err();
        assert_eq!(queue.quarantined(), quarantined);
        fly(&other, noops(1), LONG).wait().unwrap();
    }
}

/// The record of one member is lost, and that of the batch is not.
#[test]
fn a_member_without_a_record_has_no_answer() {
    let lost = |n| match n {
        1 => MemberFate::Silent,
        _ => MemberFate::Done,
    };
    let script = Script::new(|_| false, |_| EntryFate::Done, lost);
    let device = Device::new("forgets", Device::LIMITS).behaviour(script);
    let model = Model::start(vec![device]).unwrap();
    let task = fly(&model.open(0).unwrap(), noops(3), LONG).wait().unwrap();
    let expected = [Status::SUCCESS, Status::NONE, Status::SUCCESS];
    assert_eq!(statuses(&task), expected);
    let batch: Vec<_> = task.batch_completions().map(|said| said.status).collect();
    assert_eq!(batch, [Status::BATCH_FAIL]);
}

#[test]
fn a_model_that_is_dropped_answers_nothing_more() {
    let model = honest();
    let queue = model.open(0).unwrap();
    fly(&queue, noops(1), LONG).wait().unwrap();
    drop(model);
    fly(&queue, noops(1), SHORT).wait().unwrap_err();
    assert_eq!(queue.quarantined(), 1);
}

/// What becomes of 20 lone descriptors or members with such chances: whether all were taken, and their statuses.
fn with_chances(chances: Chances, max_batch: u32) -> Option<(bool, Vec<Status>)> {
    let limits = Limits {
        max_batch,
        ..Device::LIMITS
    };
    let device = Device::new("unlucky", limits).behaviour(Random::new(7, chances));
    let model = Model::start(vec![device]).unwrap();
    let pages = Pages::new(20, 64, |_| false);
    let patience = if chances.silent > 0 { SHORT } else { LONG };
    let mut flight = Flight::new(&model.open(0).unwrap(), pages.task(), patience).unwrap();
    let taken = flight.submit().unwrap();
    Some((taken, statuses(&flight.wait().ok()?)))
}

/// Every kind of trouble that chances name does happen, or a property that survives it shows nothing.
#[test]
fn chances_are_taken() {
    let none = Chances::default();
    let is_odd = |status: &Status| status.code() > 2;
    assert_eq!(
        with_chances(none, 8),
        Some((true, vec![Status::SUCCESS; 20]))
    );
    let full = with_chances(Chances { full: 1, ..none }, 8);
    assert_eq!(full, Some((false, vec![Status::NONE; 20])));
    assert_eq!(with_chances(Chances { silent: 1, ..none }, 8), None);
    let (_, unknown) = with_chances(Chances { unknown: 1, ..none }, 1).unwrap();
    assert!(unknown.iter().all(is_odd), "{unknown:?}");
    let (_, torn) = with_chances(
        Chances {
            list_fault: 1,
            ..none
        },
        20,
    )
    .unwrap();
    assert_eq!(torn[19], Status::NONE);
    let (_, faults) = with_chances(
        Chances {
            page_fault: 1,
            ..none
        },
        8,
    )
    .unwrap();
    assert_eq!(faults, [Status::PAGE_FAULT_NOBOF; 20]);
    let (_, odd) = with_chances(
        Chances {
            member_status: 1,
            ..none
        },
        8,
    )
    .unwrap();
    assert!(odd.iter().all(is_odd), "{odd:?}");
    let (_, lost) = with_chances(
        Chances {
            member_silent: 1,
            ..none
        },
        8,
    )
    .unwrap();
    assert_eq!(lost, [Status::NONE; 20]);
    let late = Chances {
        late: 1,
        delay: Duration::from_millis(5),
        ..none
    };
    let begin = Instant::now();
    let done = with_chances(late, 20);
    assert!(begin.elapsed() >= late.delay);
    assert_eq!(done, Some((true, vec![Status::SUCCESS; 20])));
}
