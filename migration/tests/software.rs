// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every kernel and the scanner over them against one line: are all the bytes zero?

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use idxd::Source;
use migration::{
    Backed, Isa, Kernel, Mapping, PageBitmap, RamBlock, ScanError, SoftwareScanner, bandwidth,
};
use proptest::prelude::*;

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn memory(size: u64) -> Arc<Mapping> {
    Mapping::new(size, Backed::Small).unwrap()
}

fn scanners() -> impl Iterator<Item = SoftwareScanner> {
    let with = |kernel| SoftwareScanner::new().with_kernel(kernel);
    Kernel::available().into_iter().map(with)
}

#[test]
fn this_machine_has_the_kernels_of_its_architecture() {
    let isas: Vec<Isa> = Kernel::available().iter().map(Kernel::isa).collect();
    println!("kernels: {isas:?}");
    assert!(isas.contains(&Isa::Portable));
    assert_eq!(isas.contains(&Isa::Sse2), cfg!(target_arch = "x86_64"));
    assert_eq!(isas.contains(&Isa::Neon), cfg!(target_arch = "aarch64"));
    assert_eq!(Kernel::best().isa(), isas[0]);
    assert!(isas.is_sorted());
}

#[test]
fn one_odd_byte_anywhere_is_found() {
    const AROUND: u64 = 64;
    let memory = memory(4096);
    let source = memory.source().unwrap();
    for kernel in Kernel::available() {
        for shift in [0, 1, 7, 8, 15, 33, 63] {
            let sizes = (0..140)
                .chain((140..1100).step_by(37))
                .chain([256, 512, 1024]);
            for len in sizes {
                let start = AROUND + shift;
                // What is around it must not matter.
                memory.store(start - 1, 0xff);
                memory.store(start + len, 0xff);
                let says = || kernel.is_zero(&source, start, len).unwrap();
                assert!(says(), "{kernel:?}: {len} bytes from {start} on");
                for at in start..start + len {
                    memory.store(at, 1 << (at % 8));
                    assert!(!says(), "{kernel:?}: byte {at} of {len} from {start} on");
                    memory.store(at, 0);
                }
                memory.store(start - 1, 0);
                memory.store(start + len, 0);
            }
        }
    }
}

#[test]
fn all_lengths_at_the_edges_are_found_and_nothing_outside_is_read() {
    // What lies around a `Mapping` cannot be read: one byte too far ends the process.
    let memory = memory(8192);
    let (source, size) = (memory.source().unwrap(), memory.size());
    for kernel in Kernel::available() {
        for len in (0..1100).chain([4096, 8191, 8192]) {
            for start in [0, size - len] {
                assert_eq!(kernel.is_zero(&source, start, len), Some(true));
                if len > 0 {
                    for at in [start, start + len - 1] {
                        memory.store(at, 0x80);
                        assert_eq!(kernel.is_zero(&source, start, len), Some(false));
                        memory.store(at, 0);
                    }
                    let part = memory.part_source(start, len).unwrap();
                    bandwidth::read(&part, kernel);
                }
            }
        }
        assert_eq!(kernel.is_zero(&source, 1, size), None);
        assert_eq!(kernel.is_zero(&source, u64::MAX, 2), None);
    }
    for mut scanner in scanners() {
        let block = RamBlock::new(source.clone());
        for page_size in [64, 65, 100, 256, 1000, 4096, 8192] {
            let offsets = [0, size - page_size];
            let mut zero = PageBitmap::default();
            let scanned = scanner
                .scan(&block, page_size, &offsets, &mut zero)
                .unwrap();
            assert_eq!((scanned.zero, zero.count(), scanned.read), (2, 2, 2));
        }
    }
}

