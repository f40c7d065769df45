// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory of each kind is pinned through type1 and iommufd: the kernel's counters are exact, a device reads and writes
//! it, and after the unpin neither.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
mod machine;

use std::{fs, num::NonZeroUsize, sync::Arc};

use edu::{Edu, MOST, Via, holds, put};
use machine::{
    alone, assert_foll_pinned, foll_pin, foll_pinned,
    vm::{DEVICES, expect_kernel, in_vm},
};
use parapin::{
    Iova, Mapping, OpsTarget, PageSize, Pages, PinReport, Pinned, Pinner, Region, Regions, Strategy,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Two regions with a gap between them, as in a guest with memory below and above 4 GiB.
struct Guest {
    memory: [Arc<Mapping>; 2],
    regions: Regions,
    size: u64,
}

const LOW: u64 = 2 * MIB;
const HIGH: u64 = 4 * GIB;

impl Guest {
    fn new(make: impl Fn(u64) -> Mapping, size: u64) -> Self {
        let memory = [make(size), make(size)].map(Arc::new);
        let region = |index: usize, iova: u64| {
            Region::of_mapping(Arc::clone(&memory[index]), Iova(iova)).unwrap()
        };
        let regions = Regions::new([region(0, LOW), region(1, HIGH)]).unwrap();
        Self {
            memory,
            regions,
            size,
        }
    }

    fn iova(&self, region: usize, offset: u64) -> Iova {
        let region = self.regions.iter().nth(region).unwrap();
        Iova(region.iova().0 + offset)
    }

    /// The device copies from one region to the other and back, at their borders and where they were cut.
    fn device_reaches(&self, edu: &Edu, pinned: &Pinned<OpsTarget>) {
        let cut = pinned
            .chunks()
            .filter(|chunk| chunk.region == 1 && chunk.offset > 0)
            .map(|chunk| chunk.offset)
            .last()
            .unwrap();
        let last = self.size - MOST;
        let across = cut - MOST / 2;
        for (seed, (from, to)) in [(0, last), (last, 0), (across, across)]
            .into_iter()
            .enumerate()
        {
            let seed = seed as u64 + 1;
            put(&self.memory[0], from, MOST, seed);
            edu.copy(self.iova(0, from), self.iova(1, to), MOST);
            assert!(
                holds(&self.memory[1], to, MOST, seed),
                "{MOST:#x} bytes from {from:#x} to {to:#x}"
            );
        }
    }

    /// The device reads and writes nothing: its buffer keeps what it had, and memory too.
    fn device_faults(&self, edu: &Edu) {
        expect_kernel("DMAR:");
        put(&self.memory[0], 0, 64, 7);
        put(&self.memory[1], 0, 64, 8);
        edu.copy(self.iova(0, 0), self.iova(1, 0), 64);
        assert!(holds(&self.memory[1], 0, 64, 8), "written after the unpin");
    }
}

/// Entries of the IOMMU's page tables, by the size of what they map.
#[derive(Debug, PartialEq, Eq, Default)]
struct Entries {
    large: u64,
    small: u64,
}

/// What the first device's page tables have for `regions`.
///
/// A line is `0xPAGE |` and one number for each level from the fifth down to the one whose entry maps memory
/// (drivers/iommu/intel/debugfs.c, dump_page_info()).
fn entries(regions: &Regions) -> Entries {
    let path = format!(
        "/sys/kernel/debug/iommu/intel/{}/domain_translation_struct",
        DEVICES[0]
    );
    let mut found = Entries::default();
    for line in fs::read_to_string(path).unwrap().lines() {
        let Some((page, levels)) = line.split_once(" |") else {
            continue;
        };
        let page = page.trim().strip_prefix("0x").unwrap();
        let iova = u64::from_str_radix(page, 16).unwrap() << 12;
        let ours =
            |region: &Region| iova >= region.iova().0 && iova - region.iova().0 < region.size();
        if regions.iter().any(ours) {
            match levels.split_whitespace().count() {
                5 => found.small += 1,
                _ => found.large += 1,
            }
        }
    }
    found
}

fn pinner() -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(4).unwrap())
        .min_chunk(8 * MIB)
        .max_chunk(16 * MIB)
}

