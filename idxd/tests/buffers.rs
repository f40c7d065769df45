// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that an IAA writes to: the buffer of a task, and destinations; and descriptors that are taken back.

#![cfg(feature = "model")]
#![expect(
    unsafe_code,
    reason = "lends memory to a model, and plays a device that lies"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ops::Range,
    ptr::{NonNull, with_exposed_provenance},
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use idxd::{
    Descriptor, Destination, Flight, Keep, Kind, Limits, Port, PortError, Queue, Source, Status,
    SubmitError, Task, TaskError, WaitError,
    iaa::{Aecs, Coding, inflate},
    model::{Behaviour, Device, EntryFate, Model, Rate},
};
use rustix::mm::{Advice, madvise};

const LONG: Duration = Duration::from_secs(30);

fn fixed() -> Coding {
    Coding::Tables(Aecs::fixed())
}

/// Memory for a device to write to, and what tells whether it is there.
fn destination(len: usize) -> (Destination, Weak<Vec<AtomicU8>>) {
    let bytes: Arc<Vec<AtomicU8>> = Arc::new((0..len).map(|_| AtomicU8::new(0)).collect());
    let start = NonNull::from(bytes.as_slice()).cast();
    let weak = Arc::downgrade(&bytes);
    let keep: Keep = bytes;
    // SAFETY: the vector lives as long as its keeper, and is made of atomics.
    let destination = unsafe { Destination::new(start, len, keep) };
    (destination.unwrap(), weak)
}

fn backwards<T>(start: T, end: T) -> Range<T> {
    Range { start, end }
}

#[test]
fn what_lies_outside_never_becomes_a_descriptor() {
    let source = Source::of_vec(vec![0; 100]).unwrap();
    let (guest, _) = destination(100);
    let mut task = Task::with_buffer(Kind::Iax, 2, 50).unwrap();
    let outside = |error: TaskError| assert!(matches!(error, TaskError::Outside { .. }), "{error}");
    for part in [
        0..0,
        0..101,
        100..101,
        101..102,
        backwards(3, 2),
        u64::MAX - 1..u64::MAX,
    ] {
        outside(
            task.push_compress(&source, part.clone(), 0..50, &fixed())
                .unwrap_err(),
        );
        outside(
            task.push_decompress(&source, part.clone(), &guest, 0..100)
                .unwrap_err(),
        );
        outside(
            task.push_decompress(&source, 0..100, &guest, part)
                .unwrap_err(),
        );
    }
    for into in [
        0..0,
        0..51,
        50..51,
        backwards(7, 6),
        usize::MAX - 1..usize::MAX,
    ] {
        outside(
            task.push_compress(&source, 0..100, into, &fixed())
                .unwrap_err(),
        );
    }
    assert!(task.is_empty());
    task.push_compress(&source, 99..100, 49..50, &fixed())
        .unwrap();
    task.push_decompress(&source, 0..100, &guest, 99..100)
        .unwrap();
    let full = task
        .push_compress(&source, 0..1, 0..1, &fixed())
        .unwrap_err();
    assert_eq!(full, TaskError::Full { capacity: 2 });
    let mut dsa = Task::with_buffer(Kind::Dsa, 2, 50).unwrap();
    let kind = TaskError::Kind { kind: Kind::Dsa };
    let refused = dsa.push_compress(&source, 0..1, 0..1, &fixed());
    assert_eq!(refused.unwrap_err(), kind);
    let refused = dsa.push_decompress(&source, 0..1, &guest, 0..1);
    assert_eq!(refused.unwrap_err(), kind);
    // SAFETY: it is refused.
    let empty = unsafe { Destination::new(NonNull::dangling(), 0, Arc::new(())) };
    assert!(empty.is_err());
}

#[test]
fn all_that_a_descriptor_names_is_kept_once_until_the_task_is_cleared() {
    let bytes = Arc::new(vec![0; 8192]);
    let source = Source::of_shared(Arc::clone(&bytes)).unwrap();
    let (guest, weak) = destination(8192);
    let coding = fixed();
    let tables = coding.keep().unwrap();
    let (before, tables_before) = (Arc::strong_count(&bytes), Arc::strong_count(tables));
    let mut task = Task::with_buffer(Kind::Iax, 8, 8192).unwrap();
    for page in 0..4 {
        let at = page * 64;
        task.push_compress(&source, at as u64..4096, at..at + 64, &coding)
            .unwrap();
    }
    assert_eq!(Arc::strong_count(&bytes), before + 1);
    assert_eq!(Arc::strong_count(tables), tables_before + 1);
    for page in 0..4 {
        task.push_decompress(&source, page..4096, &guest, page..4096)
            .unwrap();
    }
    drop(guest);
    assert_eq!(weak.strong_count(), 1);
    task.clear();
    assert_eq!(weak.strong_count(), 0);
    drop(source);
    assert_eq!(Arc::strong_count(&bytes), 1);
}

