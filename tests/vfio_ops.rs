// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any `VfioOps` of a VMM as a target, on any machine: what is mapped is recorded by a fake one, which can also fail.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    any::Any,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    thread::{self, ThreadId},
};

use parapin::{
    CancelToken, Iova, Mapping, OpsTarget, Pages, PinErrorKind, Pinner, Region, Regions, Strategy,
};
use vfio_ioctls::{VfioError, VfioOps};
use vmm_sys_util::errno::Error;

const MIB: u64 = 1 << 20;

/// A container that only remembers: IOVA and size of each mapping, and who mapped.
#[derive(Default)]
struct Container {
    mapped: Mutex<Vec<(u64, u64)>>,
    callers: Mutex<Vec<ThreadId>>,
    /// The number of the map that fails, and its error.
    fails: Option<(usize, i32)>,
    refuses_to_unmap: Option<u64>,
}

impl VfioOps for Container {
    #[expect(unsafe_code, reason = "the trait's signature; nothing is accessed")]
    unsafe fn vfio_dma_map(
        &self,
        iova: u64,
        size: usize,
        user_addr: *mut u8,
    ) -> Result<(), VfioError> {
        assert!(!user_addr.is_null());
        let mut callers = self.callers.lock().unwrap();
        let number = callers.len();
        callers.push(thread::current().id());
        if let Some((_, errno)) = self.fails.filter(|(at, _)| *at == number) {
            return Err(VfioError::IommuDmaMap(Error::new(errno)));
        }
        self.mapped.lock().unwrap().push((iova, size as u64));
        Ok(())
    }

