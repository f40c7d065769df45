// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One operation of a device of the model, the whole way: task, flight, record.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use idxd::{
    Destination, IaxCompletion, Kind, Queue, Source, Status, Task, TaskError,
    iaa::Coding,
    model::{Device, Model},
};

use crate::fly::{LONG, fly};

/// What a byte is that nobody wrote to.
pub(crate) const UNTOUCHED: u8 = 0xee;

pub(crate) fn iaa() -> Device {
    Device::new("iaa", Device::IAA_LIMITS)
}

/// The device's queue, and what plays it.
pub(crate) fn started(device: Device) -> (Model, Arc<Queue>) {
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    (model, queue)
}

/// Memory that a device writes to.
pub(crate) struct Memory {
    bytes: Arc<Vec<AtomicU8>>,
    pub(crate) destination: Destination,
}

impl Memory {
    pub(crate) fn new(len: usize) -> Self {
        let bytes: Vec<_> = (0..len).map(|_| AtomicU8::new(UNTOUCHED)).collect();
        let bytes = Arc::new(bytes);
        let start = NonNull::from(bytes.as_slice()).cast();
        // SAFETY: it is kept, made of atomics, and only one task at a time is given a part of it.
        let destination = unsafe { Destination::new(start, len, bytes.clone()) };
        Self {
            bytes,
            destination: destination.unwrap(),
        }
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        let load = |byte: &AtomicU8| byte.load(Ordering::Relaxed);
        self.bytes.iter().map(load).collect()
    }
}

/// Compresses into no more than `room` bytes. With what is said comes the stream, or why there is none.
pub(crate) fn compress(
    queue: &Arc<Queue>,
    input: &[u8],
    room: usize,
    coding: &Coding,
) -> (IaxCompletion, Option<Vec<u8>>) {
    let source = Source::of_vec(input.to_vec()).unwrap();
    // What is behind the room is of a page of zeroes, and stays so.
    let mut task = Task::with_buffer(Kind::Iax, 1, room + 64).unwrap();
    let all = 0..source.len();
    task.push_compress(&source, all, 0..room, coding).unwrap();
    let task = fly(queue, task, LONG).wait().unwrap();
    assert!(task.buffer()[room..].iter().all(|byte| *byte == 0));
    let said = task.iax_completion(0);
    let stream = task.output(0).map(<[u8]>::to_vec);
    assert_eq!(stream.is_some(), said.common.status == Status::SUCCESS);
    (said, stream)
}

/// Decompresses to no more than `room` bytes; all of them come back, written to or not.
pub(crate) fn decompress(
    queue: &Arc<Queue>,
    stream: &[u8],
    room: usize,
) -> (IaxCompletion, Vec<u8>) {
    let source = Source::of_vec(stream.to_vec()).unwrap();
    let memory = Memory::new(room + 9);
    let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
    let pushed: Result<(), TaskError> = task.push_decompress(
        &source,
        0..source.len(),
        &memory.destination,
        5..room as u64 + 5,
    );
    pushed.unwrap();
    let task = fly(queue, task, LONG).wait().unwrap();
    let bytes = memory.read();
    assert_eq!(bytes[..5], [UNTOUCHED; 5]);
    assert_eq!(bytes[room + 5..], [UNTOUCHED; 4]);
    (task.iax_completion(0), bytes[5..room + 5].to_vec())
}
