// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Others in the same container or IOAS: what they have mapped survives, what they take away does no harm, and where
//! no device is attached nothing happens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
mod machine;

use std::{
    error::Error,
    fs, io,
    num::NonZeroUsize,
    os::{fd::AsRawFd, unix::fs::symlink},
    ptr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use edu::{Edu, MOST, Via, holds, put};
use iommufd_ioctls::IommuFd;
use machine::{
    alone, assert_foll_pinned, foll_pinned, status_bytes,
    vm::{DEVICES, expect_kernel, in_vm},
};
use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use parapin::{
    Attachment, ContainerFd, Crew, Iommufd, Iova, Mapping, NICEST, OpsTarget, Pages, PinError,
    PinErrorKind, Pinned, Pinner, Region, Regions, Strategy, Type1,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use vfio::FaultKind;
use vfio_ioctls::{VfioContainer, VfioIommufd, VfioOps};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BASE: u64 = 4 * GIB;
const CHUNK: u64 = 2 * MIB;
const SIZE: u64 = 6 * CHUNK;

/// Where memory is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A container.
    Type1,
    /// An IOAS.
    Iommufd,
    /// A container that iommufd provides.
    Compatible,
}

impl Place {
    const ALL: [Self; 3] = [Self::Type1, Self::Iommufd, Self::Compatible];

    fn open(self) -> Open {
        let replaced = (self == Self::Compatible).then(Replaced::new);
        let via = match self {
            Self::Type1 | Self::Compatible => Via::Type1,
            Self::Iommufd => Via::Iommufd,
        };
        let ops = via.ops();
        Open {
            place: self,
            edu: Edu::attach(Arc::clone(&ops), DEVICES[0]),
            ops,
            pinned: self.counter(),
            on_machine: foll_pinned(),
            _replaced: replaced,
        }
    }

    /// Bytes that this process has pinned.
    fn counter(self) -> u64 {
        status_bytes(match self {
            Self::Type1 => "VmLck:",
            Self::Iommufd | Self::Compatible => "VmPin:",
        })
    }
}

/// A place with a device, and what was pinned when it was opened.
struct Open {
    place: Place,
    edu: Edu,
    ops: Arc<dyn VfioOps>,
    pinned: u64,
    on_machine: u64,
    _replaced: Option<Replaced>,
}

impl Open {
    fn target(&self) -> OpsTarget {
        OpsTarget::new(Arc::clone(&self.ops)).unwrap()
    }

    /// Exactly so many bytes are pinned now, in small pages.
    fn assert_pinned(&self, bytes: u64) {
        assert_eq!(
            self.place.counter() - self.pinned,
            bytes,
            "{:?}",
            self.place
        );
        assert_foll_pinned(self.on_machine + (bytes >> 12));
    }

    /// The device copies from one place of memory to another.
    fn assert_copies(&self, from: (&Mapping, u64), to: (&Mapping, u64), seed: u64) {
        put(from.0, 0, MOST, seed);
        self.edu.copy(Iova(from.1), Iova(to.1), MOST);
        assert!(holds(to.0, 0, MOST, seed), "{:?}: {seed}", self.place);
    }

    /// The device cannot write to `memory` at `iova`; what it writes is at `from`.
    fn assert_unreachable(&self, from: &Foreign, memory: &Mapping, iova: u64) {
        expect_kernel("DMAR:");
        put(memory, 0, MOST, 5);
        put(&from.memory, 0, MOST, 6);
        self.edu.copy(Iova(from.iova), Iova(iova), MOST);
        assert!(holds(memory, 0, MOST, 5), "{:?}: written", self.place);
    }
}

/// /dev/vfio/vfio is iommufd's, until this is dropped.
struct Replaced;

impl Replaced {
    const CONTAINER: &str = "/dev/vfio/vfio";
    const ASIDE: &str = "/dev/vfio/vfio.type1";

    fn new() -> Self {
        fs::rename(Self::CONTAINER, Self::ASIDE).unwrap();
        let replaced = Self;
        symlink("/dev/iommu", Self::CONTAINER).unwrap();
        replaced
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        // Replaces the link.
        fs::rename(Self::ASIDE, Self::CONTAINER).unwrap();
    }
}

/// Memory that somebody else has mapped.
struct Foreign {
    ops: Arc<dyn VfioOps>,
    memory: Arc<Mapping>,
    iova: u64,
}

impl Foreign {
    const SIZE: u64 = 64 << 10;

    fn map(ops: &Arc<dyn VfioOps>, iova: u64) -> Self {
        let memory = memory(Self::SIZE);
        // Only for its address.
        let hva = region(&memory, iova).hva().0;
        let start = ptr::with_exposed_provenance_mut(usize::try_from(hva).unwrap());
        let size = usize::try_from(Self::SIZE).unwrap();
        #[expect(unsafe_code, reason = "maps as a VMM does")]
        // SAFETY: a `Mapping` is accessed only by atomic operations and system calls, and `unmap` unmaps it for the
        // device before it is dropped; if a test fails before, its container ends with it.
        unsafe { ops.vfio_dma_map(iova, size, start) }.unwrap();
        Self {
            ops: Arc::clone(ops),
            memory,
            iova,
        }
    }

    /// The device copies from its beginning to its middle.
    fn assert_works(&self, edu: &Edu) {
        let middle = Self::SIZE / 2;
        put(&self.memory, 0, MOST, 3);
        put(&self.memory, middle, MOST, 4);
        edu.copy(Iova(self.iova), Iova(self.iova + middle), MOST);
        assert!(holds(&self.memory, middle, MOST, 3));
    }

    /// All of it, in one piece.
    fn unmap(self) {
        let size = usize::try_from(Self::SIZE).unwrap();
        self.ops.vfio_dma_unmap(self.iova, size).unwrap();
    }
}

fn memory(size: u64) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(size, Pages::Small).unwrap())
}

