// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Undo on a real kernel: allocations inside of the map calls fail, one after the other, and nothing stays behind.
//!
//! ```text
//!  job n: fail-nth of one thread := n ─► map step ─► disarmed ─► map step with what is left of n ─► …
//!         ├─ failed: no pin, no mapping, no entry is left, and the same job without a failure succeeds
//!         ├─ the kernel did without the allocation: next n
//!         └─ over before its n-th allocation: every one before it had its turn
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::print_stdout,
    reason = "says how many allocations had their turn"
)]

mod edu;
mod machine;

use std::{
    fs::{self, File},
    io,
    num::NonZeroUsize,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use edu::{Edu, Via};
use iommufd_ioctls::IommuFd;
use machine::{
    alone, assert_foll_pinned, foll_pinned, status_bytes,
    vm::{DEVICES, in_vm},
};
use mock::Mock;
use nix::errno::Errno;
use parapin::{
    Backing, BackingKind, ContainerFd, Iova, Mapping, OpsTarget, PageSize, Pages, PinError,
    PinErrorKind, Pinned, Pinner, Region, Regions, Strategy, Target, Type1,
};
use pinning::{Chunk, Constraints, Plan, Work};
use vfio::{Accounting, Addressing, PinFault, Session};
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd, VfioOps};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// No job has so many allocations.
const MOST: u32 = 5000;

/// Which thread does not get its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// The caller, in its map steps.
    Caller,
    /// The only helper, in whatever it does.
    Helper,
}

/// The allocation that fails, counted over all steps of the victim.
#[derive(Debug)]
struct Injection {
    victim: Victim,
    /// How many allocations before it, and itself; 0 once it has failed.
    left: AtomicU32,
    /// Bytes that are left for the helper; the caller leaves it as many as it can.
    for_helper: (Mutex<u64>, Condvar),
}

thread_local! {
    static FAIL_NTH: File = File::options()
        .read(true)
        .write(true)
        .open("/proc/thread-self/fail-nth")
        .unwrap();
}

impl Injection {
    /// In a job of so many bytes.
    fn new(victim: Victim, nth: u32, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            victim,
            left: AtomicU32::new(nth),
            for_helper: (Mutex::new(bytes), Condvar::new()),
        })
    }

    /// Whether the allocation was reached.
    fn happened(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Runs `step`, in which the allocation may fail; before and after it, none does.
    fn hit<R>(&self, step: impl FnOnce() -> R) -> R {
        FAIL_NTH.with(|file| {
            let arm = |n: u32| file.write_all_at(n.to_string().as_bytes(), 0).unwrap();
            arm(self.left.load(Ordering::SeqCst));
            let outcome = step();
            let mut text = [0; 16];
            let length = file.read_at(&mut text, 0);
            arm(0);
            let left = std::str::from_utf8(&text[..length.unwrap()]).unwrap();
            self.left
                .store(left.trim().parse().unwrap(), Ordering::SeqCst);
            outcome
        })
    }

    /// The helper was at a piece.
    fn helper_was_at(&self, chunk: &Chunk, outcome: &Result<(), PinFault>) {
        let mut bytes = self.for_helper.0.lock().unwrap();
        *bytes = match outcome {
            Ok(()) => *bytes - chunk.size(),
            // It gets nothing more.
            Err(_) => 0,
        };
        self.for_helper.1.notify_all();
    }

    /// The caller, which has a piece, waits until the helper has failed or done all others.
    fn wait_for_helper(&self, chunk: &Chunk) {
        let (bytes, news) = &self.for_helper;
        let patience = Duration::from_secs(30);
        let (bytes, _) = news
            .wait_timeout_while(bytes.lock().unwrap(), patience, |left| *left > chunk.size())
            .unwrap();
        assert!(*bytes <= chunk.size(), "the helper does not come");
    }
}

/// A target whose map steps may lack memory.
#[derive(Debug)]
struct Injecting {
    target: OpsTarget,
    injection: Arc<Injection>,
}

#[derive(Debug)]
struct Injected<S> {
    session: S,
    injection: Arc<Injection>,
}

impl Target for Injecting {
    type Session = Injected<<OpsTarget as Target>::Session>;

