// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! IAAs that answer late, queues that others keep full, and calls that end by an error: nobody's memory is written to afterwards, and
//! nobody waits for what does not come.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "plays a device that is not known to be done")]

use std::{
    fs,
    os::unix::net::UnixStream,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use idxd::{
    Descriptor, Limits, Port, PortError, Queue, Source,
    model::{Behaviour, Device, EntryFate, Model, Rate},
};
use migration::{
    Backed, Corpus, DecodeError, IaaOptions, Mapping, PageCodec, PageFormat, Policy, RamBlock,
};

const PAGE: u64 = 4096;
const LONG: Duration = Duration::from_secs(30);

fn codec(queues: Vec<Arc<Queue>>, policy: Policy, patience: Duration) -> PageCodec {
    let mut options = IaaOptions::default().with_policy(policy);
    options.patience = patience;
    PageCodec::iaa(queues, options).unwrap()
}

fn offsets(pages: usize) -> Vec<u64> {
    (0..pages as u64).map(|page| page * PAGE).collect()
}

fn block(corpus: &Corpus) -> RamBlock {
    RamBlock::new(Source::of_vec(corpus.bytes().to_vec()).unwrap())
}

/// Lengths and bodies of pages that an IAA can decode.
fn sent(corpus: &Corpus) -> (Vec<u32>, Vec<u8>) {
    let codec = PageCodec::software(PageFormat::Deflate).safe_for_iaa(true);
    let (block, offsets) = (block(corpus), offsets(corpus.len()));
    let mut encoder = codec.encoder().unwrap();
    let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let mut bodies = Vec::new();
    encoded.append_to(&mut bodies);
    (encoded.lengths().to_vec(), bodies)
}

/// Does everything so much later than it should.
#[derive(Debug)]
struct Late(Duration);

impl Behaviour for Late {
    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        EntryFate::Late(self.0)
    }
}

#[test]
fn a_late_answer_never_overwrites_what_came_after_it() {
    let late = Duration::from_millis(300);
    let (first, second) = (Corpus::synthetic(64, 1), Corpus::synthetic(64, 2));
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).behaviour(Late(late));
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    let codec = codec(vec![Arc::clone(&queue)], Policy::Retry, late / 6);
    let memory = Mapping::new(64 * PAGE, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    for (round, corpus) in [&first, &second].into_iter().enumerate() {
        let (lengths, bodies) = sent(corpus);
        let report = decoder
            .decode(&bodies, &lengths, &guest, PAGE, &offsets(64))
            .unwrap();
        assert!(memory.to_vec() == corpus.bytes());
        // It is closed then, which is what keeps the device from writing.
        assert_eq!(report.trouble.timeouts > 0, round == 0);
        assert_eq!(report.by_device, 0);
    }
    assert!(queue.retire());
    // Until the device would have answered: only a defect can be seen meanwhile.
    thread::sleep(late * 2);
    assert!(memory.to_vec() == second.bytes());
    assert_eq!(model.counts(0).descriptors, 0);
}

#[test]
fn after_an_error_nothing_is_written_either() {
    let late = Duration::from_millis(200);
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).behaviour(Late(late));
    let model = Model::start(vec![device]).unwrap();
    // No more than 20 pages for the device: the CPU has the last one, which is bad.
    let limits = Limits {
        size: 20,
        ..Device::IAA_LIMITS
    };
    let queue = model.open_as(0, limits).unwrap();
    let codec = codec(vec![queue], Policy::Retry, late / 10);
    let corpus = Corpus::synthetic(40, 3);
    let (mut lengths, mut bodies) = sent(&corpus);
    lengths.push(2);
    bodies.extend([0xff, 0xff]);
    let memory = Mapping::new(41 * PAGE, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let error = decoder
        .decode(&bodies, &lengths, &guest, PAGE, &offsets(41))
        .unwrap_err();
    assert!(
        matches!(error, DecodeError::Page { page: 40, .. }),
        "{error}"
    );
    memory.fill(0, 41 * PAGE, 0xa5);
    thread::sleep(late * 2);
    assert_eq!(memory.to_vec(), vec![0xa5; 41 * 4096]);
}

/// Takes so many descriptors, and then none.
#[derive(Debug)]
struct Takes(u32);

impl Behaviour for Takes {
    fn is_full(&mut self) -> bool {
        let full = self.0 == 0;
        self.0 = self.0.saturating_sub(1);
        full
    }
}