fn region(memory: &Arc<Mapping>, iova: u64) -> Region {
    Region::of_mapping(Arc::clone(memory), Iova(iova)).unwrap()
}

fn regions(memory: &Arc<Mapping>, iova: u64) -> Regions {
    Regions::new([region(memory, iova)]).unwrap()
}

/// Two threads, and chunks of one size.
fn pinner() -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .min_chunk(CHUNK)
        .max_chunk(CHUNK)
}

/// Something else was in the way, and it says so.
fn assert_overlap(error: &PinError) {
    assert_eq!(error.kind(), PinErrorKind::Overlap, "{error}");
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
    assert!(error.left_pinned().is_empty(), "{error}");
    assert_eq!(errno(error), Some(Errno::EEXIST), "{error}");
}

fn errno(error: &PinError) -> Option<Errno> {
    let source = error.source()?.downcast_ref::<io::Error>()?;
    source.raw_os_error().map(Errno::from_raw)
}

/// Runs `job` while another thread unmaps everything in the range, again and again.
fn while_unmapped<R>(
    ops: &Arc<dyn VfioOps>,
    (iova, size): (u64, u64),
    job: impl FnOnce() -> R,
) -> R {
    /// Also when the job panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (stop, begin) = (AtomicBool::new(false), Barrier::new(2));
    let size = usize::try_from(size).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            while !stop.load(Ordering::SeqCst) {
                // Whether there was something, or somebody else is at it.
                let _ = ops.vfio_dma_unmap(iova, size);
            }
        });
        let _stop = Stop(&stop);
        begin.wait();
        job()
    })
}

/// Runs both at once.
fn both<R: Send>(one: impl FnOnce() -> R + Send, other: impl FnOnce() -> R + Send) -> [R; 2] {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            begin.wait();
            other()
        });
        begin.wait();
        let one = one();
        [one, other.join().unwrap()]
    })
}

#[test]
fn a_foreign_mapping_in_the_way_survives() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for place in Place::ALL {
        let open = place.open();
        for strategy in [
            Strategy::Serial,
            Strategy::PopulateThenMap,
            Strategy::Pipeline,
            Strategy::Parallel,
        ] {
            for chunk in [0, SIZE / CHUNK / 2, SIZE / CHUNK - 1] {
                in_the_way(&open, strategy, chunk);
            }
        }
    }
}

/// Pins over a foreign mapping in a chunk, and again once it is gone.
fn in_the_way(open: &Open, strategy: Strategy, chunk: u64) {
    let memory = memory(SIZE);
    let regions = regions(&memory, BASE);
    let target = open.target().strategy(strategy);
    let foreign = Foreign::map(&open.ops, BASE + chunk * CHUNK + Foreign::SIZE);
    open.assert_pinned(Foreign::SIZE);

    let error = pinner().pin(&target, &regions).unwrap_err();
    assert_overlap(&error);
    let at = error.at().unwrap();
    assert_eq!((at.iova.0, at.size), (BASE + chunk * CHUNK, CHUNK));
    open.assert_pinned(Foreign::SIZE);
    foreign.assert_works(&open.edu);
    let elsewhere = (chunk * CHUNK + CHUNK) % SIZE;
    open.assert_unreachable(&foreign, &memory, BASE + elsewhere);

    foreign.unmap();
    open.assert_pinned(0);
    let pinned = pinner().pin(&target, &regions).unwrap();
    open.assert_pinned(SIZE);
    assert_eq!(pinned.unpin().unwrap().bytes, SIZE);
    open.assert_pinned(0);
}