    fn name(&self) -> &'static str {
        self.target.name()
    }

    fn addressing(&self) -> Addressing {
        self.target.addressing()
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        self.target.constraints(regions)
    }

    fn accounting(&self) -> Accounting {
        self.target.accounting()
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault> {
        Ok(Injected {
            session: self.target.begin(regions, plan)?,
            injection: Arc::clone(&self.injection),
        })
    }
}

impl<S: Session> Work for Injected<S> {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        let step = || self.session.run(chunk, worker);
        let maps = ["serial", "parallel"].contains(&self.session.strategy());
        match (self.injection.victim, worker) {
            (Victim::Caller, 0) if maps => self.injection.hit(step),
            (Victim::Caller, _) => step(),
            (Victim::Helper, 0) => {
                self.injection.wait_for_helper(&chunk);
                step()
            }
            (Victim::Helper, _) => {
                let outcome = self.injection.hit(step);
                self.injection.helper_was_at(&chunk, &outcome);
                outcome
            }
        }
    }

    fn seal(&self, chunk: Chunk) -> Result<(), PinFault> {
        let step = || self.session.seal(chunk);
        match self.injection.victim {
            Victim::Caller => self.injection.hit(step),
            Victim::Helper => step(),
        }
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.session.undo(chunk)
    }
}

impl<S: Session> Session for Injected<S> {
    fn strategy(&self) -> &'static str {
        self.session.strategy()
    }

    fn unpins_in_parallel(&self) -> bool {
        self.session.unpins_in_parallel()
    }

    fn keep(self) {
        self.session.keep();
    }
}

/// Where memory is mapped, and every counter that shows it.
struct Place {
    via: Via,
    ops: Arc<dyn VfioOps>,
    /// A device that is attached.
    _edu: Option<Edu>,
    /// Knows what is left of the container's entries.
    container: Option<Type1<ContainerFd>>,
    mock: Option<Mock>,
}

/// What has to be again as it was.
#[derive(Debug, PartialEq, Eq)]
struct Counters {
    locked: u64,
    pinned: u64,
    entries: Option<u32>,
}

impl Counters {
    /// As they are when so much more is pinned.
    fn with(&self, via: Via, bytes: u64, chunks: u32) -> Self {
        match via {
            Via::Type1 => Self {
                locked: self.locked + bytes,
                entries: self.entries.map(|left| left - chunks),
                ..*self
            },
            Via::Iommufd => Self {
                pinned: self.pinned + bytes,
                ..*self
            },
        }
    }
}

impl Place {
    fn type1() -> Self {
        let container = Arc::new(VfioContainer::new(None).unwrap());
        let ops: Arc<dyn VfioOps> = Arc::<VfioContainer>::clone(&container);
        let edu = Edu::attach(Arc::clone(&ops), DEVICES[0]);
        Self {
            via: Via::Type1,
            ops,
            _edu: Some(edu),
            container: Some(Type1::of_container(container).unwrap()),
            mock: None,
        }
    }

    fn iommufd() -> Self {
        let edu = Edu::open(Via::Iommufd);
        Self {
            via: Via::Iommufd,
            ops: Arc::clone(&edu.ops),
            _edu: Some(edu),
            container: None,
            mock: None,
        }
    }

    /// An IOAS with a domain that only notes which page is mapped where.
    fn mock() -> Result<Self, Errno> {
        let iommufd = Arc::new(IommuFd::new().unwrap());
        let ops = Arc::new(VfioIommufd::new(Arc::clone(&iommufd), None, None).unwrap());
        let mock = Mock::attach(iommufd, ops.ioas().id())?;
        Ok(Self {
            via: Via::Iommufd,
            ops,
            _edu: None,
            container: None,
            mock: Some(mock),
        })
    }

    fn counters(&self) -> Counters {
        Counters {
            locked: status_bytes("VmLck:"),
            pinned: status_bytes("VmPin:"),
            entries: self.container.clone().map(|mut container| {
                container.refresh().unwrap();
                container.info().entries_left().unwrap()
            }),
        }
    }