#[test]
fn only_who_is_told_to_waits_for_a_queue_that_others_keep_full() {
    let corpus = Corpus::synthetic(128, 4);
    for policy in Policy::ALL
        .into_iter()
        .filter(|policy| *policy != Policy::Wait)
    {
        for takes in [0, 1, 70] {
            let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).behaviour(Takes(takes));
            let model = Model::start(vec![device]).unwrap();
            let codec = codec(vec![model.open(0).unwrap()], policy, LONG);
            let (block, offsets) = (block(&corpus), offsets(128));
            let mut encoder = codec.encoder().unwrap();
            let begun = Instant::now();
            let encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
            assert_eq!(encoded.report().by_device, takes as usize, "{policy}");
            assert!(
                begun.elapsed() < LONG / 3,
                "{policy}: {:?}",
                begun.elapsed()
            );
        }
    }
}

/// Full until then.
#[derive(Debug)]
struct FullUntil(Instant);

impl Behaviour for FullUntil {
    fn is_full(&mut self) -> bool {
        Instant::now() < self.0
    }
}

#[test]
fn a_queue_that_others_fill_keeps_no_page_from_one_that_is_idle() {
    let corpus = Corpus::synthetic(64, 7);
    for first in [0, 1] {
        let now = Instant::now();
        let device =
            |name, until| Device::new(name, Device::IAA_LIMITS).behaviour(FullUntil(now + until));
        let model = Model::start(vec![
            device("soon", Duration::from_millis(20)),
            device("never", LONG * 100),
        ])
        .unwrap();
        let queues = [first, 1 - first].map(|index| model.open(index).unwrap());
        let codec = codec(queues.to_vec(), Policy::Wait, LONG);
        let (block, offsets) = (block(&corpus), offsets(64));
        let mut encoder = codec.encoder().unwrap();
        let encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
        assert_eq!(encoded.report().by_device, 64);
        assert!(now.elapsed() < LONG / 3, "{:?}", now.elapsed());
    }
}

#[test]
fn a_slow_device_is_not_waited_for_because_a_full_queue_looks_fast() {
    let corpus = Corpus::synthetic(512, 8);
    let limits = Limits {
        size: 16,
        ..Device::IAA_LIMITS
    };
    // A page takes it 10 ms, far longer than the CPU in any build.
    let slow = Device::new("slow", limits).rate(Rate::bytes_per_second(0.4e6));
    let full = Device::new("full", Device::IAA_LIMITS).behaviour(Takes(0));
    let model = Model::start(vec![slow, full]).unwrap();
    let queues = [0, 1].map(|index| model.open(index).unwrap());
    let codec = codec(queues.to_vec(), Policy::Adaptive, LONG);
    let (block, offsets) = (block(&corpus), offsets(512));
    let mut encoder = codec.encoder().unwrap();
    for _ in 0..2 {
        let encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
        let report = encoded.report();
        assert!(report.by_cpu > 256, "{report:?}");
    }
}

/// Panics when it is asked.
#[derive(Debug)]
struct Breaks;

impl Behaviour for Breaks {
    fn is_full(&mut self) -> bool {
        panic!("as it was told to");
    }
}

#[test]
fn after_a_panic_nothing_is_written_either() {
    let late = Duration::from_millis(200);
    let device = |name| Device::new(name, Device::IAA_LIMITS);
    let model = Model::start(vec![
        device("late").behaviour(Late(late)),
        device("breaks").behaviour(Breaks),
    ])
    .unwrap();
    let queues = [0, 1].map(|index| model.open(index).unwrap());
    let codec = codec(queues.to_vec(), Policy::Retry, LONG);
    let corpus = Corpus::synthetic(300, 9);
    let (lengths, bodies) = sent(&corpus);
    let memory = Mapping::new(300 * PAGE, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let call = || decoder.decode(&bodies, &lengths, &guest, PAGE, &offsets(300));
    assert!(panic::catch_unwind(AssertUnwindSafe(call)).is_err());
    memory.fill(0, 300 * PAGE, 0xa5);
    thread::sleep(late * 2);
    assert_eq!(memory.to_vec(), vec![0xa5; 300 * 4096]);
}

/// A device behind a port that does not know whether the device is done when it is closed.
#[derive(Debug)]
struct Unsure;

// SAFETY: nothing that was submitted is ever used.
unsafe impl Port for Unsure {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        // 20 fit.
        Ok(descriptors.len().min(20))
    }

    fn way(&self) -> String {
        "unsure".to_owned()
    }

    fn close(&mut self) -> bool {
        false
    }
}

