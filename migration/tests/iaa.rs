// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages through IAA, on a model of one: each comes back whatever the device does, and by the device where it does well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use idxd::{
    Descriptor, Limits, Mode, Queue, Source,
    iaa::{Aecs, Coding},
    model::{Behaviour, Chances, Device, EntryFate, MemberFate, Model, Random, Rate, Tenants},
};
use migration::{
    Backed, Class, CodecReport, Corpus, IaaOptions, Mapping, PageCodec, PageFormat, Policy,
    RamBlock, Trouble,
};
use proptest::prelude::*;

const PAGE: u64 = 4096;
/// For devices that answer: a machine that is busy with other tests is not a device that is halted.
const LONG: Duration = Duration::from_secs(30);
/// For devices that may not: what is silent is silent for ever.
const SHORT: Duration = Duration::from_millis(30);

fn options(policy: Policy, patience: Duration) -> IaaOptions {
    let mut options = IaaOptions::default().with_policy(policy);
    options.patience = patience;
    options
}

fn codec(queues: Vec<Arc<Queue>>, policy: Policy, patience: Duration) -> PageCodec {
    PageCodec::iaa(queues, options(policy, patience)).unwrap()
}

/// One device, and its queue.
fn one(device: Device) -> (Model, Vec<Arc<Queue>>) {
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    (model, vec![queue])
}

fn honest() -> Device {
    Device::new("iax1/wq1.0", Device::IAA_LIMITS)
}

fn offsets(pages: usize) -> Vec<u64> {
    (0..pages as u64).map(|page| page * PAGE).collect()
}

/// What was sent of a corpus.
struct Sent {
    lengths: Vec<u32>,
    bodies: Vec<u8>,
    report: CodecReport,
}

fn send(codec: &PageCodec, corpus: &Corpus) -> Sent {
    let block = RamBlock::new(Source::of_vec(corpus.bytes().to_vec()).unwrap());
    let offsets = offsets(corpus.len());
    let mut encoder = codec.encoder().unwrap();
    let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let mut bodies = Vec::new();
    encoded.append_to(&mut bodies);
    let sent = Sent {
        lengths: encoded.lengths().to_vec(),
        bodies,
        report: *encoded.report(),
    };
    let total: u32 = sent.lengths.iter().sum();
    assert_eq!(sent.bodies.len(), total as usize);
    assert_eq!(sent.report.pages, corpus.len());
    assert_eq!(sent.report.by_device + sent.report.by_cpu, corpus.len());
    assert_eq!(sent.report.body_bytes, u64::from(total));
    assert_eq!(
        sent.report.raw,
        sent.lengths.iter().filter(|len| **len == 4096).count()
    );
    sent
}

/// Restores what was sent, and compares.
fn receive(codec: &PageCodec, sent: &Sent, corpus: &Corpus) -> CodecReport {
    let memory = Mapping::new(corpus.bytes().len() as u64, Backed::Small).unwrap();
    let guest = memory.destination().unwrap();
    let mut decoder = codec.decoder().unwrap();
    let offsets = offsets(corpus.len());
    let report = decoder
        .decode(&sent.bodies, &sent.lengths, &guest, PAGE, &offsets)
        .unwrap();
    assert!(memory.to_vec() == corpus.bytes());
    assert_eq!(report.raw, sent.report.raw);
    assert_eq!(
        report.by_device + report.by_cpu,
        corpus.len() - sent.report.raw
    );
    report
}

fn in_software() -> PageCodec {
    PageCodec::software(PageFormat::Deflate)
}

