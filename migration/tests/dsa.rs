// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Zero pages by DSA, on a model of one: right whatever the device does, and by the device where it does well.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use idxd::{
    CompletionEngine, Limits, Mode, Queue, Source,
    model::{Behaviour, Chances, Device, EntryFate, MemberFate, Model, Random, Rate},
};
use migration::{
    Backed, DsaOptions, Mapping, PageBitmap, RamBlock, SoftwareScanner, ZeroEngine, ZeroReport,
    ZeroScanner,
};
use proptest::prelude::*;

/// The one-line oracle.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// For devices that answer: a machine that is busy with other tests is not a device that is halted.
const LONG: Duration = Duration::from_secs(30);
/// For devices that may not: what is silent is silent for ever.
const SHORT: Duration = Duration::from_millis(30);

fn options(patience: Duration) -> DsaOptions {
    let mut options = DsaOptions::default();
    options.patience = patience;
    options
}

fn scanner(queues: Vec<Arc<Queue>>, with_thread: bool) -> ZeroScanner {
    patient_scanner(queues, with_thread, LONG)
}

fn patient_scanner(queues: Vec<Arc<Queue>>, with_thread: bool, patience: Duration) -> ZeroScanner {
    let engine = Arc::new(CompletionEngine::new());
    if with_thread {
        assert!(engine.start().unwrap());
    }
    ZeroScanner::dsa(queues, engine, options(patience)).unwrap()
}

/// Scans pages of `size` bytes at `offsets` in `bytes`, and compares with the oracle.
fn check(
    scanner: &ZeroScanner,
    bytes: &[u8],
    size: usize,
    offsets: &[u64],
) -> Result<ZeroReport, TestCaseError> {
    let block = RamBlock::new(Source::of_vec(bytes.to_vec()).unwrap());
    let mut zero = PageBitmap::new(0);
    let mut channel = scanner.channel(0);
    let report = channel
        .scan(&block, size as u64, offsets, &mut zero)
        .unwrap();
    prop_assert_eq!(zero.len(), offsets.len());
    for (index, offset) in offsets.iter().enumerate() {
        let at = usize::try_from(*offset).unwrap();
        let page = &bytes[at..at + size];
        prop_assert_eq!(
            zero.get(index),
            is_zero(page),
            "page {} at {:#x}",
            index,
            at
        );
    }
    prop_assert_eq!(report.pages, offsets.len());
    prop_assert_eq!(report.zero, zero.count());
    prop_assert_eq!(
        report.untouched + report.sampled + report.by_device + report.by_cpu,
        report.pages
    );
    Ok(report)
}

/// Memory with odd bytes in it, a page size, and where pages begin: at any alignment, overlapping, in any order.
fn memory() -> impl Strategy<Value = (Vec<u8>, usize, Vec<u64>)> {
    (64_usize..9000, 1_usize..200)
        .prop_flat_map(|(size, pages)| {
            let len = size + pages * 777;
            let odd = prop::collection::vec((0..len, 1_u8..), 0..40);
            let offsets = prop::collection::vec(0..=(len - size) as u64, 1..pages + 1);
            (Just(len), Just(size), odd, offsets)
        })
        .prop_map(|(len, size, odd, offsets)| {
            let mut bytes = vec![0; len];
            for (at, value) in odd {
                bytes[at] = value;
            }
            (bytes, size, offsets)
        })
}