    fn vfio_dma_unmap(&self, iova: u64, size: usize) -> Result<(), VfioError> {
        if self.refuses_to_unmap == Some(iova) {
            return Err(VfioError::IommuDmaUnmap(Error::new(EIO)));
        }
        let mapping = (iova, size as u64);
        let mut mapped = self.mapped.lock().unwrap();
        assert!(mapped.contains(&mapping), "{mapping:x?} is not mapped");
        mapped.retain(|other| *other != mapping);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

const EIO: i32 = 5;

/// What a VMM had mapped before, which is none of our business.
const FOREIGN: (u64, u64) = (1 << 50, 0x1000);

impl Container {
    fn new() -> Self {
        Self {
            mapped: Mutex::new(vec![FOREIGN]),
            ..Self::default()
        }
    }

    /// Our mappings, lowest first.
    fn ours(&self) -> Vec<(u64, u64)> {
        let mut mapped = self.mapped.lock().unwrap().clone();
        mapped.sort_unstable();
        assert_eq!(mapped.pop(), Some(FOREIGN), "the VMM's own mapping stays");
        mapped
    }
}

/// Two regions of 32 MiB with a gap between them.
fn regions() -> Regions {
    let region = |iova| {
        let memory = Mapping::anonymous(32 * MIB, Pages::Small).unwrap();
        Region::of_mapping(Arc::new(memory), Iova(iova)).unwrap()
    };
    Regions::new([region(0), region(1 << 40)]).unwrap()
}

fn pinner() -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .min_chunk(4 * MIB)
        .max_chunk(4 * MIB)
}

fn target(container: &Arc<Container>, strategy: Strategy) -> OpsTarget {
    let ops: Arc<dyn VfioOps> = Arc::clone(container) as _;
    OpsTarget::new(ops).unwrap().strategy(strategy)
}

const ALL: [Strategy; 5] = [
    Strategy::Auto,
    Strategy::Serial,
    Strategy::PopulateThenMap,
    Strategy::Pipeline,
    Strategy::Parallel,
];

#[test]
fn all_memory_is_mapped_once_and_unmapped_again() {
    for strategy in ALL {
        let container = Arc::new(Container::new());
        let pinned = pinner()
            .pin(&target(&container, strategy), &regions())
            .unwrap();
        assert_eq!(pinned.report().target, "vfio-ops");
        let mapped = container.ours();
        let chunks: Vec<_> = pinned
            .chunks()
            .map(|chunk| (chunk.iova.0, chunk.size))
            .collect();
        assert_eq!(mapped, chunks, "{strategy:?}: the table is what was mapped");
        let mut ends = [0, 1 << 40].into_iter();
        let mut at = ends.next().unwrap();
        for (iova, size) in mapped {
            if at == 32 * MIB {
                at = ends.next().unwrap();
            }
            assert_eq!(iova, at, "{strategy:?}: without gaps");
            at += size;
        }
        assert_eq!(at, (1 << 40) + 32 * MIB);
        pinned.unpin().unwrap();
        assert!(container.ours().is_empty(), "{strategy:?}");
    }
}

#[test]
fn one_thread_maps_where_the_kernel_would_serialise() {
    for strategy in [
        Strategy::Auto,
        Strategy::PopulateThenMap,
        Strategy::Pipeline,
    ] {
        let container = Arc::new(Container::new());
        let pinned = pinner()
            .pin(&target(&container, strategy), &regions())
            .unwrap();
        assert_eq!(pinned.report().job.helpers_started, 1);
        let callers = container.callers.lock().unwrap().clone();
        assert!(
            callers
                .iter()
                .all(|caller| *caller == thread::current().id()),
            "{strategy:?}"
        );
    }
}

#[test]
fn a_map_that_fails_is_explained_and_the_others_are_undone() {
    for strategy in ALL {
        for number in [0, 1, 5, 15] {
            let mut container = Container::new();
            container.fails = Some((number, 17));
            let container = Arc::new(container);
            let outcome = pinner().pin(&target(&container, strategy), &regions());
            let Err(error) = outcome else {
                assert!(
                    container.callers.lock().unwrap().len() <= number,
                    "{strategy:?} needs fewer maps"
                );
                continue;
            };
            assert_eq!(error.kind(), PinErrorKind::Overlap, "EEXIST: {error}");
            assert!(error.remedy().is_some());
            assert!(error.left_pinned().is_empty());
            assert!(container.ours().is_empty(), "{strategy:?}, map {number}");
        }
    }
}

#[test]
fn what_cannot_be_undone_is_listed() {
    let mut container = Container::new();
    container.fails = Some((5, 12));
    container.refuses_to_unmap = Some(4 * MIB);
    let container = Arc::new(container);
    let error = pinner()
        .pin(&target(&container, Strategy::Pipeline), &regions())
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::UndoFailed);
    let left: Vec<_> = error
        .left_pinned()
        .iter()
        .map(|left| (left.iova.0, left.size))
        .collect();
    assert_eq!(left, [(4 * MIB, 4 * MIB)]);
    assert_eq!(container.ours(), left);
}

#[test]
fn a_part_is_hot_removed_by_whole_chunks() {
    let container = Arc::new(Container::new());
    let mut pinned = pinner()
        .pin(&target(&container, Strategy::PopulateThenMap), &regions())
        .unwrap();
    let cut = pinned.unpin_range(Iova(MIB), 8 * MIB).unwrap_err();
    assert!(
        cut.to_string()
            .contains("0x100000 lies inside of the chunk at 0x0 of 0x400000 bytes"),
        "{cut}"
    );
    assert_eq!(container.ours().len(), 16, "nothing was unpinned");
    let unpinned = pinned.unpin_range(Iova(4 * MIB), 8 * MIB).unwrap();
    assert_eq!(unpinned.bytes, 8 * MIB);
    assert_eq!(container.ours().len(), 14);
    assert!(pinned.table().at(Iova(4 * MIB)).is_none());
    assert_eq!(
        pinned.unpin_range(Iova(4 * MIB), 8 * MIB).unwrap().bytes,
        0,
        "nothing is left there"
    );
    drop(pinned);
    assert!(container.ours().is_empty());
}