#[test]
fn every_page_is_the_devices_and_comes_back_by_either_end() {
    let corpus = Corpus::synthetic(300, 1);
    let trained = Aecs::trained(corpus.pages()).unwrap();
    for coding in [
        Coding::Tables(Aecs::fixed()),
        Coding::Tables(trained),
        Coding::Generated,
    ] {
        let (_model, queues) = one(honest().can_generate_headers());
        let codec = codec(queues, Policy::Wait, LONG).coding(coding.clone());
        let sent = send(&codec, &corpus);
        assert_eq!(sent.report.by_device, 300, "{coding:?}");
        assert!(sent.report.ratio() > 1.3, "{coding:?}: {:?}", sent.report);
        let restored = receive(&codec, &sent, &corpus);
        assert_eq!(restored.by_device, 300 - sent.report.raw);
        receive(&in_software(), &sent, &corpus);
        // And what software makes with care is for devices, too.
        let ours = send(&in_software().safe_for_iaa(true), &corpus);
        assert_eq!(ours.report.by_cpu, 300);
        let restored = receive(&codec, &ours, &corpus);
        assert_eq!(restored.undecodable, 0);
        assert_eq!(restored.by_device, 300 - ours.report.raw);
    }
}

#[test]
fn pages_of_every_kind_come_back_by_every_engine_from_every_engine() {
    let (_model, queues) = one(honest().can_generate_headers());
    let trained = Aecs::trained(Corpus::synthetic(200, 20).pages()).unwrap();
    let by_device = |coding: Coding| codec(queues.clone(), Policy::Wait, LONG).coding(coding);
    let engines = [
        by_device(Coding::Tables(Aecs::fixed())),
        by_device(Coding::Tables(trained)),
        by_device(Coding::Generated),
        in_software(),
        in_software().safe_for_iaa(true),
    ];
    for class in Class::ALL {
        let corpus = Corpus::only(class, 40, 21);
        for from in &engines {
            let sent = send(from, &corpus);
            assert_eq!(sent.report.raw == 40, class == Class::Random, "{class}");
            for to in &engines[2..4] {
                receive(to, &sent, &corpus);
            }
        }
    }
}

#[test]
fn what_a_device_cannot_decode_is_no_corruption() {
    let (_model, queues) = one(honest());
    let codec = codec(queues, Policy::Wait, LONG);
    // Most of what software writes for these pages crosses from one tree into the other.
    let corpus = Corpus::only(Class::Repeats, 400, 1);
    let sent = send(&in_software(), &corpus);
    let restored = receive(&codec, &sent, &corpus);
    assert!(restored.undecodable > 0, "{restored:?}");
    assert_eq!(restored.by_cpu, restored.undecodable);
    let mut full_at_most = Trouble::default();
    full_at_most.full = restored.trouble.full;
    assert_eq!(restored.trouble, full_at_most);
    let careful = send(&in_software().safe_for_iaa(true), &corpus);
    assert_eq!(receive(&codec, &careful, &corpus).undecodable, 0);
}

/// The page of every n-th descriptor is missing, at a byte of it.
#[derive(Debug)]
struct Missing {
    every: u32,
    seen: u32,
}

impl Behaviour for Missing {
    fn member(&mut self, descriptor: &Descriptor) -> MemberFate {
        self.seen += 1;
        if self.seen % self.every == 0 {
            return MemberFate::FaultAt(descriptor.xfer_size() - 1);
        }
        MemberFate::Done
    }
}

#[test]
fn a_page_fault_is_answered_by_a_touch_and_a_second_try() {
    let memory = Mapping::new(200 * PAGE, Backed::Small).unwrap();
    for page in (0..200).step_by(2) {
        memory.fill(page * PAGE, 100, 7);
    }
    let (model, queues) = one(honest().faults_on_missing_pages());
    let codec = codec(queues, Policy::Wait, LONG);
    let block = RamBlock::new(memory.source().unwrap());
    let offsets = offsets(200);
    let mut encoder = codec.encoder().unwrap();
    let encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
    let report = *encoded.report();
    assert_eq!((report.by_device, report.by_cpu), (200, 0));
    assert_eq!((report.again, report.trouble.faults), (100, 100));
    assert_eq!(model.counts(0).descriptors, 300);
    // To where no page was ever touched.
    let corpus = Corpus::synthetic(100, 2);
    let sent = send(&in_software().safe_for_iaa(true), &corpus);
    let restored = receive(&codec, &sent, &corpus);
    let streams = 100 - sent.report.raw;
    assert_eq!((restored.by_device, restored.by_cpu), (streams, 0));
    assert_eq!(restored.again, streams);
}