#[test]
fn a_source_of_a_shared_vector_is_the_owners_again_when_no_task_knows_it() {
    let mut bytes = Arc::new(vec![7; 4096]);
    let model = Model::start(vec![Device::new("iax1/wq1.0", Device::IAA_LIMITS)]).unwrap();
    let queue = model.open(0).unwrap();
    let mut task = Task::with_buffer(Kind::Iax, 1, 4095).unwrap();
    for round in 0..3_u8 {
        Arc::get_mut(&mut bytes).unwrap().fill(round);
        let source = Source::of_shared(Arc::clone(&bytes)).unwrap();
        task.push_compress(&source, 0..4096, 0..4095, &fixed())
            .unwrap();
        drop(source);
        assert!(Arc::get_mut(&mut bytes).is_none());
        let mut flight = Flight::new(&queue, task, LONG).unwrap();
        assert!(flight.submit().unwrap());
        task = flight.wait().unwrap();
        let mut page = vec![0xff; 4096];
        inflate(task.output(0).unwrap(), &mut page).unwrap();
        assert_eq!(page, vec![round; 4096]);
        task.clear();
    }
}

#[test]
fn a_page_of_the_buffer_that_was_taken_away_comes_back_by_a_touch() {
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).faults_on_missing_pages();
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let source = Source::of_vec(vec![5; 4096]).unwrap();
    let mut task = Task::with_buffer(Kind::Iax, 3, 3 * 4096).unwrap();
    let middle = task.buffer()[4096..8192].as_ptr().expose_provenance();
    // SAFETY: a whole page of the buffer, whose bytes nobody needs; as swapping does, but for what it held.
    unsafe { madvise(middle as *mut _, 4096, Advice::LinuxDontNeed) }.unwrap();
    let compress = |mut task: Task| {
        task.clear();
        for page in 0..3 {
            let into = page * 4096..page * 4096 + 4095;
            task.push_compress(&source, 0..4096, into, &fixed())
                .unwrap();
        }
        let mut flight = Flight::new(&queue, task, LONG).unwrap();
        assert!(flight.submit().unwrap());
        flight.wait().unwrap()
    };
    for _ in 0..2 {
        // It does not come back by itself.
        task = compress(task);
        let said = task.completion(1);
        assert!(said.status.is_page_fault(), "{said:?}");
        assert_eq!(said.fault_addr, middle as u64);
        assert!(task.output(0).is_some() && task.output(2).is_some());
    }
    let outside = [0, middle as u64 - 4097, middle as u64 + 8192, u64::MAX];
    assert!(outside.into_iter().all(|address| !task.touch(address)));
    assert!(task.touch(middle as u64 + 77));
    task = compress(task);
    assert!((0..3).all(|index| task.output(index).is_some()));
}

/// Answers nothing.
#[derive(Debug)]
struct Silent;

impl Behaviour for Silent {
    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        EntryFate::Silent
    }
}

