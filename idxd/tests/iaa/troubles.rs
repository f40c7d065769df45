// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What goes wrong with an IAA of the model when it is told to, and what is left behind.

use std::{num::NonZeroUsize, ptr::NonNull, sync::Arc};

use idxd::{
    Descriptor, Destination, Kind, Source, Status, Task,
    iaa::{Aecs, Coding},
    model::{Behaviour, Chances, Device, MemberFate, Random},
};

use crate::{
    fly::{LONG, fly},
    operate::{Memory, UNTOUCHED, compress, decompress, iaa, started},
    samples::sample,
    zlib,
};

fn fixed() -> Coding {
    Coding::Tables(Aecs::fixed())
}

/// The same fate for all.
#[derive(Debug)]
struct All(MemberFate);

impl Behaviour for All {
    fn member(&mut self, _: &Descriptor) -> MemberFate {
        self.0
    }
}

/// A compression and a decompression of a page: what is said, and the addresses of sources and destinations.
fn both(device: Device) -> [(u8, u64, u64, u64); 2] {
    let (_model, queue) = started(device);
    let page = Source::of_vec(sample(0, 4096, 1)).unwrap();
    let stream = Source::of_vec(zlib::deflate(&[&sample(0, 4096, 1)], 6)).unwrap();
    let memory = Memory::new(4096);
    let mut task = Task::with_buffer(Kind::Iax, 2, 4096).unwrap();
    task.push_compress(&page, 0..4096, 0..4095, &fixed())
        .unwrap();
    let all = 0..stream.len();
    task.push_decompress(&stream, all, &memory.destination, 0..4096)
        .unwrap();
    let task = fly(&queue, task, LONG).wait().unwrap();
    // Nothing was begun.
    assert!(task.buffer().iter().all(|byte| *byte == 0));
    assert!(memory.read().iter().all(|byte| *byte == UNTOUCHED));
    let buffer = task.buffer().as_ptr().addr() as u64;
    let said = [task.iax_completion(0), task.iax_completion(1)];
    for said in said {
        assert_eq!((said.common.completed, said.output_size), (0, 0));
    }
    let [first, second] = said.map(|said| said.common);
    assert_eq!([task.output(0), task.output(1)], [None, None]);
    let status = |status: Status| status.code();
    [
        (
            status(first.status),
            first.fault_addr,
            page.address(),
            buffer,
        ),
        (
            status(second.status),
            second.fault_addr,
            stream.address(),
            memory.destination.address(),
        ),
    ]
}

#[test]
fn a_fault_names_the_byte_and_nothing_was_done() {
    for (at, of_source) in [(0, true), (4095, true), (4096, false), (5000, false)] {
        let [first, second] = both(iaa().behaviour(All(MemberFate::FaultAt(at))));
        let (status, fault, source, destination) = first;
        assert_eq!(status, 3);
        let expected = match of_source {
            true => source + u64::from(at),
            false => destination + u64::from(at) - 4096,
        };
        assert_eq!(fault, expected, "{at}");
        let (status, fault, _, destination) = second;
        assert_eq!(status, 3);
        assert_eq!(fault, destination + u64::from(at.min(4095)), "{at}");
    }
}

#[test]
fn a_status_is_all_that_is_said() {
    for status in [0x04, 0x0b, 0x20, 0x22, 0x24, 0x7e] {
        let [first, second] = both(iaa().behaviour(All(MemberFate::Status(status))));
        assert_eq!(
            (first.0, first.1, second.0, second.1),
            (status, 0, status, 0)
        );
    }
}

#[test]
fn an_analytics_error_has_the_code_that_it_is_given() {
    for code in [0, 4, 25, 33, 255] {
        let device = iaa().behaviour(All(MemberFate::Analytics(code)));
        let (_model, queue) = started(device);
        let (said, _) = compress(&queue, &[7; 100], 100, &fixed());
        assert_eq!(said.common.status, Status::ANALYTICS_ERROR);
        assert_eq!(said.error_code().code(), code);
        let (said, bytes) = decompress(&queue, &zlib::deflate(&[&[7; 100]], 6), 100);
        assert_eq!(said.error_code().code(), code);
        assert_eq!(bytes, [UNTOUCHED; 100]);
    }
}