#[test]
fn two_jobs_at_once_both_succeed() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for place in Place::ALL {
        let open = place.open();
        let crew = Arc::new(Crew::new(1, NICEST));
        for round in 0..6 {
            // A crew of both works for one of them, if for any.
            let pinner = || match round % 2 {
                0 => pinner(),
                _ => pinner().crew(Arc::clone(&crew)),
            };
            let memory = [memory(SIZE), memory(SIZE)];
            let iovas = [BASE, BASE + SIZE];
            let pin = |index: usize| {
                let regions = regions(&memory[index], iovas[index]);
                pinner().pin(&open.target(), &regions).unwrap()
            };
            let [one, other] = both(|| pin(0), || pin(1));
            open.assert_pinned(2 * SIZE);
            let [a, b] = [0, 1].map(|index| (&*memory[index], iovas[index]));
            open.assert_copies(a, b, round);
            if round < 2 {
                drop(one);
                open.assert_pinned(SIZE);
                assert_eq!(other.unpin().unwrap().bytes, SIZE);
            } else {
                let unpin = |pinned: Pinned<OpsTarget>| pinned.unpin().unwrap().bytes;
                assert_eq!(both(|| unpin(one), || unpin(other)), [SIZE, SIZE]);
            }
            open.assert_pinned(0);
        }
    }
}

#[test]
fn of_two_jobs_for_the_same_range_at_most_one_succeeds() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for place in Place::ALL {
        let open = place.open();
        for round in 0..8 {
            // Chunks of the one begin where those of the other do, or in their middle.
            let iovas = [BASE, BASE + SIZE / 2 + round % 2 * (CHUNK / 2)];
            let memory = [memory(SIZE), memory(SIZE)];
            let pin = |index: usize| {
                let regions = regions(&memory[index], iovas[index]);
                pinner().pin(&open.target(), &regions)
            };
            let outcomes = both(|| pin(0), || pin(1));
            for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_overlap(error);
            }
            let succeeded: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
            assert_ne!(succeeded, [true, true], "{place:?}");
            let winner = succeeded.iter().position(|&is| is);
            open.assert_pinned(if winner.is_some() { SIZE } else { 0 });
            if let Some(index) = winner.filter(|_| round < 4) {
                let (memory, iova) = (&*memory[index], iovas[index]);
                put(memory, 0, MOST, round);
                open.edu.copy(Iova(iova), Iova(iova + SIZE - MOST), MOST);
                assert!(holds(memory, SIZE - MOST, MOST, round));
            }
            drop(outcomes);
            open.assert_pinned(0);
        }
    }
}

#[test]
fn unmapping_while_a_job_maps() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    const ROUNDS: u32 = 100;
    for place in Place::ALL {
        let open = place.open();
        let (mut rounds, mut hit) = (0, 0);
        while hit < 4 {
            assert!(rounds < ROUNDS, "{place:?}: nothing was ever unmapped");
            rounds += 1;
            let memory = memory(SIZE);
            let regions = regions(&memory, BASE);
            let pinned = while_unmapped(&open.ops, (BASE, SIZE), || {
                // Nothing of this is a reason to fail: what is taken away is somebody else's decision.
                pinner().pin(&open.target(), &regions).unwrap()
            });
            let left = place.counter() - open.pinned;
            assert!(left <= SIZE && left % CHUNK == 0, "{left:#x}");
            hit += u32::from(left < SIZE);
            assert_eq!(pinned.unpin().unwrap().bytes, SIZE);
            open.assert_pinned(0);
        }
    }
}

#[test]
fn unmapping_while_a_job_unpins() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for place in Place::ALL {
        let open = place.open();
        for round in 0..8 {
            let memory = memory(SIZE);
            let regions = regions(&memory, BASE);
            let pinned = pinner().pin(&open.target(), &regions).unwrap();
            let unpinned = while_unmapped(&open.ops, (BASE, SIZE), || {
                if round % 2 == 0 {
                    drop(pinned);
                    return Ok(());
                }
                pinned.unpin().map(drop)
            });
            if let Err(error) = unpinned {
                // What the other thread is unmapping just now is nobody else's.
                assert_ne!(place, Place::Type1, "{error}");
                assert!(error.to_string().contains("another thread"), "{error}");
                assert!(!error.left_pinned().is_empty());
            }
            open.assert_pinned(0);
        }
    }
}