#[test]
fn a_batch_that_cannot_be_reads_nothing_and_says_why() {
    let memory = memory(8192);
    let mut zero = PageBitmap::new(3);
    zero.set(1);
    let before = zero.clone();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let mut scanner = SoftwareScanner::new();
    let mut fails = |page_size, offsets: &[u64]| {
        let error = scanner.scan(&block, page_size, offsets, &mut zero);
        assert_eq!(zero, before);
        error.unwrap_err()
    };
    for page_size in [0, 63, (1 << 30) + 1, u64::MAX] {
        assert_eq!(fails(page_size, &[0]), ScanError::PageSize { page_size });
    }
    let outside = fails(4096, &[4096, 0, 4097]);
    assert_eq!(
        outside.to_string(),
        "page 2 of the batch, 0x1000 bytes from 0x1001 on, does not lie inside of its block of 0x2000 bytes"
    );
    for offset in [8192, u64::MAX, u64::MAX - 4095] {
        assert!(matches!(
            fails(4096, &[0, offset]),
            ScanError::Outside { index: 1, .. }
        ));
    }
    assert!(matches!(
        fails(16384, &[0]),
        ScanError::Outside { index: 0, .. }
    ));
    assert_eq!(resident(&block), 0, "nothing was touched");

    let nothing = scanner.scan(&block, 4096, &[], &mut zero).unwrap();
    assert_eq!((nothing.pages, zero.len()), (0, 0));
}

/// Base pages of the block that are there, by the page map.
fn resident(block: &RamBlock) -> u64 {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open("/proc/self/pagemap").unwrap();
    let first = block.source().address() / 4096;
    let is_there = |page: &u64| {
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, page * 8).unwrap();
        u64::from_ne_bytes(entry) >> 63 == 1
    };
    (first..first + block.len() / 4096).filter(is_there).count() as u64
}

#[test]
fn pages_are_read_while_others_write_to_them() {
    let memory = memory(64 * 4096);
    let block = RamBlock::new(memory.source().unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            // Relaxed: it says no more than that it is time to go.
            while !done.load(Ordering::Relaxed) {
                round += 1;
                // Pages 0 to 31 change all the time; page 32 always has data; the others never have.
                let value = u8::try_from(round % 3).unwrap();
                memory.fill(round % 32 * 4096 + round % 4096, 1, value);
            }
        });
        memory.store(32 * 4096 + 77, 1);
        let offsets: Vec<u64> = (0..64).map(|page| page * 4096).collect();
        let mut zero = PageBitmap::default();
        for _ in 0..200 {
            for mut scanner in scanners() {
                scanner.scan(&block, 4096, &offsets, &mut zero).unwrap();
                assert!(!zero.get(32));
                assert!((33..64).all(|page| zero.get(page)));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[derive(Debug, Clone)]
struct Case {
    len: usize,
    page_size: usize,
    /// Where bytes are that are not zero.
    odd: Vec<(usize, u8)>,
    offsets: Vec<usize>,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = prop_oneof![Just(4096_usize), 64..300_usize, 64..20_000_usize];
    (sizes, 0..100_000_usize).prop_flat_map(|(page_size, more)| {
        let len = page_size + more;
        let odd = prop::collection::vec((0..len, 1..=u8::MAX), 0..12);
        let anywhere = prop::collection::vec(0..=more, 0..40);
        let in_order = (0..=more).prop_map(move |first| {
            (0..)
                .map(|page| first + page * page_size)
                .take_while(|&at| at <= more)
                .collect()
        });
        (odd, prop_oneof![anywhere, in_order]).prop_map(move |(odd, offsets)| Case {
            len,
            page_size,
            odd,
            offsets,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_batch_of_any_pages_is_what_the_oracle_says(case in case(), shift in 0..64_u64) {
        let memory = memory(case.len as u64 + shift);
        let mut bytes = vec![0; case.len];
        for &(at, value) in &case.odd {
            bytes[at] = value;
            memory.store(shift + at as u64, value);
        }
        let part = memory.part_source(shift, case.len as u64).unwrap();
        let of_vec = Source::of_vec(bytes.clone()).unwrap();
        let told = RamBlock::detect(part.clone()).unwrap();
        let offsets: Vec<u64> = case.offsets.iter().map(|at| *at as u64).collect();
        let expected: Vec<bool> =
            case.offsets.iter().map(|at| is_zero(&bytes[*at..*at + case.page_size])).collect();
        let mut zero = PageBitmap::default();
        for block in [RamBlock::new(part), RamBlock::new(of_vec), told] {
            for mut scanner in scanners() {
                let scanned = scanner.scan(&block, case.page_size as u64, &offsets, &mut zero).unwrap();
                let found: Vec<bool> = (0..offsets.len()).map(|page| zero.get(page)).collect();
                prop_assert_eq!(&found, &expected);
                prop_assert_eq!(scanned.zero, zero.count());
                prop_assert_eq!(scanned.read + scanned.untouched, scanned.pages);
            }
        }
    }
}
