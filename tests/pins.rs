// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! It really pins: the kernel's counters before, while and after memory of each kind is pinned.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::{fs, num::NonZeroUsize, sync::Arc};

use machine::{
    alone, assert_foll_pinned, cannot_pin, foll_pin, foll_pinned, is_root, may_change_machine,
    skip, status_bytes, vm_pin,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use parapin::{
    Backing, BackingKind, IoUring, Iova, Mapping, PageSize, Pages, PinErrorKind, Pinner, Populate,
    PopulateMethod, Region, Regions,
};

const MIB: u64 = 1 << 20;

/// Two regions over one mapping each, with a gap between them.
fn regions(make: impl Fn(u64) -> Mapping, size: u64) -> (Vec<Arc<Mapping>>, Regions) {
    let mappings: Vec<_> = (0..2).map(|_| Arc::new(make(size))).collect();
    let regions = mappings
        .iter()
        .zip([0, 1 << 40])
        .map(|(mapping, iova)| Region::of_mapping(Arc::clone(mapping), Iova(iova)).unwrap());
    let regions = Regions::new(regions).unwrap();
    (mappings, regions)
}

fn pinner() -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .min_chunk(4 * MIB)
        .max_chunk(8 * MIB)
}

/// Pins `2 * size` bytes and looks at every counter on the way.
fn pins_exactly(make: impl Fn(u64) -> Mapping, size: u64, kind: BackingKind, page: PageSize) {
    let (mappings, regions) = regions(make, size);
    for (index, mapping) in mappings.iter().enumerate() {
        assert!(mapping.store(size - 1, 7 + u8::try_from(index).unwrap()));
    }
    let (vm_pin_before, on_machine) = (vm_pin(), foll_pinned());
    let (acquired, _) = foll_pin();

    let pinned = pinner().pin(&IoUring, &regions).unwrap();
    assert_eq!(
        vm_pin() - vm_pin_before,
        2 * size,
        "VmPin grows by exactly the pinned bytes"
    );
    if is_root() {
        // For others the counters of all CPUs are not folded.
        let grown = foll_pin().0 - acquired;
        assert!(
            grown >= 2 * size / page.bytes(),
            "one pin a page at least: {grown}"
        );
    }
    assert_eq!(pinned.report().job.bytes, 2 * size);
    assert_eq!(pinned.report().page_size, page);
    let survey = regions.survey().unwrap();
    assert!(
        survey
            .found()
            .iter()
            .all(|found| found.backing.kind == kind)
    );
    assert!(survey.found().iter().all(|found| found.resident == size));
    for placed in pinned.chunks() {
        assert_eq!(placed.hva.0 % page.bytes(), 0, "no page is cut: {placed:?}");
        assert_eq!(placed.size % page.bytes(), 0, "no page is cut: {placed:?}");
    }
    let table: u64 = pinned.chunks().map(|placed| placed.size).sum();
    assert_eq!(table, 2 * size);

    drop(pinned);
    assert_eq!(vm_pin(), vm_pin_before, "VmPin is back at once");
    assert_foll_pinned(on_machine);
    for (index, mapping) in mappings.iter().enumerate() {
        assert_eq!(
            mapping.load(size - 1),
            Some(7 + u8::try_from(index).unwrap())
        );
    }
}

#[test]
fn anonymous_base_pages() {
    let _alone = alone();
    if cannot_pin(64 * MIB) {
        return;
    }
    let make = |size| Mapping::anonymous(size, Pages::Small).unwrap();
    pins_exactly(make, 32 * MIB, BackingKind::Anonymous, PageSize::SIZE_4K);
}

#[test]
fn transparent_huge_pages() {
    let _alone = alone();
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if enabled.is_ok_and(|text| text.contains("[never]")) {
        return skip("transparent huge pages are switched off");
    }
    if cannot_pin(64 * MIB) {
        return;
    }
    let make = |size| Mapping::anonymous(size, Pages::Transparent).unwrap();
    pins_exactly(make, 32 * MIB, BackingKind::Anonymous, PageSize::SIZE_2M);
}

#[test]
fn memfd() {
    let _alone = alone();
    if cannot_pin(64 * MIB) {
        return;
    }
    let make = |size| Mapping::memfd(size, Pages::Small).unwrap();
    pins_exactly(make, 32 * MIB, BackingKind::File, PageSize::SIZE_4K);
}

/// Pages of a hugetlb pool that are there for one test, and given back.
struct Pool {
    path: String,
    added: u64,
}