/// Pins two regions of `size` by both interfaces and looks at everything that should have happened.
fn pins(make: impl Fn(u64) -> Mapping, size: u64, page: PageSize, check: impl Fn(Via, &PinReport)) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        let target = edu.target();
        let guest = Guest::new(&make, size);
        let (before, on_machine) = (via.counter(), foll_pinned());
        let (acquired, _) = foll_pin();

        let pinned = pinner().pin(&target, &guest.regions).unwrap();
        assert_eq!(
            via.counter() - before,
            2 * size,
            "{via:?}: exactly what was asked for"
        );
        let grown = foll_pin().0 - acquired;
        assert!(
            grown >= 2 * size / page.bytes(),
            "one pin a page at least: {grown}"
        );
        assert_eq!(pinned.report().job.bytes, 2 * size);
        assert_eq!(pinned.report().page_size, page);
        assert!(
            pinned.report().notes.is_empty(),
            "{:?}",
            pinned.report().notes
        );
        for placed in pinned.chunks() {
            assert_eq!(
                (placed.iova.0 | placed.hva.0 | placed.size) % page.bytes(),
                0,
                "no page is cut: {placed:?}"
            );
        }
        check(via, pinned.report());
        if page == PageSize::SIZE_2M {
            let entries = entries(&guest.regions);
            let expected = Entries {
                large: 2 * size / page.bytes(),
                small: 0,
            };
            assert_eq!(
                entries, expected,
                "{via:?}: whole pages in the IOMMU's page tables"
            );
        }

        guest.device_reaches(&edu, &pinned);
        let unpinned = pinned.unpin().unwrap();
        assert_eq!(unpinned.bytes, 2 * size);
        assert_eq!(via.counter(), before, "{via:?}: all is unpinned");
        assert_foll_pinned(on_machine);
        guest.device_faults(&edu);
    }
}

#[test]
fn small_pages() {
    let make = |size| Mapping::anonymous(size, Pages::Small).unwrap();
    pins(make, 64 * MIB, PageSize::SIZE_4K, |via, report| {
        let strategy = match via {
            Via::Type1 => "pipeline",
            Via::Iommufd => "parallel",
        };
        assert_eq!(report.strategy, strategy);
        assert!(report.job.threads > 1, "{report:?}");
    });
}

#[test]
fn transparent_huge_pages() {
    let make = |size| Mapping::anonymous(size, Pages::Transparent).unwrap();
    pins(make, 64 * MIB, PageSize::SIZE_2M, |_, _| {});
}

#[test]
fn hugetlb_pages() {
    let make = |size| Mapping::anonymous(size, Pages::Hugetlb(PageSize::SIZE_2M)).unwrap();
    pins(make, 32 * MIB, PageSize::SIZE_2M, |via, report| {
        if via == Via::Type1 {
            assert_eq!(report.strategy, "populate-then-map");
        }
    });
}

#[test]
fn memfd() {
    let make = |size| Mapping::memfd(size, Pages::Small).unwrap();
    pins(make, 32 * MIB, PageSize::SIZE_4K, |via, report| {
        if via == Via::Type1 {
            assert_eq!(report.strategy, "populate-then-map");
        }
    });
}

#[test]
fn hugetlb_memfd() {
    let make = |size| Mapping::memfd(size, Pages::Hugetlb(PageSize::SIZE_2M)).unwrap();
    pins(make, 32 * MIB, PageSize::SIZE_2M, |_, _| {});
}

#[test]
fn every_strategy_pins_the_same() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        for strategy in [
            Strategy::Serial,
            Strategy::PopulateThenMap,
            Strategy::Pipeline,
            Strategy::Parallel,
        ] {
            let edu = Edu::open(via);
            let target = edu.target().strategy(strategy);
            let guest = Guest::new(
                |size| Mapping::anonymous(size, Pages::Small).unwrap(),
                32 * MIB,
            );
            let before = via.counter();
            let pinned = pinner().pin(&target, &guest.regions).unwrap();
            assert_eq!(pinned.report().strategy, strategy.name());
            assert_eq!(via.counter() - before, 64 * MIB, "{via:?} {strategy:?}");
            if strategy == Strategy::Serial {
                assert_eq!(pinned.report().job.threads, 1);
            }
            drop(pinned);
            assert_eq!(
                via.counter(),
                before,
                "{via:?} {strategy:?}: dropping unpins"
            );
        }
    }
}

#[test]
fn contents_survive_the_pin() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        let guest = Guest::new(
            |size| Mapping::anonymous(size, Pages::Small).unwrap(),
            32 * MIB,
        );
        for offset in (0..32 * MIB).step_by(1 << 20) {
            put(&guest.memory[0], offset, 16, offset >> 20);
        }
        let pinned = pinner().pin(&edu.target(), &guest.regions).unwrap();
        for offset in (0..32 * MIB).step_by(1 << 20) {
            assert!(
                holds(&guest.memory[0], offset, 16, offset >> 20),
                "{offset:#x}"
            );
        }
        drop(pinned);
    }
}

#[test]
fn a_kept_pin_ends_with_the_container() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        let guest = Guest::new(
            |size| Mapping::anonymous(size, Pages::Small).unwrap(),
            32 * MIB,
        );
        let (before, on_machine) = (via.counter(), foll_pinned());
        let table = pinner().pin(&edu.target(), &guest.regions).unwrap().keep();
        let bytes: u64 = table.iter().map(|chunk| chunk.size).sum();
        assert_eq!(bytes, 64 * MIB);
        assert_eq!(via.counter() - before, 64 * MIB);
        // As a VMM does it later: whole regions, over many chunks.
        for region in &guest.regions {
            let size = usize::try_from(region.size()).unwrap();
            edu.ops.vfio_dma_unmap(region.iova().0, size).unwrap();
        }
        assert_eq!(via.counter(), before);
        assert_foll_pinned(on_machine);
    }
}