#[test]
fn a_page_that_faults_twice_is_for_the_cpu() {
    for every in [1, 2, 3] {
        let (model, queues) = one(honest().behaviour(Missing { every, seen: 0 }));
        let codec = codec(queues, Policy::Wait, LONG);
        let corpus = Corpus::synthetic(200, 3);
        let sent = send(&codec, &corpus);
        let descriptors = model.counts(0).descriptors;
        assert_eq!(descriptors, 200 + sent.report.again as u64);
        assert_eq!(sent.report.trouble.faults, descriptors / u64::from(every));
        if every == 1 {
            assert_eq!((sent.report.again, sent.report.by_cpu), (200, 200));
        }
        receive(&codec, &sent, &corpus);
    }
}

/// Always full.
#[derive(Debug)]
struct Full;

impl Behaviour for Full {
    fn is_full(&mut self) -> bool {
        true
    }
}

#[test]
fn a_queue_that_is_always_full_costs_time_and_no_page_by_any_policy() {
    let corpus = Corpus::synthetic(40, 4);
    for policy in Policy::ALL {
        let (model, queues) = one(honest().behaviour(Full));
        let codec = codec(queues, policy, SHORT);
        let sent = send(&codec, &corpus);
        assert_eq!(sent.report.by_cpu, 40, "{policy}");
        assert!(sent.report.trouble.full > 0, "{policy}");
        assert_eq!(model.counts(0).taken, 0);
        receive(&codec, &sent, &corpus);
    }
}

#[test]
fn policies_do_what_they_are_called() {
    let corpus = Corpus::synthetic(400, 5);
    for policy in Policy::ALL {
        // A page takes 0.5 ms, of which 4 fit: much slower than the CPU in any build.
        let limits = Limits {
            size: 4,
            ..Device::IAA_LIMITS
        };
        let slow = Device::new("iax1/wq1.0", limits).rate(Rate::bytes_per_second(8.0e6));
        let (_model, queues) = one(slow);
        let codec = codec(queues, policy, LONG);
        let sent = send(&codec, &corpus);
        let full = sent.report.trouble.full;
        match policy {
            Policy::Wait => assert_eq!(sent.report.by_cpu, 0, "{full}"),
            Policy::Adaptive => {
                assert!(
                    sent.report.by_cpu > 0 && sent.report.by_device > 0,
                    "{full}"
                );
            }
            // Three more tries in front of each page that the CPU takes.
            Policy::Retry | Policy::SoftwareLater | Policy::Delay => {
                assert!(sent.report.by_cpu > 0 && sent.report.by_device > 0);
                assert!(full >= 4 * sent.report.by_cpu as u64, "{policy}: {full}");
            }
            _ => assert!(sent.report.by_cpu > 0 && sent.report.by_device > 0),
        }
        receive(&in_software(), &sent, &corpus);
    }
}

/// Says nothing, or one status for everything.
#[derive(Debug)]
struct Always(EntryFate);

impl Behaviour for Always {
    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        self.0
    }
}

#[test]
fn a_device_that_does_not_answer_or_fails_rests_and_every_page_is_done() {
    let corpus = Corpus::synthetic(150, 6);
    for fate in [
        EntryFate::Silent,
        EntryFate::Halt,
        EntryFate::Status(0x20),
        EntryFate::Status(0x24),
        EntryFate::Status(0x30),
        EntryFate::Status(0x7e),
    ] {
        for policy in Policy::ALL {
            let (_model, queues) = one(honest().behaviour(Always(fate)));
            let is_silent = matches!(fate, EntryFate::Silent | EntryFate::Halt);
            let patience = if is_silent { SHORT } else { LONG };
            let codec = codec(queues, policy, patience);
            let sent = send(&codec, &corpus);
            assert_eq!(sent.report.by_cpu, 150, "{fate:?} {policy}");
            let trouble = sent.report.trouble;
            assert_eq!(
                trouble.timeouts > 0,
                is_silent,
                "{fate:?} {policy}: {trouble:?}"
            );
            assert_eq!(
                trouble.failed > 0,
                !is_silent,
                "{fate:?} {policy}: {trouble:?}"
            );
            receive(&codec, &sent, &corpus);
        }
    }
}