/// Pages of their own, none of which is there.
struct Absent {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length.
unsafe impl Send for Absent {}
// SAFETY: as above.
unsafe impl Sync for Absent {}

impl Absent {
    fn new(pages: usize) -> Arc<Self> {
        let len = NonZeroUsize::new(pages * rustix::param::page_size())
            .unwrap()
            .get();
        let flags = rustix::mm::MapFlags::PRIVATE;
        let rights = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: new pages, wherever there is room.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, rights, flags) };
        let start = NonNull::new(start.unwrap().cast()).unwrap();
        Arc::new(Self { start, len })
    }

    fn source(self: &Arc<Self>) -> Source {
        let keep = Arc::clone(self);
        // SAFETY: the pages stay, and only `touch` writes to them, while nothing is in flight.
        unsafe { Source::new(self.start, self.len, keep) }.unwrap()
    }

    fn destination(self: &Arc<Self>) -> Destination {
        let keep = Arc::clone(self);
        // SAFETY: as above; nobody reads them otherwise.
        unsafe { Destination::new(self.start, self.len, keep) }.unwrap()
    }

    fn touch(&self, at: usize) {
        assert!(at < self.len);
        // SAFETY: inside.
        let place = unsafe { self.start.byte_add(at) };
        // SAFETY: inside, and nobody else uses it now.
        unsafe { place.write_volatile(1) };
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        // SAFETY: they are ours, and nothing names them any more.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) }.unwrap();
    }
}

#[test]
fn missing_pages_are_faults_of_the_source_or_of_the_destination() {
    let (_model, queue) = started(iaa().faults_on_missing_pages());
    let page = rustix::param::page_size();
    let pages = Absent::new(2);
    let source = pages.source();
    let run = || {
        let mut task = Task::with_buffer(Kind::Iax, 1, 4096).unwrap();
        let part = page as u64 - 8..page as u64 + 8;
        task.push_compress(&source, part, 0..4096, &fixed())
            .unwrap();
        let task = fly(&queue, task, LONG).wait().unwrap();
        task.completion(0)
    };
    let first = run();
    assert_eq!(first.status, Status::PAGE_FAULT_NOBOF);
    assert_eq!(first.fault_addr, source.address() + page as u64 - 8);
    pages.touch(0);
    let second = run();
    assert_eq!(second.fault_addr, source.address() + page as u64);
    assert_eq!(
        (second.status, second.completed),
        (Status::PAGE_FAULT_NOBOF, 0)
    );
    pages.touch(page);
    assert_eq!(run().status, Status::SUCCESS);

    let pages = Absent::new(1);
    let destination = pages.destination();
    let stream = Source::of_vec(zlib::deflate(&[&[9; 64]], 6)).unwrap();
    let run = || {
        let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
        let all = 0..stream.len();
        task.push_decompress(&stream, all, &destination, 0..64)
            .unwrap();
        let task = fly(&queue, task, LONG).wait().unwrap();
        task.completion(0)
    };
    let first = run();
    assert_eq!(first.status, Status::PAGE_FAULT_NOBOF);
    assert_eq!(first.fault_addr, destination.address());
    pages.touch(0);
    assert_eq!(run().status, Status::SUCCESS);
}

/// With everything at random, an answer is either right or none.
#[test]
fn at_random_nothing_is_claimed_that_is_not_so() {
    let chances = Chances {
        full: 5,
        page_fault: 5,
        member_status: 5,
        ..Chances::default()
    };
    let mut codes = [false; 256];
    let mut statuses = [0; 256];
    for seed in 0..8 {
        let device = iaa().behaviour(Random::new(seed, chances).analytics(4));
        let (_model, queue) = started(device);
        for round in 0..100 {
            let bytes = sample(round % 3, 1000, u64::from(round));
            let (said, stream) = compress(&queue, &bytes, 4096, &fixed());
            statuses[usize::from(said.common.status.code())] += 1;
            if said.common.status == Status::ANALYTICS_ERROR {
                codes[usize::from(said.common.result)] = true;
            }
            if let Some(stream) = stream {
                let judged = zlib::inflate(&stream, 1000);
                assert_eq!(judged, Some((bytes, stream.len())));
            }
        }
    }
    assert!(statuses[1] > 300, "{statuses:?}");
    assert!(statuses[3] > 80, "{statuses:?}");
    assert!(codes.iter().filter(|seen| **seen).count() > 60);
}