impl Pool {
    fn of(page: PageSize, pages: u64) -> Result<Self, String> {
        let directory = format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB",
            page.bytes() >> 10
        );
        let path = format!("{directory}/nr_hugepages");
        let read = || fs::read_to_string(&path).map(|text| text.trim().parse::<u64>().unwrap());
        let before = read().map_err(|error| format!("no pool of {page} pages: {error}"))?;
        let mut pool = Self {
            path: path.clone(),
            added: 0,
        };
        // Room for huge pages is a matter of luck on a machine that has been up for a while: pages that are just being
        // freed or moved are in the way of one attempt and not of the next.
        for _ in 0..10 {
            let _ = fs::write("/proc/sys/vm/drop_caches", "1");
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            fs::write(&path, (before + pages).to_string())
                .map_err(|error| format!("the pool of {page} pages cannot be changed: {error}"))?;
            pool.added = read().map_or(0, |now| now.saturating_sub(before));
            if pool.added == pages {
                return Ok(pool);
            }
        }
        Err(format!(
            "the kernel has no room for {pages} more pages of {page}"
        ))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Less by what was added: somebody else may have changed the pool meanwhile.
        let now = fs::read_to_string(&self.path)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(now) = now {
            let _ = fs::write(&self.path, now.saturating_sub(self.added).to_string());
        }
    }
}

fn hugetlb(page: PageSize, pages_per_region: u64) {
    let _alone = alone();
    if !may_change_machine() || cannot_pin(1 << 20) {
        return;
    }
    let pool = match Pool::of(page, 2 * pages_per_region) {
        Ok(pool) => pool,
        Err(reason) => return skip(&reason),
    };
    let size = pages_per_region * page.bytes();
    let anonymous = |size| Mapping::anonymous(size, Pages::Hugetlb(page)).unwrap();
    pins_exactly(anonymous, size, BackingKind::Hugetlb, page);
    let memfd = |size| Mapping::memfd(size, Pages::Hugetlb(page)).unwrap();
    pins_exactly(memfd, size, BackingKind::Hugetlb, page);
    drop(pool);
}

#[test]
fn hugetlb_2m_anonymous_and_memfd() {
    hugetlb(PageSize::SIZE_2M, 8);
}

#[test]
fn hugetlb_1g_anonymous_and_memfd() {
    hugetlb(PageSize::SIZE_1G, 1);
}

#[test]
fn both_ways_of_populating_make_everything_resident_and_pin_nothing() {
    let _alone = alone();
    let before = vm_pin();
    for pages in [Pages::Small, Pages::Transparent] {
        for method in [PopulateMethod::Madvise, PopulateMethod::Touch] {
            let make = |size| Mapping::anonymous(size, pages).unwrap();
            let (mappings, regions) = regions(make, 32 * MIB);
            assert!(mappings[0].store(12345, 99));
            let anonymous = || status_bytes("RssAnon:");
            let before_all = anonymous();
            let populated = pinner().pin(&Populate::new(method), &regions).unwrap();
            let survey = regions.survey().unwrap();
            let resident: Vec<u64> = survey.found().iter().map(|found| found.resident).collect();
            assert_eq!(resident, [32 * MIB, 32 * MIB], "{method:?}, {pages:?}");
            // A read fault would map the zero page, which is there but is no memory. A few pages are not counted yet,
            // and up to a huge page was there before.
            assert!(anonymous() - before_all > 61 * MIB, "{method:?}, {pages:?}");
            assert_eq!(mappings[0].load(12345), Some(99), "contents stay");
            assert_eq!(vm_pin(), before);
            assert_eq!(populated.report().job.bytes, 64 * MIB);
        }
    }
}

#[test]
fn touching_is_refused_where_it_could_raise_sigbus() {
    let _alone = alone();
    let make = |size| Mapping::memfd(size, Pages::Small).unwrap();
    let (_mappings, regions) = regions(make, MIB);
    let touch = Populate::new(PopulateMethod::Touch);
    let error = pinner().pin(&touch, &regions).unwrap_err();
    assert!(error.to_string().contains("SIGBUS"), "{error}");
    assert_eq!(error.remedy(), Some("populate with madvise"));
}

#[test]
fn a_file_shorter_than_its_mapping_fails_with_the_place_and_leaves_nothing() {
    let _alone = alone();
    let mapping = Arc::new(Mapping::memfd(32 * MIB, Pages::Small).unwrap());
    mapping.file().unwrap().set_len(24 * MIB).unwrap();
    let region = Region::of_mapping(mapping, Iova(1 << 32)).unwrap();
    let regions = Regions::new([region]).unwrap();
    let before = vm_pin();

    let error = pinner().pin(&Populate::default(), &regions).unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::BadAddress);
    let at = error.at().unwrap();
    assert!(at.iova.0 + at.size > (1 << 32) + 24 * MIB, "{at:?}");
    assert!(
        error
            .to_string()
            .contains("the file is shorter than its mapping"),
        "{error}"
    );

    if !cannot_pin(32 * MIB) {
        let error = pinner().pin(&IoUring, &regions).unwrap_err();
        assert_eq!(error.kind(), PinErrorKind::BadAddress);
        assert!(error.left_pinned().is_empty());
    }
    assert_eq!(vm_pin(), before);
}