#[test]
fn unequal_devices_share_the_work_and_a_bad_one_is_left_out() {
    let corpus = Corpus::synthetic(600, 7);
    let limits = Device::IAA_LIMITS;
    for policy in [Policy::Retry, Policy::Wait, Policy::Adaptive] {
        let model = Model::start(vec![
            Device::new("fast", limits).rate(Rate::bytes_per_second(400e6)),
            Device::new("slow", limits).rate(Rate::bytes_per_second(50e6)),
            Device::new("silent", limits).behaviour(Always(EntryFate::Silent)),
            Device::new("written", limits).by_write(),
        ])
        .unwrap();
        let queues = (0..4).map(|device| model.open(device).unwrap()).collect();
        // The silent one has to be waited for; for the others that is long.
        let codec = codec(queues, policy, Duration::from_secs(2));
        let sent = send(&codec, &corpus);
        receive(&in_software(), &sent, &corpus);
        assert!(sent.report.trouble.timeouts > 0, "{policy}");
        let done = |device: usize| model.counts(device).descriptors;
        let by_devices = done(0) + done(1) + done(3);
        assert_eq!(by_devices, sent.report.by_device as u64, "{policy}");
        assert!(done(0) > 0 && done(3) > 0, "{policy}");
    }
}

#[test]
fn queues_of_all_sizes_and_modes_are_used_as_they_are() {
    let corpus = Corpus::synthetic(130, 8);
    for mode in [Mode::Shared, Mode::Dedicated] {
        for size in [1, 2, 63, 64, 65, 128] {
            let limits = Limits {
                mode,
                size,
                ..Device::IAA_LIMITS
            };
            let (model, queues) = one(Device::new("iax1/wq1.0", limits));
            let codec = codec(queues, Policy::Wait, LONG);
            let sent = send(&codec, &corpus);
            assert_eq!(sent.report.by_device, 130, "{mode} {size}");
            assert_eq!(model.counts(0).dropped, 0, "{mode} {size}");
            receive(&codec, &sent, &corpus);
        }
    }
}

#[test]
fn tenants_take_their_part() {
    let corpus = Corpus::synthetic(300, 9);
    let tenants = Tenants {
        entries: 120,
        share: 0.5,
        full_one_in: 3,
    };
    for policy in Policy::ALL {
        let device = honest()
            .rate(Rate::bytes_per_second(500e6))
            .tenants(tenants);
        let (_model, queues) = one(device);
        let codec = codec(queues, policy, LONG);
        let sent = send(&codec, &corpus);
        assert!(sent.report.trouble.full > 0, "{policy}");
        receive(&codec, &sent, &corpus);
    }
}

#[test]
fn a_thread_keeps_its_buffers_from_call_to_call() {
    let corpus = Corpus::synthetic(200, 10);
    let (_model, queues) = one(honest());
    let codec = codec(queues, Policy::Retry, LONG);
    let block = RamBlock::new(Source::of_vec(corpus.bytes().to_vec()).unwrap());
    let mut encoder = codec.encoder().unwrap();
    let mut bodies = Vec::new();
    // Calls of other lengths, in another order, and with pages of another size between.
    for round in 0..6_usize {
        let mut offsets = offsets(200 - round * 30);
        offsets.reverse();
        let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
        bodies.clear();
        encoded.append_to(&mut bodies);
        let lengths = encoded.lengths().to_vec();
        let memory = Mapping::new(200 * PAGE, Backed::Small).unwrap();
        let guest = memory.destination().unwrap();
        let mut decoder = codec.decoder().unwrap();
        decoder
            .decode(&bodies, &lengths, &guest, PAGE, &offsets)
            .unwrap();
        let len = offsets.len() * 4096;
        assert!(memory.to_vec()[..len] == corpus.bytes()[..len]);
        let small = encoder.encode(&block, 1024, &offsets).unwrap();
        assert_eq!(
            small.report().by_device + small.report().by_cpu,
            offsets.len()
        );
    }
}