fn chances() -> impl Strategy<Value = Chances> {
    let chance = || prop_oneof![3 => Just(0_u32), 2 => 2_u32..40];
    let rare = prop_oneof![4 => Just(0_u32), 1 => 3_u32..10];
    (
        chance(),
        chance(),
        rare,
        chance(),
        chance(),
        chance(),
        chance(),
        chance(),
    )
        .prop_map(
            |(
                full,
                late,
                silent,
                unknown,
                list_fault,
                page_fault,
                member_status,
                member_silent,
            )| Chances {
                full,
                late,
                delay: Duration::from_millis(1),
                silent,
                unknown,
                list_fault,
                page_fault,
                member_status,
                member_silent,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_honest_device_says_what_the_oracle_says(
        (bytes, size, offsets) in memory(),
        max_batch in 1_u32..140,
        max_transfer in 64_u64..5000,
        with_thread: bool,
    ) {
        // A page of pieces fits in.
        let limits = Limits { size: 256, max_batch, max_transfer, ..Device::LIMITS };
        let model = Model::start(vec![Device::new("honest", limits)]).unwrap();
        let report = check(&scanner(vec![model.open(0).unwrap()], with_thread), &bytes, size, &offsets)?;
        prop_assert_eq!(report.by_cpu, 0);
        prop_assert_eq!(report.by_device + report.sampled, offsets.len());
        prop_assert!(model.counts(0).largest_batch <= max_batch);
    }

    #[test]
    fn whatever_a_device_does_the_answer_is_right(
        (bytes, size, offsets) in memory(),
        chances in chances(),
        seed: u64,
        dedicated: bool,
        by_write: bool,
        room in 1_u32..40,
        with_thread: bool,
    ) {
        let mode = if dedicated { Mode::Dedicated } else { Mode::Shared };
        let limits = Limits { mode, size: room, max_batch: 32, max_transfer: 4096, ..Device::LIMITS };
        let devices = (0..2).map(|index| {
            let device = Device::new("troubled", limits).behaviour(Random::new(seed ^ index, chances));
            if by_write { device.by_write() } else { device }
        });
        let model = Model::start(devices.collect()).unwrap();
        let queues = vec![model.open(0).unwrap(), model.open(1).unwrap()];
        check(&patient_scanner(queues, with_thread, SHORT), &bytes, size, &offsets)?;
        prop_assert_eq!((model.counts(0).dropped, model.counts(1).dropped), (0, 0));
    }

    #[test]
    fn who_was_told_wrong_limits_still_gets_right_answers((bytes, size, offsets) in memory()) {
        let truth = Limits { max_batch: 8, max_transfer: 512, ..Device::LIMITS };
        let model = Model::start(vec![Device::new("small", truth)]).unwrap();
        let told = Limits { max_batch: 128, max_transfer: 1 << 20, ..Device::LIMITS };
        let queue = model.open_as(0, told).unwrap();
        check(&scanner(vec![queue], false), &bytes, size, &offsets)?;
    }
}

fn pages_of(block: &RamBlock, size: u64) -> Vec<u64> {
    (0..block.source().len() / size)
        .map(|page| page * size)
        .collect()
}

fn one(device: Device) -> (Model, Arc<Queue>) {
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    (model, queue)
}

#[test]
fn every_single_odd_byte_of_a_page_is_found() {
    let (_model, queue) = one(Device::new("honest", Device::LIMITS));
    let scanner = scanner(vec![queue], false);
    let mapping = Mapping::new(4096 * 64, Backed::Small).unwrap();
    mapping.populate(0, mapping.size()).unwrap();
    let block = RamBlock::new(mapping.source().unwrap());
    let offsets = pages_of(&block, 4096);
    let mut channel = scanner.channel(0);
    let mut zero = PageBitmap::new(0);
    // Byte n of page n mod 64: 64 bytes a scan.
    for group in 0..64_u64 {
        for page in 0..64 {
            assert!(mapping.store(page * 4096 + group * 64 + page, 1));
        }
        channel.scan(&block, 4096, &offsets, &mut zero).unwrap();
        assert_eq!(zero.count(), 0, "bytes {}..", group * 64);
        for page in 0..64 {
            assert!(mapping.store(page * 4096 + group * 64 + page, 0));
        }
        channel.scan(&block, 4096, &offsets, &mut zero).unwrap();
        assert_eq!(zero.count(), 64);
    }
}

#[test]
fn missing_pages_are_found_zero_without_the_device_or_finished_by_the_cpu() {
    let pages = 64;
    let mapping = Mapping::new(pages * 4096, Backed::Small).unwrap();
    for page in (0..pages).step_by(4) {
        assert!(mapping.store(page * 4096 + 100, 7));
    }
    let device = Device::new("faulting", Device::LIMITS).faults_on_missing_pages();
    let (model, queue) = one(device);
    let expected: Vec<usize> = (0..64).filter(|page| page % 4 != 0).collect();
    // Known to the kernel: the device is not asked.
    let block = RamBlock::detect(mapping.source().unwrap()).unwrap();
    let offsets = pages_of(&block, 4096);
    let mut zero = PageBitmap::new(0);
    let by_dsa = scanner(vec![queue], false);
    let report = by_dsa
        .channel(0)
        .scan(&block, 4096, &offsets, &mut zero)
        .unwrap();
    assert!(zero.ones().eq(expected.iter().copied()));
    assert_eq!((report.untouched, report.trouble.faults), (48, 0));
    // Not known: the device meets the missing pages.
    let before = model.counts(0).descriptors;
    let block = RamBlock::new(mapping.source().unwrap());
    let mut channel = by_dsa.clone().sampling(false).channel(0);
    let report = channel.scan(&block, 4096, &offsets, &mut zero).unwrap();
    assert!(zero.ones().eq(expected.iter().copied()));
    assert_eq!(
        (report.untouched, report.by_cpu, report.by_device),
        (0, 48, 16)
    );
    assert_eq!(report.trouble.faults, 48);
    assert_eq!(model.counts(0).descriptors - before, 64);
}

#[test]
fn memfd_pages_that_others_wrote_and_holes_are_told_apart() {
    let mapping = Mapping::new(32 * 4096, Backed::Memfd).unwrap();
    // Data that this mapping has never faulted in.
    let file = mapping.file().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&**file, &[1], 5 * 4096).unwrap();
    mapping.write(9 * 4096, &[0]);
    let device = Device::new("faulting", Device::LIMITS).faults_on_missing_pages();
    let (_model, queue) = one(device);
    let by_dsa = scanner(vec![queue], true);
    for block in [
        RamBlock::new(mapping.source().unwrap()),
        RamBlock::with_file(mapping.source().unwrap(), file).unwrap(),
    ] {
        let offsets = pages_of(&block, 4096);
        let (mut zero, mut by_software) = (PageBitmap::new(0), PageBitmap::new(0));
        by_dsa
            .channel(0)
            .scan(&block, 4096, &offsets, &mut zero)
            .unwrap();
        SoftwareScanner::new()
            .scan(&block, 4096, &offsets, &mut by_software)
            .unwrap();
        assert_eq!(zero, by_software);
        assert_eq!(zero.count(), 31);
        assert!(!zero.get(5));
    }
    // Discarded again.
    mapping.discard(4 * 4096, 4 * 4096).unwrap();
    let block = RamBlock::with_file(mapping.source().unwrap(), file).unwrap();
    let mut zero = PageBitmap::new(0);
    by_dsa
        .channel(0)
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    let software = SoftwareScanner::new();
    let mut by_software = PageBitmap::new(0);
    software
        .reading_all()
        .scan(&block, 4096, &pages_of(&block, 4096), &mut by_software)
        .unwrap();
    assert_eq!(zero, by_software);
}

#[test]
fn a_page_larger_than_a_transfer_is_compared_in_pieces() {
    let limits = Limits {
        max_transfer: 64 << 10,
        max_batch: 16,
        ..Device::LIMITS
    };
    let (model, queue) = one(Device::new("pieces", limits));
    let by_dsa = scanner(vec![queue], false).sampling(false);
    let size = 2 << 20;
    let mapping = Mapping::new(4 * size, Backed::Small).unwrap();
    mapping.populate(0, mapping.size()).unwrap();
    // The last byte of a page, and the last of another page's first piece.
    assert!(mapping.store(2 * size - 1, 1));
    assert!(mapping.store(2 * size + (64 << 10) - 1, 1));
    let block = RamBlock::new(mapping.source().unwrap());
    let mut zero = PageBitmap::new(0);
    let report = by_dsa
        .channel(0)
        .scan(&block, size, &pages_of(&block, size), &mut zero)
        .unwrap();
    assert!(zero.ones().eq([0, 3]));
    assert_eq!((report.by_device, report.by_cpu), (4, 0));
    assert_eq!(model.counts(0).descriptors, 4 * 32);
}

#[test]
fn a_page_of_too_many_pieces_is_for_the_cpu() {
    let limits = Limits {
        max_transfer: 64,
        ..Device::LIMITS
    };
    let (model, queue) = one(Device::new("pieces", limits));
    let by_dsa = scanner(vec![queue], false).sampling(false);
    let size = 1 << 20;
    let mapping = Mapping::new(2 * size, Backed::Small).unwrap();
    assert!(mapping.store(size + 5, 1));
    let block = RamBlock::new(mapping.source().unwrap());
    let mut zero = PageBitmap::new(0);
    let report = by_dsa
        .channel(0)
        .scan(&block, size, &pages_of(&block, size), &mut zero)
        .unwrap();
    assert!(zero.ones().eq([0]));
    assert_eq!((report.by_device, report.by_cpu), (0, 2));
    assert_eq!(model.counts(0).taken, 0);
}

/// The CPU goes on at the byte that the device came to, and to the last byte of the page.
#[test]
fn what_is_behind_a_fault_is_looked_at_to_its_end() {
    #[derive(Debug)]
    struct FaultsAt(u32);
    impl Behaviour for FaultsAt {
        fn member(&mut self, _: &idxd::Descriptor) -> MemberFate {
            MemberFate::FaultAt(self.0)
        }
    }
    let odd = [0, 99, 100, 101, 2047, 4094, 4095];
    for fault in [0, 1, 100, 2048, 4095] {
        let (_model, queue) = one(Device::new("faults", Device::LIMITS).behaviour(FaultsAt(fault)));
        let mut bytes = vec![0; (odd.len() + 1) * 4096];
        for (page, at) in odd.iter().enumerate() {
            bytes[page * 4096 + at] = 1;
        }
        let block = RamBlock::new(Source::of_vec(bytes).unwrap());
        let mut zero = PageBitmap::new(0);
        let report = scanner(vec![queue], false)
            .sampling(false)
            .channel(0)
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
        assert!(zero.ones().eq([odd.len()]), "{fault}: {zero:?}");
        let in_front = odd.iter().filter(|at| **at < fault as usize).count();
        assert_eq!(report.by_device, in_front, "{fault}");
    }
}

#[test]
fn a_full_queue_is_tried_a_bounded_number_of_times_and_then_the_cpu_looks() {
    #[derive(Debug)]
    struct Full;
    impl Behaviour for Full {
        fn is_full(&mut self) -> bool {
            true
        }
    }
    let (model, queue) = one(Device::new("full", Device::LIMITS).behaviour(Full));
    let by_dsa = scanner(vec![queue], true).sampling(false);
    let block = RamBlock::new(Source::of_vec(vec![0; 256 * 4096]).unwrap());
    let mut zero = PageBitmap::new(0);
    let mut channel = by_dsa.channel(0);
    let report = channel
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    assert_eq!(
        (report.zero, report.by_cpu, report.by_device),
        (256, 256, 0)
    );
    let most = u64::from(DsaOptions::default().retries) + 1;
    let full = report.trouble.full;
    assert!((1..=most).contains(&full), "{full}");
    assert_eq!(model.counts(0).full, full);
    // Then it rests, and nobody tries.
    let offsets = pages_of(&block, 4096);
    for _ in 0..3 {
        let report = channel.scan(&block, 4096, &offsets, &mut zero).unwrap();
        if report.trouble.full == 0 {
            return;
        }
    }
    panic!("a full queue is tried in every scan");
}

#[test]
fn a_slow_device_beside_a_fast_one_gets_little_to_do() {
    let limits = Limits {
        max_batch: 64,
        ..Device::LIMITS
    };
    let devices = [4e9, 4e7].map(|rate| {
        Device::new("d", limits)
            .rate(Rate::bytes_per_second(rate))
            .prepared(Arc::new(|_, _| false))
    });
    let model = Model::start(devices.into()).unwrap();
    let queues = vec![model.open(0).unwrap(), model.open(1).unwrap()];
    let by_dsa = scanner(queues, true)
        .sampling(false)
        .batch_pages(64)
        .unwrap();
    let mut channel = by_dsa.channel(0);
    let block = RamBlock::new(Source::of_vec(vec![0; 1024 * 4096]).unwrap());
    let mut zero = PageBitmap::new(0);
    for _ in 0..40 {
        channel
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
    }
    let [fast, slow] = [0, 1].map(|device| model.counts(device).descriptors);
    assert_eq!(fast + slow, 40 * 1024);
    assert!(slow * 4 < fast, "{slow} and {fast}");
}

#[test]
fn a_channel_keeps_nothing_of_what_it_has_scanned() {
    let (_model, queue) = one(Device::new("honest", Device::LIMITS));
    let by_dsa = scanner(vec![queue], true).sampling(false);
    let mut channel = by_dsa.channel(0);
    let source = Source::of_vec(vec![0; 256 * 4096]).unwrap();
    let block = RamBlock::new(source.clone());
    let mut zero = PageBitmap::new(0);
    let report = channel
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    assert_eq!(report.by_device, 256);
    drop(block);
    assert_eq!(Arc::strong_count(source.keep()), 1);
}

#[test]
fn what_cannot_be_measured_is_software_and_says_so() {
    for page_size in [0, 63, 1 << 30] {
        let (_model, queue) = one(Device::new("honest", Device::LIMITS));
        let demand = migration::Demand {
            page_size,
            ..migration::Demand::default()
        };
        let engine = Arc::new(CompletionEngine::new());
        let choice = ZeroScanner::choose(vec![queue], engine, options(LONG), &demand);
        assert_eq!(choice.scanner.engine(), ZeroEngine::Software);
        assert_eq!(
            choice.reason,
            "software: pages of that size are not measured"
        );
    }
}

#[test]
fn a_device_that_never_answers_is_left_alone_and_nothing_hangs() {
    #[derive(Debug)]
    struct Halts(NonZeroU32);
    impl Behaviour for Halts {
        fn entry(&mut self, _: &idxd::Descriptor) -> EntryFate {
            match NonZeroU32::new(self.0.get() - 1) {
                Some(left) => {
                    self.0 = left;
                    EntryFate::Done
                }
                None => EntryFate::Halt,
            }
        }
    }
    for with_thread in [false, true] {
        let halts = Device::new("halts", Device::LIMITS)
            .behaviour(Halts(NonZeroU32::MIN.saturating_add(2)));
        let model = Model::start(vec![halts, Device::new("well", Device::LIMITS)]).unwrap();
        let halting = model.open(0).unwrap();
        let by_dsa = patient_scanner(
            vec![Arc::clone(&halting), model.open(1).unwrap()],
            with_thread,
            Duration::from_secs(1),
        )
        .sampling(false);
        let source = Source::of_vec(vec![0; 4096 * 4096]).unwrap();
        let block = RamBlock::new(source.clone());
        let mut zero = PageBitmap::new(0);
        let mut channel = by_dsa.channel(0);
        let report = channel
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
        assert_eq!(report.zero, 4096);
        assert!(report.trouble.timeouts >= 1);
        assert!(report.by_cpu > 0 && report.by_device > 0, "{report:?}");
        assert!(halting.quarantined() >= 1);
        // The memory is kept for the device until its queue is closed.
        drop((block, channel, by_dsa));
        assert!(Arc::strong_count(source.keep()) > 1);
        drop(halting);
        assert_eq!(Arc::strong_count(source.keep()), 1);
    }
}

#[test]
fn near_queues_share_the_work_and_far_ones_get_none() {
    let near = Limits {
        node: Some(0),
        ..Device::LIMITS
    };
    let far = Limits {
        node: Some(7),
        ..Device::LIMITS
    };
    let devices = [near, near, far].map(|limits| Device::new("d", limits));
    let model = Model::start(devices.into()).unwrap();
    let queues = (0..3).map(|device| model.open(device).unwrap()).collect();
    let by_dsa = scanner(queues, false)
        .sampling(false)
        .batch_pages(16)
        .unwrap();
    let mut channel = by_dsa.channel_on(0, Some(0));
    let block = RamBlock::new(Source::of_vec(vec![0; 1024 * 4096]).unwrap());
    let mut zero = PageBitmap::new(0);
    channel
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    let descriptors = [0, 1, 2].map(|device| model.counts(device).descriptors);
    let [first, second, third] = descriptors;
    assert_eq!((first + second, third), (1024, 0));
    assert!(first > 0 && second > 0, "{descriptors:?}");
    // Where nothing is near, all are used.
    let mut channel = by_dsa.channel_on(0, Some(3));
    channel
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    assert!(model.counts(2).descriptors > 0);
}

#[test]
fn batches_are_as_large_as_was_asked_for() {
    let limits = Limits {
        max_batch: 1024,
        ..Device::LIMITS
    };
    for pages in [16, 128, 1024] {
        let (model, queue) = one(Device::new("large", limits));
        let by_dsa = scanner(vec![queue], false)
            .sampling(false)
            .batch_pages(pages)
            .unwrap();
        let block = RamBlock::new(Source::of_vec(vec![0; 2048 * 4096]).unwrap());
        let mut zero = PageBitmap::new(0);
        by_dsa
            .channel(0)
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
        let counts = model.counts(0);
        assert_eq!(counts.largest_batch as usize, pages);
        assert_eq!(counts.batches, 2048 / pages as u64);
    }
    for pages in [0, 15, 1025] {
        let error = ZeroScanner::software().batch_pages(pages).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("batches of {pages} pages: they have 16 to 1024")
        );
    }
}