#[test]
fn what_a_device_may_still_write_to_is_there_until_the_queue_is_closed() {
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).behaviour(Silent);
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let (guest, weak) = destination(4096);
    let source = Source::of_vec(vec![3, 0]).unwrap();
    let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
    task.push_decompress(&source, 0..2, &guest, 0..4096)
        .unwrap();
    drop(guest);
    let mut flight = Flight::new(&queue, task, Duration::from_millis(10)).unwrap();
    assert!(flight.submit().unwrap());
    let error = flight.wait().unwrap_err();
    assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
    assert_eq!((queue.quarantined(), weak.strong_count()), (1, 1));
    drop(queue);
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn a_queue_that_is_retired_is_drained_at_once_and_takes_nothing_more() {
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).rate(Rate::bytes_per_second(1e3));
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let (guest, weak) = destination(4096);
    // A stored block; by this device's clock a page takes four seconds.
    let source = Source::of_vec(vec![1, 1, 0, 0xfe, 0xff, 77]).unwrap();
    let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
    task.push_decompress(&source, 0..6, &guest, 0..4096)
        .unwrap();
    let mut flight = Flight::new(&queue, task, Duration::from_millis(10)).unwrap();
    assert!(flight.submit().unwrap());
    assert!(matches!(flight.wait(), Err(WaitError::TimedOut { .. })));
    assert!(queue.retire());
    assert!(queue.retire());
    let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
    task.push_noop().unwrap();
    let mut flight = Flight::new(&queue, task, LONG).unwrap();
    let error = flight.submit().unwrap_err();
    assert!(matches!(error, SubmitError::Port { .. }), "{error}");
    drop(flight);
    assert_eq!(model.counts(0).descriptors, 0);
    // What the task named is kept until the queue goes, though nothing will be written there.
    drop((guest, queue));
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn what_was_not_taken_can_be_taken_back_and_nothing_else() {
    let limits = Limits {
        size: 4,
        ..Device::IAA_LIMITS
    };
    let device = Device::new("iax1/wq1.0", limits).rate(Rate::bytes_per_second(1e6));
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let source = Source::of_vec(vec![0; 4096]).unwrap();
    let mut task = Task::with_buffer(Kind::Iax, 10, 40960).unwrap();
    for page in 0..10 {
        let into = page * 4096..page * 4096 + 4095;
        task.push_compress(&source, 0..4096, into, &fixed())
            .unwrap();
    }
    let mut flight = Flight::new(&queue, task, LONG).unwrap();
    assert!(!flight.submit().unwrap());
    assert_eq!(flight.sent(), 4);
    assert_eq!(flight.withdraw(2), 2);
    // Before the first is done no more is taken, and after that no more than there is.
    while flight.sent() == 4 {
        flight.submit().unwrap();
    }
    let sent = flight.sent();
    assert_eq!(flight.withdraw(usize::MAX), 8 - sent);
    assert_eq!(flight.withdraw(1), 0);
    assert!(flight.submit().unwrap());
    let task = flight.wait().unwrap();
    assert_eq!((task.len(), task.sent()), (sent, sent));
    for index in 0..sent {
        assert_eq!(task.completion(index).status, Status::SUCCESS);
        assert!(task.output(index).is_some());
    }
    assert_eq!(model.counts(0).taken, sent as u64);
    // All of it, before anything was submitted.
    let mut task = task;
    task.clear();
    task.push_compress(&source, 0..4096, 0..4095, &fixed())
        .unwrap();
    let mut flight = Flight::new(&queue, task, LONG).unwrap();
    assert_eq!(flight.withdraw(9), 1);
    assert!(flight.submit().unwrap());
    assert!(flight.wait().unwrap().is_empty());
}

#[test]
fn a_batch_is_not_taken_apart() {
    let model = Model::start(vec![Device::new("dsa0/wq0.0", Device::LIMITS)]).unwrap();
    let queue = model.open(0).unwrap();
    let source = Source::of_vec(vec![0; 4096]).unwrap();
    let mut task = Task::with_capacity(Kind::Dsa, 4).unwrap();
    for _ in 0..4 {
        task.push_compval(&source, 0, 4096, 0).unwrap();
    }
    let mut flight = Flight::new(&queue, task, LONG).unwrap();
    assert_eq!(flight.withdraw(2), 0);
    assert!(flight.submit().unwrap());
    assert_eq!(flight.wait().unwrap().sent(), 4);
}

/// Says of everything that it is done and has so many bytes, and writes none.
#[derive(Debug)]
struct Liar(u32);

// SAFETY: nothing that was submitted is used after `submit` has returned.
unsafe impl Port for Liar {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        for descriptor in descriptors {
            let record = usize::try_from(descriptor.completion_addr()).unwrap();
            let output_size = with_exposed_provenance::<AtomicU32>(record + 24);
            // SAFETY: inside of the record, by contract.
            unsafe { &*output_size }.store(self.0, Ordering::Relaxed);
            let status = with_exposed_provenance::<AtomicU8>(record);
            // SAFETY: as above.
            unsafe { &*status }.store(1, Ordering::Release);
        }
        Ok(descriptors.len())
    }

    fn way(&self) -> String {
        "a lie".to_owned()
    }

    fn close(&mut self) -> bool {
        true
    }
}

#[test]
fn a_size_that_cannot_be_is_not_believed() {
    for (said, believed) in [(0, Some(0)), (64, Some(64)), (65, None), (u32::MAX, None)] {
        let queue = Queue::over("liar", Device::IAA_LIMITS, Box::new(Liar(said))).unwrap();
        let source = Source::of_vec(vec![0; 4096]).unwrap();
        let (guest, _) = destination(4096);
        let mut task = Task::with_buffer(Kind::Iax, 2, 4096).unwrap();
        task.push_compress(&source, 0..4096, 4000..4064, &fixed())
            .unwrap();
        task.push_decompress(&source, 0..64, &guest, 0..64).unwrap();
        assert_eq!(task.output(0), None);
        let mut flight = Flight::new(&queue, task, LONG).unwrap();
        assert!(flight.submit().unwrap());
        let task = flight.wait().unwrap();
        assert_eq!(task.output(0).map(<[u8]>::len), believed);
        assert_eq!(task.iax_completion(0).output_size, said);
        // What was decompressed is not in the buffer.
        assert_eq!(task.output(1), None);
    }
}