#[test]
fn unmapping_while_a_job_is_undone() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for place in Place::ALL {
        let open = place.open();
        for _ in 0..8 {
            let memory = memory(SIZE);
            let regions = regions(&memory, BASE);
            let foreign = Foreign::map(&open.ops, BASE + SIZE - Foreign::SIZE);
            let others = (BASE, SIZE - CHUNK);
            let error = while_unmapped(&open.ops, others, || {
                pinner().pin(&open.target(), &regions).unwrap_err()
            });
            if error.kind() == PinErrorKind::UndoFailed {
                // As above.
                assert_ne!(place, Place::Type1, "{error}");
                assert!(error.to_string().contains("another thread"), "{error}");
            } else {
                assert_overlap(&error);
            }
            open.assert_pinned(Foreign::SIZE);
            foreign.assert_works(&open.edu);
            foreign.unmap();
            open.assert_pinned(0);
        }
    }
}

#[test]
fn a_container_that_iommufd_provides() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _replaced = Replaced::new();
    let container = Arc::new(VfioContainer::new(None).unwrap());
    let ops: Arc<dyn VfioOps> = Arc::<VfioContainer>::clone(&container);
    let edu = Edu::attach(ops, DEVICES[0]);
    let target = Type1::of_container(container).unwrap();
    assert!(target.info().maps_in_parallel());
    assert_eq!(target.info().entries_left(), None);
    assert_eq!(target.info().migration(), None);
    assert!(!target.info().space().ranges().is_empty());

    let (memory, on_machine) = (memory(32 * MIB), foll_pinned());
    let (locked, pinned) = (status_bytes("VmLck:"), status_bytes("VmPin:"));
    let pin = pinner()
        .threads(NonZeroUsize::new(4).unwrap())
        .pin(&target, &regions(&memory, BASE))
        .unwrap();
    assert_eq!(pin.report().strategy, "parallel");
    assert_eq!(pin.report().target, "type1");
    assert!(pin.report().job.threads > 1, "{:?}", pin.report());
    assert_eq!(status_bytes("VmPin:") - pinned, 32 * MIB);
    // What has CAP_IPC_LOCK is not counted as locked, unlike by type1.
    assert_eq!(status_bytes("VmLck:"), locked);
    put(&memory, 0, MOST, 1);
    edu.copy(Iova(BASE), Iova(BASE + 31 * MIB), MOST);
    assert!(holds(&memory, 31 * MIB, MOST, 1));
    assert_eq!(pin.unpin().unwrap().bytes, 32 * MIB);
    assert_eq!(status_bytes("VmPin:"), pinned);
    assert_foll_pinned(on_machine);
}

/// Who counts what a container of iommufd pins for somebody without CAP_IPC_LOCK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// The user, as where /dev/iommu was opened.
    User,
    /// The process, as where iommufd itself made /dev/vfio/vfio (iommufd_fops_open()).
    Process,
}

impl Counts {
    fn target(self) -> (Type1<ContainerFd>, Edu) {
        let container = Arc::new(VfioContainer::new(None).unwrap());
        if self == Self::Process {
            count_for_process(&container).unwrap();
        }
        let ops: Arc<dyn VfioOps> = Arc::<VfioContainer>::clone(&container);
        let edu = Edu::attach(ops, DEVICES[0]);
        (Type1::of_container(container).unwrap(), edu)
    }
}

/// IOMMU_OPTION, IOMMU_OPTION_RLIMIT_MODE, before there is any object.
#[expect(unsafe_code, reason = "makes an ioctl that no crate has")]
fn count_for_process(container: &VfioContainer) -> Result<(), Errno> {
    nix::ioctl_readwrite_bad!(option, nix::request_code_none!(b';', 0x87), [u32; 6]);
    // Size, option, operation, object, and the value in two halves.
    let mut argument = [24, 0, 0, 0, 1, 0];
    // SAFETY: an array of the size that is its first number, which lives until the call returns.
    unsafe { option(container.as_raw_fd(), &raw mut argument) }.map(drop)
}