/// What happens how often, and analytics errors.
fn chances() -> impl Strategy<Value = (Chances, u32)> {
    let chance = || prop_oneof![3 => Just(0_u32), 2 => 2_u32..40];
    let rare = || prop_oneof![5 => Just(0_u32), 1 => 20_u32..200];
    (
        chance(),
        chance(),
        rare(),
        chance(),
        chance(),
        chance(),
        chance(),
        rare(),
    )
        .prop_map(
            |(full, late, silent, unknown, page_fault, member_status, analytics, member_silent)| {
                let chances = Chances {
                    full,
                    late,
                    delay: Duration::from_micros(300),
                    silent,
                    unknown,
                    page_fault,
                    member_status,
                    member_silent,
                    ..Chances::default()
                };
                (chances, analytics)
            },
        )
}

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_devices_do_every_page_comes_back(
        chances in prop::collection::vec(chances(), 1..4),
        seed in any::<u64>(),
        policy in policy(),
        size in 1_u32..140,
        task_pages in 1_usize..100,
    ) {
        let corpus = Corpus::synthetic(150, seed);
        let limits = Limits { size, ..Device::IAA_LIMITS };
        let devices = chances.iter().enumerate().map(|(index, (chances, analytics))| {
            let trouble = Random::new(seed ^ index as u64, *chances).analytics(*analytics);
            Device::new(format!("wq{index}.0"), limits).behaviour(trouble)
        });
        let model = Model::start(devices.collect()).unwrap();
        let queues = (0..chances.len()).map(|index| model.open(index).unwrap()).collect();
        let mut options = options(policy, SHORT);
        options.task_pages = task_pages;
        let codec = PageCodec::iaa(queues, options).unwrap().safe_for_iaa(true);
        let sent = send(&codec, &corpus);
        receive(&in_software(), &sent, &corpus);
        receive(&codec, &sent, &corpus);
    }
}

/// A guest that writes meanwhile.
#[test]
fn pages_that_change_meanwhile_are_pages_all_the_same() {
    let memory = Mapping::new(64 * PAGE, Backed::Small).unwrap();
    let corpus = Corpus::synthetic(64, 11);
    memory.write(0, corpus.bytes());
    let (_model, queues) = one(honest());
    let codecs = [
        codec(queues, Policy::Retry, LONG),
        in_software(),
        PageCodec::software(PageFormat::Zstd),
        PageCodec::software(PageFormat::Lz4),
    ];
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let guest = {
        let (memory, stop) = (Arc::clone(&memory), Arc::clone(&stop));
        std::thread::Builder::new()
            .spawn(move || {
                let mut value = 1_u64;
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    value = value
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let [.., byte] = value.to_le_bytes();
                    memory.store((value >> 20) % (64 * PAGE), byte);
                }
            })
            .unwrap()
    };
    let block = RamBlock::new(memory.source().unwrap());
    let offsets = offsets(64);
    for codec in &codecs {
        let mut encoder = codec.encoder().unwrap();
        let mut decoder = codec.decoder().unwrap();
        for _ in 0..20 {
            let mut encoded = encoder.encode(&block, PAGE, &offsets).unwrap();
            let mut bodies = Vec::new();
            encoded.append_to(&mut bodies);
            let lengths = encoded.lengths().to_vec();
            let room = Mapping::new(64 * PAGE, Backed::Small).unwrap();
            let to = room.destination().unwrap();
            decoder
                .decode(&bodies, &lengths, &to, PAGE, &offsets)
                .unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    guest.join().unwrap();
}