#[test]
fn kept_pins_stay_and_the_table_tells_where_they_are() {
    let _alone = alone();
    if cannot_pin(64 * MIB) {
        return;
    }
    let before = vm_pin();
    let make = |size| Mapping::anonymous(size, Pages::Small).unwrap();
    let (_mappings, regions) = regions(make, 8 * MIB);
    let table = pinner().pin(&IoUring, &regions).unwrap().keep();
    assert_eq!(vm_pin() - before, 16 * MIB);
    assert!(table.iter().is_sorted_by_key(|placed| placed.iova));
    assert_eq!(
        table.iter().map(|placed| placed.size).sum::<u64>(),
        16 * MIB
    );
}

#[test]
fn discarding_frees_anonymous_memory_and_punches_holes_into_memfds() {
    let _alone = alone();
    let make = |size| Mapping::anonymous(size, Pages::Small).unwrap();
    let (mappings, anonymous) = regions(make, 16 * MIB);
    mappings[1].fill(0, 16 * MIB, 5);
    pinner().populate(&anonymous).unwrap();
    let report = pinner().discard(&anonymous).unwrap();
    assert_eq!(report.job.bytes, 32 * MIB);
    let resident: Vec<u64> = anonymous
        .survey()
        .unwrap()
        .found()
        .iter()
        .map(|f| f.resident)
        .collect();
    assert_eq!(resident, [0, 0]);
    assert_eq!(mappings[1].load(MIB), Some(0));

    let make = |size| Mapping::memfd(size, Pages::Small).unwrap();
    let (mappings, shared) = regions(make, 16 * MIB);
    mappings[0].fill(0, 16 * MIB, 5);
    let blocks = |mapping: &Mapping| {
        use std::os::unix::fs::MetadataExt;
        mapping.file().unwrap().metadata().unwrap().blocks()
    };
    assert_eq!(blocks(&mappings[0]), 16 * MIB / 512);
    pinner().discard(&shared).unwrap();
    assert_eq!(blocks(&mappings[0]), 0, "the file has given its pages back");
    assert_eq!(mappings[0].load(MIB), Some(0));
}

#[test]
fn a_file_behind_a_private_mapping_is_never_punched() {
    use std::os::unix::fs::{FileExt, MetadataExt};

    let _alone = alone();
    // A guest restored from a snapshot: private memory over a file that others use, too.
    let snapshot = Arc::new(Mapping::memfd(MIB, Pages::Small).unwrap());
    snapshot.fill(0, MIB, 7);
    let file = snapshot.file().unwrap();
    let blocks = file.metadata().unwrap().blocks();
    let length = NonZeroUsize::new(1 << 20).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    #[expect(
        unsafe_code,
        reason = "a private mapping of a file, which the library does not make itself"
    )]
    // SAFETY: a new mapping at an address of the kernel's choice, left to the process.
    let start =
        unsafe { mmap(None, length, protection, MapFlags::MAP_PRIVATE, &*file, 0) }.unwrap();
    #[expect(unsafe_code, reason = "the promise about this mapping")]
    // SAFETY: the mapping is never unmapped, and nothing else knows its address.
    let region = unsafe { Region::new(Iova(0), start.as_ptr().cast(), MIB) }.unwrap();
    let lying = Backing {
        kind: BackingKind::File,
        page_size: PageSize::SIZE_4K,
        shared: true,
    };
    #[expect(unsafe_code, reason = "the promise about the file")]
    // SAFETY: the file holds nothing but what this test put there.
    let region = unsafe { region.with_file(Arc::clone(&file), 0) }.with_backing(lying);
    let regions = Regions::new([region]).unwrap();
    pinner().populate(&regions).unwrap();
    pinner().discard(&regions).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), blocks);
    let mut byte = [0];
    file.read_exact_at(&mut byte, MIB - 1).unwrap();
    assert_eq!(byte, [7], "the snapshot is whole");

    // Nor does what a region says of itself open the way to a SIGBUS.
    let touch = Populate::new(PopulateMethod::Touch);
    let shared = Region::of_mapping(snapshot, Iova(0))
        .unwrap()
        .with_backing(Backing {
            kind: BackingKind::Anonymous,
            ..lying
        });
    let error = pinner()
        .pin(&touch, &Regions::new([shared]).unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("SIGBUS"), "{error}");
}