    /// Two IOVAs for the `n`th job: where nothing was mapped before, so that the IOMMU has no page tables.
    fn iovas(&self, n: u32) -> [u64; 2] {
        match self.mock {
            Some(_) => [32 * MIB, GIB],
            None => {
                let first = (4 + u64::from(n) % 400) * GIB;
                [first, first + GIB / 2]
            }
        }
    }

    /// Nothing can be unmapped, because nothing is there, and no page has a pin of its own.
    fn assert_empty(&self, regions: &Regions) {
        for region in regions {
            let size = usize::try_from(region.size()).unwrap();
            let unmapped = self.ops.vfio_dma_unmap(region.iova().0, size);
            match (self.via, unmapped) {
                (Via::Type1, Err(VfioError::InvalidDmaUnmapSize)) => {}
                (Via::Iommufd, Err(VfioError::IommufdIoctlError(error))) => {
                    let text = error.to_string();
                    assert!(text.contains("No such file or directory"), "{text}");
                }
                (_, other) => panic!("unmapping {region:?}: {other:?}"),
            }
            if let Some(mock) = &self.mock {
                mock.check_pins(region, 0).unwrap();
            }
        }
    }
}

/// What the memory is before the job.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// Nobody has touched it: the job faults it in.
    Cold,
    /// All of it is there.
    Warm,
    /// As cold, of huge pages.
    Huge,
}

impl Memory {
    /// Bytes of each of the two regions; each page of cold memory is an allocation that has its turn.
    fn size(self) -> u64 {
        match self {
            Self::Cold => MIB / 2,
            Self::Warm => 2 * MIB,
            Self::Huge => 4 * MIB,
        }
    }

    fn regions(self, iovas: [u64; 2]) -> Regions {
        let (pages, page_size) = match self {
            Self::Cold | Self::Warm => (Pages::Small, PageSize::SIZE_4K),
            Self::Huge => (Pages::Transparent, PageSize::SIZE_2M),
        };
        let backing = Backing {
            kind: BackingKind::Anonymous,
            page_size,
            shared: false,
        };
        let regions = iovas.map(|iova| {
            let mapping = Mapping::anonymous(self.size(), pages).unwrap();
            if matches!(self, Self::Warm) {
                mapping.fill(0, self.size(), 1);
            }
            let region = Region::of_mapping(Arc::new(mapping), Iova(iova)).unwrap();
            region.with_backing(backing)
        });
        Regions::new(regions).unwrap()
    }
}

/// What is done to which memory, and by how many threads.
#[derive(Debug, Clone, Copy)]
struct Case {
    strategy: Strategy,
    memory: Memory,
    threads: usize,
    victim: Victim,
}

impl Case {
    const fn caller(strategy: Strategy, memory: Memory) -> Self {
        Self {
            strategy,
            memory,
            threads: 1,
            victim: Victim::Caller,
        }
    }

    const fn helper(strategy: Strategy, memory: Memory) -> Self {
        Self {
            strategy,
            memory,
            threads: 2,
            victim: Victim::Helper,
        }
    }

    fn bytes(self) -> u64 {
        2 * self.memory.size()
    }

    /// In four chunks.
    fn pin<T: Target>(self, target: &T, regions: &Regions) -> Result<Pinned<T>, PinError> {
        Pinner::new()
            .threads(NonZeroUsize::new(self.threads).unwrap())
            .min_chunk(self.bytes() / 4)
            .max_chunk(self.bytes() / 4)
            .check(false)
            .pin(target, regions)
    }

    /// Pins, looks at it, and unpins.
    fn succeeds<T: Target>(
        self,
        place: &Place,
        before: &Counters,
        pinned: Pinned<T>,
        regions: &Regions,
    ) {
        let report = pinned.report();
        assert_eq!(report.strategy, self.strategy.name());
        assert_eq!(report.job.threads, self.threads, "{report:?}");
        assert_eq!(report.job.bytes, self.bytes());
        assert_eq!(report.job.chunks, 4);
        if let Some(mock) = &place.mock {
            for region in regions {
                mock.check_map(region).unwrap();
                mock.check_pins(region, 1).unwrap();
            }
        }
        assert_eq!(place.counters(), before.with(place.via, self.bytes(), 4));
        assert_eq!(pinned.unpin().unwrap().bytes, self.bytes());
    }

