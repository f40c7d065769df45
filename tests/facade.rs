// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `Pinner` and `Pinned` as a VMM uses them: crews, cancel, panics, overlaps, a guest of `vm-memory`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use fakes::{FakeKernel, FakeTarget};
use machine::{alone, cannot_pin, skip, vm_pin};
use parapin::{
    Backing, BackingKind, CancelToken, Crew, IoUring, Iova, Mapping, PageSize, Pages, PinErrorKind,
    Pinner, Populate, Region, Regions,
};

const MIB: u64 = 1 << 20;

fn region(size: u64, iova: u64) -> Region {
    let mapping = Mapping::anonymous(size, Pages::Small).unwrap();
    Region::of_mapping(Arc::new(mapping), Iova(iova)).unwrap()
}

fn two_threads() -> NonZeroUsize {
    NonZeroUsize::new(2).unwrap()
}

fn small_chunks() -> Pinner<'static> {
    Pinner::new()
        .threads(two_threads())
        .min_chunk(MIB)
        .max_chunk(MIB)
}

#[test]
fn a_kept_crew_serves_pin_and_unpin_again_and_again() {
    let _alone = alone();
    if cannot_pin(24 * MIB) {
        return;
    }
    let crew = Arc::new(Crew::new(1, 19));
    let regions = Regions::new([region(16 * MIB, 0)]).unwrap();
    let before = vm_pin();
    for _ in 0..3 {
        let mut pinner = small_chunks().crew(Arc::clone(&crew));
        let pinned = pinner.pin(&IoUring, &regions).unwrap();
        assert_eq!(vm_pin() - before, 16 * MIB);
        let unpinned = pinned.unpin().unwrap();
        assert_eq!(unpinned.bytes, 16 * MIB);
        assert_eq!(vm_pin(), before);
    }
}

#[test]
fn a_cancelled_pin_leaves_nothing() {
    let _alone = alone();
    if cannot_pin(24 * MIB) {
        return;
    }
    let before = vm_pin();
    let cancel = CancelToken::new();
    cancel.cancel();
    let regions = Regions::new([region(16 * MIB, 0)]).unwrap();
    let error = small_chunks()
        .cancel(cancel)
        .pin(&IoUring, &regions)
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::Cancelled);
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_panic_in_the_callback_leaves_nothing() {
    let _alone = alone();
    if cannot_pin(24 * MIB) {
        return;
    }
    let before = vm_pin();
    let regions = Regions::new([region(16 * MIB, 0)]).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        small_chunks()
            .progress(|_| panic!("the display broke"))
            .pin(&IoUring, &regions)
    }));
    assert_eq!(
        panicked.unwrap_err().downcast_ref::<&str>(),
        Some(&"the display broke")
    );
    assert_eq!(vm_pin(), before);
}

/// Four chunks of 1 MiB at most at these offsets, plus short ones at the borders.
fn fake_regions() -> (Regions, u64) {
    let regions = Regions::new([region(4 * MIB, 0x10_0000_0000)]).unwrap();
    let hva = regions.iter().next().unwrap().hva().0;
    (regions, hva)
}

#[test]
fn what_cannot_be_undone_is_listed_by_iova() {
    let (regions, hva) = fake_regions();
    let kernel = Arc::new(
        FakeKernel::new()
            .failing_at(hva + 4 * MIB - 1)
            .refusing_undo_at(hva),
    );
    let error = small_chunks()
        .threads(NonZeroUsize::MIN)
        .pin(&FakeTarget::new(&kernel), &regions)
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::UndoFailed);
    let left: Vec<_> = error
        .left_pinned()
        .iter()
        .map(|left| (left.iova, left.hva.0))
        .collect();
    assert_eq!(left, [(Iova(0x10_0000_0000), hva)]);
    assert_eq!(kernel.held(), [(hva, hva + error.left_pinned()[0].size)]);
    let text = error.to_string();
    assert!(
        text.starts_with("fake failed: as told; could not be undone: 0x"),
        "{text}"
    );
    assert!(error.chunks_undone() >= 2, "the others are undone");
}

#[test]
fn what_cannot_be_unpinned_is_listed_by_iova() {
    let (regions, hva) = fake_regions();
    let kernel = Arc::new(FakeKernel::new().refusing_undo_at(hva + 2 * MIB));
    let pinned = small_chunks()
        .pin(&FakeTarget::new(&kernel), &regions)
        .unwrap();
    let error = pinned.unpin().unwrap_err();
    let [left] = error.left_pinned() else {
        panic!("{error}");
    };
    assert_eq!(kernel.held(), [(left.hva.0, left.hva.0 + left.size)]);
    assert_eq!(left.iova.0 - 0x10_0000_0000, left.hva.0 - hva);
    assert!(
        error.to_string().starts_with("could not be unpinned: 0x"),
        "{error}"
    );
}

#[test]
fn keeping_and_dropping() {
    let (regions, hva) = fake_regions();
    let kernel = Arc::new(FakeKernel::new());
    let pinned = small_chunks()
        .pin(&FakeTarget::new(&kernel), &regions)
        .unwrap();
    drop(pinned);
    assert_eq!(kernel.held(), [], "dropping unpins");
    let pinned = small_chunks()
        .pin(&FakeTarget::new(&kernel), &regions)
        .unwrap();
    let table = pinned.keep();
    assert_eq!(kernel.held(), [(hva, hva + 4 * MIB)], "keeping does not");
    assert_eq!(table.iter().map(|placed| placed.size).sum::<u64>(), 4 * MIB);
}