#[test]
fn many_small_blocks_become_few_entries() {
    let memory = vm_memory::MmapRegion::<()>::new(64 << 20).unwrap();
    let blocks = (0..32u64).map(|block| {
        // Every fourth block is not plugged.
        let offset = usize::try_from(block * 2 * MIB).unwrap();
        let start = memory.as_ptr().wrapping_add(offset);
        #[expect(unsafe_code, reason = "the promise about this memory")]
        // SAFETY: the mapping outlives the pins, and nothing else accesses it.
        unsafe { Region::new(Iova((1 << 32) + block * 2 * MIB), start, 2 * MIB) }.unwrap()
    });
    let plugged = blocks
        .enumerate()
        .filter(|(index, _)| index % 4 != 3)
        .map(|(_, block)| block);
    let regions = Regions::new(plugged).unwrap().coalesced();
    assert_eq!(regions.iter().len(), 8);
    let container = Arc::new(Container::new());
    let mut pinner = Pinner::new();
    let pinned = pinner
        .pin(&target(&container, Strategy::Auto), &regions)
        .unwrap();
    assert!(
        container.ours().iter().all(|(_, size)| *size == 6 * MIB),
        "{:x?}",
        container.ours()
    );
    drop(pinned);
}

#[test]
fn owners_live_as_long_as_the_pins() {
    let mapping = Arc::new(Mapping::anonymous(8 * MIB, Pages::Small).unwrap());
    let guest = Arc::new("everything that a VMM has");
    let region = Region::of_mapping(Arc::clone(&mapping), Iova(0)).unwrap();
    let regions = Regions::new([region.owned_by(Arc::clone(&guest))]).unwrap();
    let container = Arc::new(Container::new());
    let pinned = pinner()
        .pin(&target(&container, Strategy::Auto), &regions)
        .unwrap();
    drop(regions);
    assert_eq!(
        (Arc::strong_count(&mapping), Arc::strong_count(&guest)),
        (2, 2)
    );
    drop(pinned);
    assert!(container.ours().is_empty());
    assert_eq!(
        (Arc::strong_count(&mapping), Arc::strong_count(&guest)),
        (1, 1)
    );

    let region = Region::of_mapping(Arc::clone(&mapping), Iova(0)).unwrap();
    let regions = Regions::new([region.owned_by(Arc::clone(&guest))]).unwrap();
    let _table = pinner()
        .pin(&target(&container, Strategy::Auto), &regions)
        .unwrap()
        .keep();
    drop(regions);
    assert_eq!(
        (Arc::strong_count(&mapping), Arc::strong_count(&guest)),
        (2, 2),
        "for ever"
    );
}

#[test]
fn a_pin_that_is_started_early_is_joined_or_cancelled() {
    let container = Arc::new(Container::new());
    let handle = pinner()
        .start(target(&container, Strategy::Auto), &regions())
        .unwrap();
    let pinned = handle.join().unwrap();
    assert_eq!(pinned.report().job.bytes, 64 * MIB);
    drop(pinned);
    assert!(container.ours().is_empty());

    let token = CancelToken::new();
    token.cancel();
    let handle = pinner()
        .cancel(token)
        .start(target(&container, Strategy::Auto), &regions())
        .unwrap();
    assert_eq!(handle.join().unwrap_err().kind(), PinErrorKind::Cancelled);
    assert!(container.ours().is_empty());

    // Dropped, whether it had come far or not.
    for _ in 0..8 {
        drop(
            pinner()
                .start(target(&container, Strategy::Auto), &regions())
                .unwrap(),
        );
        assert!(container.ours().is_empty());
    }
}

#[test]
fn addresses_that_disagree_are_told() {
    let memory = Arc::new(Mapping::anonymous(8 * MIB, Pages::Transparent).unwrap());
    let out_of_step = Region::of_mapping(memory, Iova((1 << 32) + 0x1000)).unwrap();
    let regions = Regions::new([out_of_step]).unwrap();
    let container = Arc::new(Container::new());
    let pinned = pinner()
        .pin(&target(&container, Strategy::Auto), &regions)
        .unwrap();
    let notes = &pinned.report().notes;
    if pinned.report().page_size.bytes() == 4096 {
        assert!(notes.is_empty(), "a kernel without transparent huge pages");
        return;
    }
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].starts_with("the region at iova 0x100001000 lies at hva "),
        "{notes:?}"
    );
}