    /// It says what happened and what to do, and left nothing.
    fn explains(self, place: &Place, error: &PinError, regions: &Regions) {
        let source = std::error::Error::source(error).unwrap();
        let errno = source
            .downcast_ref::<io::Error>()
            .unwrap()
            .raw_os_error()
            .unwrap();
        let kind = match Errno::from_raw(errno) {
            Errno::ENOMEM => PinErrorKind::OutOfMemory,
            // What iommufd's own points of failure say: before it pins (pfn_reader_user_pin()), and where it looks an
            // object up (iommufd_get_object()) or the mock maps (mock_domain_map_pages()).
            Errno::EFAULT if place.via == Via::Iommufd => PinErrorKind::BadAddress,
            Errno::ENOENT if place.via == Via::Iommufd => PinErrorKind::Other,
            other => panic!("{other} for a lack of memory: {error}"),
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.left_pinned().is_empty(), "{error}");
        assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()));
        let at = error.at().unwrap();
        let holds = |region: &Region| {
            at.iova >= region.iova() && at.iova.0 + at.size <= region.iova().0 + region.size()
        };
        assert!(regions.iter().any(holds), "{at:?} is in one of the regions");
        assert_eq!(error.report().unwrap().strategy, self.strategy.name());
    }
}

/// Lets one allocation after the other fail. Returns how many chunks were undone, at most.
fn sweep(place: &Place, case: Case) -> u64 {
    let (before, on_machine) = (place.counters(), foll_pinned());
    let (mut failed, mut survived, mut undone) = (0, 0, 0);
    for n in 1..MOST {
        let regions = case.memory.regions(place.iovas(n));
        let nothing_left = || {
            assert_eq!(place.counters(), before, "{case:?}, n = {n}");
            assert_foll_pinned(on_machine);
            place.assert_empty(&regions);
        };
        let target = OpsTarget::new(Arc::clone(&place.ops)).unwrap();
        let injecting = Injecting {
            target: target.strategy(case.strategy),
            injection: Injection::new(case.victim, n, case.bytes()),
        };
        let outcome = case.pin(&injecting, &regions);
        let happened = injecting.injection.happened();
        match outcome {
            Ok(pinned) => {
                case.succeeds(place, &before, pinned, &regions);
                survived += u32::from(happened);
            }
            Err(error) => {
                assert!(happened, "{case:?}, n = {n}, without a cause: {error}");
                case.explains(place, &error, &regions);
                nothing_left();
                let again = case.pin(&injecting.target, &regions).unwrap();
                case.succeeds(place, &before, again, &regions);
                undone = undone.max(error.chunks_undone());
                failed += 1;
            }
        }
        nothing_left();
        if !happened {
            println!(
                "{case:?}: {failed} allocations failed the job, the kernel did without {survived}, at most {undone} \
                 chunks were undone"
            );
            assert!(failed >= 3, "{case:?}: {failed} failures only");
            return undone;
        }
    }
    panic!("{case:?}: {MOST} allocations, and no end");
}

/// Allocations that may sleep can fail too, and none is told in the kernel's log.
fn prepare() {
    let debugfs = Path::new("/sys/kernel/debug");
    let set = |what: &str, value: &str| fs::write(debugfs.join(what), value).unwrap();
    for who in ["failslab", "fail_page_alloc", "fail_iommufd"] {
        set(&format!("{who}/verbose"), "0");
    }
    for who in ["failslab", "fail_page_alloc"] {
        set(&format!("{who}/ignore-gfp-wait"), "N");
    }
    set("fail_page_alloc/ignore-gfp-highmem", "N");
    set("fail_page_alloc/min-order", "0");
}

fn sweeps(place: impl Fn() -> Place, cases: &[Case]) {
    prepare();
    for case in cases {
        let undone = sweep(&place(), *case);
        // Mostly 3. An allocation may miss its turn: how many there are before it is not always the same.
        assert!(case.victim != Victim::Caller || undone > 0, "{case:?}");
    }
}

#[test]
fn type1_serial() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    sweeps(
        Place::type1,
        &[
            Case::caller(Strategy::Serial, Memory::Warm),
            Case::caller(Strategy::Serial, Memory::Cold),
        ],
    );
}