#[test]
fn overlaps_are_refused_with_both_regions_in_hex() {
    let error = Regions::new([region(2 * MIB, 0x10_0000), region(2 * MIB, 0)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "regions at iova 0x0 of 0x200000 bytes and at iova 0x100000 of 0x200000 bytes overlap"
    );
    assert_eq!(
        Regions::new([]).unwrap_err().to_string(),
        "no region was given"
    );

    let shared = region(2 * MIB, 0);
    let mapping = Arc::new(Mapping::anonymous(2 * MIB, Pages::Small).unwrap());
    let twice =
        [0, 4 * MIB].map(|iova| Region::of_mapping(Arc::clone(&mapping), Iova(iova)).unwrap());
    let regions = Regions::new(
        twice.into_iter().chain(
            [shared.clone()]
                .into_iter()
                .map(|_| region(2 * MIB, 16 * MIB)),
        ),
    )
    .unwrap();
    let error = small_chunks()
        .pin(&Populate::default(), &regions)
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::Overlap, "{error}");
}

#[test]
fn memory_that_is_not_there_is_named_before_anything_is_touched() {
    let _alone = alone();
    // Addresses that the kernel never maps; nothing is dereferenced.
    let start = std::ptr::without_provenance_mut(0x7000_0000_0000_0000);
    #[expect(unsafe_code, reason = "builds a region that must be refused")]
    // SAFETY: the contract is broken on purpose in a way that cannot do harm: no mapping can exist there, and the
    // survey refuses the region before any system call gets the address.
    let region = unsafe { Region::new(Iova(0), start, MIB) }.unwrap();
    let regions = Regions::new([region]).unwrap();
    let error = small_chunks()
        .pin(&Populate::default(), &regions)
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::BadAddress);
    assert_eq!(
        error.to_string(),
        "nothing is mapped at 0x7000000000000000, inside a region"
    );

    // Without the check and with a given backing nobody looks first: the kernel refuses, and the error tells where.
    let backed = regions
        .iter()
        .next()
        .unwrap()
        .clone()
        .with_backing(Backing {
            kind: BackingKind::Anonymous,
            page_size: PageSize::SIZE_4K,
            shared: false,
        });
    let regions = Regions::new([backed]).unwrap();
    let error = small_chunks()
        .check(false)
        .pin(&Populate::default(), &regions)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("hva 0x7000000000000000"), "{text}");
    assert!(text.contains("part of the range is not mapped"), "{text}");
}

#[test]
fn more_memory_than_the_machine_has_is_refused_by_the_check() {
    let _alone = alone();
    let available = parapin::MemoryBudget::current().available().unwrap();
    // In two mappings, since the kernel refuses a single one that is obviously too large.
    let half = (available / 2 + (1 << 30)).next_multiple_of(4096);
    let regions = Regions::new([region(half, 0), region(half, 1 << 45)]).unwrap();
    let error = Pinner::new()
        .pin(&Populate::default(), &regions)
        .unwrap_err();
    let kinds = [PinErrorKind::OutOfMemory, PinErrorKind::Memcg];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert!(error.remedy().is_some());
    let survey = regions.survey().unwrap();
    assert!(
        survey.found().iter().all(|found| found.resident == 0),
        "nothing was touched"
    );
}

#[test]
fn huge_page_advice_comes_before_the_first_touch() {
    let _alone = alone();
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if enabled.map_or(true, |text| text.contains("[never]")) {
        return skip("transparent huge pages are not available");
    }
    for (wanted, page) in [(true, PageSize::SIZE_2M), (false, PageSize::SIZE_4K)] {
        // Mapped the other way round, so that only the advice can have made the difference.
        let pages = if wanted {
            Pages::Small
        } else {
            Pages::Transparent
        };
        let mapping = Arc::new(Mapping::anonymous(8 * MIB, pages).unwrap());
        let regions = Regions::new([Region::of_mapping(mapping, Iova(0)).unwrap()]).unwrap();
        let report = small_chunks()
            .huge_pages(wanted)
            .populate(&regions)
            .unwrap();
        assert_eq!(report.page_size, page);
    }
}

#[cfg(feature = "vm-memory")]
#[test]
fn a_guest_of_vm_memory_is_pinned() {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    let _alone = alone();
    if cannot_pin(24 * MIB) {
        return;
    }
    let layout = [
        (GuestAddress(0), 8 << 20),
        (GuestAddress(1 << 32), 16 << 20),
    ];
    let guest = GuestMemoryMmap::<()>::from_ranges(&layout).unwrap();
    guest
        .write_obj(0x5aa5_u16, GuestAddress((1 << 32) + 0x1234))
        .unwrap();
    #[expect(unsafe_code, reason = "the one promise about the guest's memory")]
    // SAFETY: `guest` outlives the pins, and is only accessed through `vm-memory`.
    let regions = unsafe { parapin::regions_of(&guest) }.unwrap();
    let iovas: Vec<_> = regions
        .iter()
        .map(|region| (region.iova().0, region.size()))
        .collect();
    assert_eq!(iovas, [(0, 8 << 20), (1 << 32, 16 << 20)]);

    let before = vm_pin();
    let pinned = small_chunks()
        .pin(&IoUring, &Regions::new(regions).unwrap())
        .unwrap();
    assert_eq!(vm_pin() - before, 24 << 20);
    pinned.unpin().unwrap();
    assert_eq!(vm_pin(), before);
    let value: u16 = guest.read_obj(GuestAddress((1 << 32) + 0x1234)).unwrap();
    assert_eq!(value, 0x5aa5);
}