#[test]
fn guest_memory_that_a_device_may_still_write_to_is_never_said_to_be_restored() {
    let patience = Duration::from_millis(20);
    let queue = Queue::over("unsure", Device::IAA_LIMITS, Box::new(Unsure)).unwrap();
    let codec = codec(vec![Arc::clone(&queue)], Policy::Retry, patience);
    let corpus = Corpus::synthetic(40, 10);
    let (lengths, bodies) = sent(&corpus);
    let memory = Mapping::new(41 * PAGE, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let unanswered = |result: Result<_, DecodeError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, DecodeError::Unanswered { .. }), "{error}");
    };
    // Also where the call ends by another error, which the CPU meets first.
    let (mut bad_lengths, mut bad_bodies) = (lengths.clone(), bodies.clone());
    bad_lengths.push(2);
    bad_bodies.extend([0xff, 0xff]);
    unanswered(decoder.decode(&bad_bodies, &bad_lengths, &guest, PAGE, &offsets(41)));
    assert_eq!(queue.retired(), Some(false));
    // Nor later, nor by another channel, nor for pages that are raw.
    unanswered(decoder.decode(&bodies, &lengths, &guest, PAGE, &offsets(40)));
    let mut other = codec.decoder().unwrap();
    unanswered(other.decode(&[7; 4096], &[4096], &guest, PAGE, &[0]));
    // What is sent is the task's own.
    let (block, offsets) = (block(&corpus), offsets(40));
    let mut encoder = codec.encoder().unwrap();
    let encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    assert_eq!(encoded.report().by_cpu, 40);
}

/// Fails once, and is well from then on.
#[derive(Debug)]
struct FailsOnce(bool);

impl Behaviour for FailsOnce {
    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        match std::mem::replace(&mut self.0, true) {
            true => EntryFate::Done,
            false => EntryFate::Status(0x20),
        }
    }
}

#[test]
fn a_queue_that_is_tried_is_well_again_also_if_the_call_ends_by_a_bad_stream() {
    let device = Device::new("iax1/wq1.0", Device::IAA_LIMITS).behaviour(FailsOnce(false));
    let model = Model::start(vec![device]).unwrap();
    // A try that is lost would keep everybody off the queue for a minute.
    let codec = codec(vec![model.open(0).unwrap()], Policy::Wait, LONG);
    let corpus = Corpus::synthetic(1, 5);
    let (lengths, bodies) = sent(&corpus);
    let memory = Mapping::new(PAGE, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    decoder
        .decode(&bodies, &lengths, &guest, PAGE, &[0])
        .unwrap();
    // While it rests the CPU does it; the first try meets a stream that is no page.
    let tried = || model.counts(0).descriptors > 0;
    while !tried() {
        decoder
            .decode(&[0xff, 0xff], &[2], &guest, PAGE, &[0])
            .unwrap_err();
    }
    let report = decoder
        .decode(&bodies, &lengths, &guest, PAGE, &[0])
        .unwrap();
    assert_eq!(report.by_device, 1);
}

#[test]
fn one_queue_that_rests_costs_the_others_nothing() {
    let limits = Limits {
        size: 8,
        ..Device::IAA_LIMITS
    };
    let corpus = Corpus::synthetic(300, 6);
    let model = Model::start(vec![
        Device::new("well", limits),
        Device::new("sick", limits).behaviour(Takes(0)),
    ])
    .unwrap();
    let queues = (0..2).map(|device| model.open(device).unwrap()).collect();
    let codec = codec(queues, Policy::Wait, LONG);
    let (block, offsets) = (block(&corpus), offsets(300));
    let mut encoder = codec.encoder().unwrap();
    let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let mut bodies = Vec::new();
    encoded.append_to(&mut bodies);
    assert_eq!(encoded.report().by_device, 300);
    // A task that is built is offered; were tasks built anew for every page, there would be as many offers as pages.
    let counts = model.counts(1);
    assert!(counts.taken == 0 && counts.full > 0, "{counts:?}");
}

/// Most memory that this process has had so far, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib >> 10
}

#[test]
fn lengths_alone_cost_no_memory() {
    let codec = PageCodec::software(PageFormat::Deflate);
    let (near, far) = UnixStream::pair().unwrap();
    drop(near);
    let memory = Mapping::new(65536, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let before = peak();
    // 2 GiB of bodies, all for the same page.
    let (lengths, offsets) = (vec![65535; 32768], vec![0; 32768]);
    let error = decoder
        .receive(&far, &lengths, &guest, 65536, &offsets)
        .unwrap_err();
    assert!(matches!(error, DecodeError::Read { .. }), "{error}");
    assert!(peak() - before < 512, "{} MiB", peak() - before);
}