#[test]
fn a_share_of_zero_pages_travels_as_data() {
    let block = RamBlock::new(Source::of_vec(vec![0; 400 * 4096]).unwrap());
    let (_model, queue) = one(Device::new("honest", Device::LIMITS));
    for scanner in [ZeroScanner::software(), scanner(vec![queue], false)] {
        let mut channel = scanner.normal_page_ratio(25).channel(0);
        let mut zero = PageBitmap::new(0);
        let report = channel
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
        assert_eq!((report.zero, report.as_data), (300, 100));
        assert_eq!(zero.count(), 300);
    }
}

#[test]
fn pages_of_data_are_seen_by_a_sample_and_the_device_is_spared() {
    let mut bytes = vec![0xab; 2048 * 4096];
    bytes[..4096].fill(0);
    let block = RamBlock::new(Source::of_vec(bytes).unwrap());
    let (model, queue) = one(Device::new("honest", Device::LIMITS));
    let by_dsa = scanner(vec![queue], false);
    let mut zero = PageBitmap::new(0);
    let report = by_dsa
        .channel(0)
        .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
        .unwrap();
    assert!(zero.ones().eq([0]));
    assert_eq!((report.sampled, report.by_device), (2047, 1));
    assert_eq!(model.counts(0).descriptors, 1);
    // Where nearly all is zero, sampling does not pay and is given up.
    let block = RamBlock::new(Source::of_vec(vec![0; 8192 * 4096]).unwrap());
    let mut channel = by_dsa.channel(0);
    for _ in 0..2 {
        channel
            .scan(&block, 4096, &pages_of(&block, 4096), &mut zero)
            .unwrap();
    }
    assert!(!channel.is_sampling());
}