/// This thread, and those that it starts, may lock `bytes` and no more, until this is dropped.
struct Limited {
    capabilities: CapabilitySets,
    limits: (u64, u64),
}

impl Limited {
    fn to(bytes: u64) -> Self {
        let capabilities = capabilities(None).unwrap();
        let limits = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes.max(limits.1)).unwrap();
        let fewer = CapabilitySets {
            effective: capabilities.effective - CapabilitySet::IPC_LOCK,
            ..capabilities
        };
        set_capabilities(None, fewer).unwrap();
        Self {
            capabilities,
            limits,
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        set_capabilities(None, self.capabilities).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, self.limits.0, self.limits.1).unwrap();
    }
}

#[test]
fn the_limit_binds_in_a_container_that_iommufd_provides() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _replaced = Replaced::new();
    for counts in [Counts::User, Counts::Process] {
        let (target, _edu) = counts.target();
        let _limited = Limited::to(SIZE);
        let (memory, on_machine) = (memory(SIZE), foll_pinned());
        let (locked, pinned) = (status_bytes("VmLck:"), status_bytes("VmPin:"));
        let pin = pinner().pin(&target, &regions(&memory, BASE)).unwrap();
        assert_eq!(status_bytes("VmPin:") - pinned, SIZE, "{counts:?}");
        let expected = match counts {
            Counts::User => 0,
            Counts::Process => SIZE,
        };
        assert_eq!(status_bytes("VmLck:") - locked, expected, "{counts:?}");
        assert_eq!(pin.unpin().unwrap().bytes, SIZE);

        let larger = self::memory(SIZE + CHUNK);
        for check in [true, false] {
            let outcome = pinner().check(check).pin(&target, &regions(&larger, BASE));
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), PinErrorKind::Memlock, "{counts:?}: {error}");
            assert_eq!(errno(&error), (!check).then_some(Errno::ENOMEM));
            assert_eq!(error.chunks_undone() > 0, !check, "{error}");
            assert!(error.left_pinned().is_empty());
        }
        assert_eq!(status_bytes("VmPin:"), pinned);
        assert_eq!(status_bytes("VmLck:"), locked);
        assert_foll_pinned(on_machine);
    }
}

#[test]
fn without_a_device_nothing_is_touched() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let untouched = memory(64 * MIB);
    let resident = status_bytes("VmRSS:");
    let target = OpsTarget::new(Via::Iommufd.ops()).unwrap();
    let error = pinner()
        .pin(&target, &regions(&untouched, BASE))
        .unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::NotAttached, "{error}");
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
    let container = Arc::new(VfioContainer::new(None).unwrap());
    let fault = Type1::of_container(Arc::clone(&container)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotAttached, "{fault}");
    assert!(!fault.remedy.is_empty());
    let fault = OpsTarget::new(container).unwrap_err();
    assert_eq!(fault.kind, FaultKind::NotAttached, "{fault}");
    // The library itself needs some.
    assert!(status_bytes("VmRSS:") < resident + MIB);
}

#[test]
fn what_is_mapped_before_a_device_comes_is_pinned_when_it_comes() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let iommufd = Arc::new(IommuFd::new().unwrap());
    let iommufd = Arc::new(VfioIommufd::new(iommufd, None, None).unwrap());
    let mut target = Iommufd::of_vfio_iommufd(Arc::clone(&iommufd))
        .unwrap()
        .attachment(Attachment::Optional);
    assert!(!target.info().is_attached());
    let (memory, on_machine) = (memory(SIZE), foll_pinned());
    let (before, resident) = (status_bytes("VmPin:"), status_bytes("VmRSS:"));
    let pinned = pinner().pin(&target, &regions(&memory, BASE)).unwrap();
    assert_eq!(status_bytes("VmPin:"), before);
    assert_foll_pinned(on_machine);
    assert!(
        status_bytes("VmRSS:") < resident + MIB,
        "nothing is touched"
    );

    let edu = Edu::attach(iommufd, DEVICES[0]);
    target.refresh().unwrap();
    assert!(target.info().is_attached());
    assert_eq!(status_bytes("VmPin:") - before, SIZE);
    put(&memory, 0, MOST, 1);
    edu.copy(Iova(BASE), Iova(BASE + SIZE - MOST), MOST);
    assert!(holds(&memory, SIZE - MOST, MOST, 1));
    assert_eq!(pinned.unpin().unwrap().bytes, SIZE);
    assert_eq!(status_bytes("VmPin:"), before);
    assert_foll_pinned(on_machine);
}