#[test]
fn type1_populate_then_map() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    sweeps(
        Place::type1,
        &[
            Case::caller(Strategy::PopulateThenMap, Memory::Cold),
            Case::helper(Strategy::PopulateThenMap, Memory::Huge),
        ],
    );
}

#[test]
fn type1_pipeline() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let case = Case::caller(Strategy::Pipeline, Memory::Cold);
    sweeps(Place::type1, &[case, Case { threads: 2, ..case }]);
}

#[test]
fn type1_parallel() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    sweeps(
        Place::type1,
        &[
            Case::caller(Strategy::Parallel, Memory::Warm),
            Case::helper(Strategy::Parallel, Memory::Warm),
            Case::helper(Strategy::Parallel, Memory::Cold),
        ],
    );
}

#[test]
fn iommufd_parallel() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    sweeps(
        Place::iommufd,
        &[
            Case::caller(Strategy::Parallel, Memory::Warm),
            Case::caller(Strategy::Parallel, Memory::Cold),
            Case::helper(Strategy::Parallel, Memory::Warm),
        ],
    );
}

// Linux 6.12 asks whichever IOMMU without a firmware node came first whether it knows the mock device, and Intel's does
// not (iommu_fwspec_ops(), drivers/iommu/iommu-priv.h).
#[test]
fn mock_domain_without_iommu() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    sweeps(
        || Place::mock().unwrap(),
        &[
            Case::caller(Strategy::Parallel, Memory::Cold),
            Case::helper(Strategy::Parallel, Memory::Cold),
        ],
    );
}

/// The kernel's own test device of iommufd (drivers/iommu/iommufd/iommufd_test.h).
mod mock {
    #![expect(unsafe_code, reason = "makes an ioctl that no crate knows")]

    use std::{os::fd::AsRawFd, sync::Arc};

    use iommufd_ioctls::IommuFd;
    use nix::errno::Errno;
    use parapin::Region;

    const MOCK_DOMAIN: u32 = 2;
    const CHECK_MAP: u32 = 3;
    const CHECK_REFS: u32 = 4;

    /// `struct iommu_test_cmd`.
    #[repr(C)]
    #[derive(Debug)]
    pub(super) struct Command {
        size: u32,
        op: u32,
        id: u32,
        reserved: u32,
        arguments: [u64; 6],
        last: u64,
    }

    nix::ioctl_readwrite_bad!(test, nix::request_code_none!(b';', 0xa0), Command);

    /// An attached mock device.
    pub(super) struct Mock {
        iommufd: Arc<IommuFd>,
        domain: u32,
    }

    impl Mock {
        pub(super) fn attach(iommufd: Arc<IommuFd>, ioas: u32) -> Result<Self, Errno> {
            let answer = call(&iommufd, MOCK_DOMAIN, ioas, [0; 6])?;
            // The first two of three numbers: of the device, and of what it is attached to.
            let domain = u32::try_from(answer[0] >> 32).unwrap();
            Ok(Self { iommufd, domain })
        }

        /// Whether every page of the region is mapped at its place.
        pub(super) fn check_map(&self, region: &Region) -> Result<(), Errno> {
            let (iova, size, hva) = (region.iova().0, region.size(), region.hva().0);
            call(
                &self.iommufd,
                CHECK_MAP,
                self.domain,
                [iova, size, hva, 0, 0, 0],
            )
            .map(drop)
        }

        /// Whether every small page of the region is pinned so many times.
        pub(super) fn check_pins(&self, region: &Region, pins: u64) -> Result<(), Errno> {
            let (size, hva) = (region.size(), region.hva().0);
            call(&self.iommufd, CHECK_REFS, 0, [size, hva, pins, 0, 0, 0]).map(drop)
        }
    }

    fn call(iommufd: &IommuFd, op: u32, id: u32, arguments: [u64; 6]) -> Result<[u64; 6], Errno> {
        let mut command = Command {
            size: u32::try_from(size_of::<Command>()).unwrap(),
            op,
            id,
            reserved: 0,
            arguments,
            last: 0,
        };
        // SAFETY: the structure lives until the call returns. The addresses in it are looked up and never written.
        unsafe { test(iommufd.as_raw_fd(), &raw mut command) }?;
        Ok(command.arguments)
    }
}