#[test]
fn without_a_device_software_is_chosen_and_says_why() {
    let engine = Arc::new(CompletionEngine::new());
    let choice = ZeroScanner::choose(
        Vec::new(),
        engine,
        options(LONG),
        &migration::Demand::default(),
    );
    assert_eq!(choice.scanner.engine(), ZeroEngine::Software);
    assert_eq!(
        choice.reason,
        "software: there is no work queue of a DSA that this process may use"
    );
}

#[test]
fn with_one_both_are_measured_and_the_choice_follows() {
    let demand = migration::Demand {
        pages_per_second: 1.0,
        zero_percent: 100,
        ..migration::Demand::default()
    };
    // A device so slow that a page costs the CPU more in waiting than software does, and one that answers at once.
    let slow = Device::new("slow", Device::LIMITS)
        .rate(Rate::bytes_per_second(300e6))
        .prepared(Arc::new(|_, _| false));
    let (_model, queue) = one(slow);
    let engine = Arc::new(CompletionEngine::new());
    let options = DsaOptions::default();
    let demand_of_much = migration::Demand {
        pages_per_second: 1e6,
        ..demand
    };
    let choice = ZeroScanner::choose(vec![queue], engine, options, &demand_of_much);
    let (software, dsa) = (choice.software.unwrap(), choice.dsa.unwrap());
    assert!(dsa.pages_per_second < 1e6, "{dsa:?}");
    assert!(software.cpu_nanos_per_page > 0.0 && dsa.cpu_nanos_per_page > 0.0);
    let faster = dsa.pages_per_second > software.pages_per_second;
    assert_eq!(
        choice.scanner.engine() == ZeroEngine::Dsa,
        faster,
        "{}",
        choice.reason
    );
}
