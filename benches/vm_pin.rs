// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pinning for a device, against what virtual machine monitors do today: in the project's VM, which has an IOMMU.
//!
//! ```text
//!  serial   caller  │ vfio_dma_map of everything: fault in, pin, map                                    │
//!  split    each    │ MADV_POPULATE_WRITE of one half  │ join │ caller: vfio_dma_map of everything       │
//!  raw      type1   │ helper touches chunks; caller touches, and maps what is complete                  │
//!           iommufd │ each: IOMMU_IOAS_MAP of chunk after chunk                                         │
//!  ours             │ Pinner::pin                                                                       │
//!
//!  round 0 (dropped)  serial split raw ours …      round 1  split raw ours … serial      round 2  raw ours …
//! ```
//!
//! | row, of `type1` and `iommufd`, for `4k` and `thp` | baseline | value |
//! |---|---|---|
//! | `vm_pin_T_P` | serial | ours: what one gains |
//! | `vm_pin_T_P_raw`, `vm_pin_T_P_split` | serial | raw, split: what they gain |
//! | `vm_pin_T_P_against_raw` | raw | ours: our gain over the raw one's, since serial is the same for both |
//! | `vm_pin_T_P_against_split` | split | ours |
//! | `vm_pin_T_P_check` | ours, without the check and with the backing given | ours: what the defaults cost |
//! | `vm_pin_type1_P_probe` | ours with `Strategy::Pipeline` | ours: what `auto` pays to find out whether populating pays |
//!
//! `raw` uses the strategies of parapin by bare system calls, and nothing of it. What is timed is the wall clock
//! around the whole call, the start and the end of threads included, on every side; unmapping and freeing are not.
//! `ours` is a `Pinner` as `Pinner::new` makes it, over a region of which it is told nothing. Each time all of the
//! memory is new, and the counter of the process says afterwards whether all of it was pinned.
//!
//! On some hosts populating transparent huge pages on many threads was reported to lose against not populating, and
//! `auto` has a guard for it: `vm_pin_type1_thp` shows what `auto` gains there, and the line below it by which
//! strategy.
//!
//! # Gotchas
//! - All sides take turns within a round, and each is first in its turn. All rows of a kind share these rounds.
//! - What the host has not backed yet is many times slower at the first touch: twice as much as a side needs is
//!   touched in the beginning, and the first round is dropped.
//! - The CPUs are emulated: take ratios from here, not times.

#![expect(
    unsafe_code,
    reason = "the other sides map memory without this library"
)]
#![expect(clippy::print_stdout, reason = "a bench shows its table")]

#[path = "../tests/edu/mod.rs"]
mod edu;
mod harness;
#[path = "../tests/machine/mod.rs"]
mod machine;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
    num::NonZeroUsize,
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    ptr::NonNull,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use edu::{Edu, Via};
use harness::Bench;
use nix::{
    errno::Errno,
    libc,
    sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap},
};
use parapin::{
    Backing, BackingKind, Iova, OpsTarget, PageSize, Pinner, Region, Regions, Strategy,
    bench::{Compare, Row, Skipped},
};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, vfio_iommu_type1_dma_map,
};
use vfio_ioctls::{VfioContainer, VfioIommufd};

const HUGE: u64 = 2 << 20;
const PAGE: usize = 4096;

/// Bytes that a raw side does at a time.
const CHUNK: u64 = 32 << 20;

/// Where the device sees the memory: above the reserved windows below 4 GiB.
const IOVA: u64 = 4 << 30;

fn main() -> Result<(), Skipped> {
    if env::var_os("PARAPIN_VM").is_none() {
        println!("skipped: needs the VM: cargo xtask vm bench");
        return Ok(());
    }
    let mut bench = Bench::from_args("vm_pin");
    let bytes = bench.size(1 << 30, 64 << 20);
    Memory::new(2 * bytes, MmapAdvise::MADV_NOHUGEPAGE)?.populate(0..2 * bytes)?;
    for via in Via::BOTH {
        let edu = Edu::open(via);
        for (name, pages) in [
            ("4k", MmapAdvise::MADV_NOHUGEPAGE),
            ("thp", MmapAdvise::MADV_HUGEPAGE),
        ] {
            let guest = Guest {
                name: format!("vm_pin_{}_{name}", via.name()),
                via,
                target: edu.target(),
                edu: &edu,
                pages,
                bytes,
                rounds: RefCell::default(),
                strategies: RefCell::default(),
            };
            measure(&mut bench, &guest);
        }
    }
    bench.finish();
    Ok(())
}

/// All rows of a guest, out of the same rounds.
fn measure(bench: &mut Bench, guest: &Guest<'_>) {
    use Compare::{Cost, SpeedUp};
    use Side::{Forced, Ours, Raw, Serial, Split, Told};
    let mut row = |name: &str, baseline, value, compare, target| {
        let row = Row {
            name: format!("{}{name}", guest.name),
            unit: "s",
            bytes: Some(guest.bytes),
            compare,
            target,
        };
        let mut replay = [baseline, value].map(|side| {
            let mut round = 0..;
            move || Ok(guest.seconds(round.next().unwrap_or(0), side))
        });
        let [baseline, value] = &mut replay;
        bench.measure(row, Some(baseline), value);
    };
    row("", Serial, Ours, SpeedUp, Some(1.0));
    row("_raw", Serial, Raw, SpeedUp, None);
    row("_split", Serial, Split, SpeedUp, None);
    row("_against_raw", Raw, Ours, SpeedUp, Some(0.97));
    row("_against_split", Split, Ours, SpeedUp, Some(1.0));
    row("_check", Told, Ours, Cost, None);
    if guest.via == Via::Type1 {
        row("_probe", Forced, Ours, Cost, None);
    }
    for strategy in guest.strategies.borrow().iter() {
        println!("{}: by {strategy}", guest.name);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Serial,
    Split,
    Raw,
    Ours,
    /// Ours, without the check, and told what is behind the memory.
    Told,
    /// Ours, by the strategy that `auto` picks for type1, without a look at whether it pays.
    Forced,
}

impl Side {
    /// iommufd has nothing to force.
    fn all(via: Via) -> &'static [Self] {
        use Side::{Forced, Ours, Raw, Serial, Split, Told};
        match via {
            Via::Type1 => &[Serial, Split, Raw, Ours, Told, Forced],
            Via::Iommufd => &[Serial, Split, Raw, Ours, Told],
        }
    }
}

/// Memory to be pinned by all sides, each time new.
struct Guest<'e> {
    name: String,
    via: Via,
    edu: &'e Edu,
    target: OpsTarget,
    pages: MmapAdvise,
    bytes: u64,
    /// What each side took, in seconds.
    rounds: RefCell<Vec<BTreeMap<Side, f64>>>,
    /// By which strategies ours went.
    strategies: RefCell<BTreeSet<&'static str>>,
}

impl Guest<'_> {
    /// What `side` took in a round; the first who asks has all sides measured.
    fn seconds(&self, round: usize, side: Side) -> f64 {
        let mut rounds = self.rounds.borrow_mut();
        while rounds.len() <= round {
            let sides = Side::all(self.via);
            let turns = sides.iter().cycle().skip(rounds.len() % sides.len());
            let measured = turns.take(sides.len()).map(|&side| {
                let time = self.measure(side);
                // The machine was made for this: nothing may be missing.
                let time = time.unwrap_or_else(|error| panic!("{} {side:?}: {error}", self.name));
                (side, time.as_secs_f64())
            });
            rounds.push(measured.collect());
        }
        rounds[round][&side]
    }

    fn measure(&self, side: Side) -> Result<Duration, Skipped> {
        let memory = Memory::new(self.bytes, self.pages)?;
        match side {
            Side::Serial => self.others(&memory, || self.serial(&memory)),
            Side::Split => self.others(&memory, || self.split(&memory)),
            Side::Raw => self.others(&memory, || match self.via {
                Via::Type1 => self.raw_type1(&memory),
                Via::Iommufd => self.raw_iommufd(&memory),
            }),
            Side::Ours => self.ours(memory.region()?, &self.target, &mut Pinner::new()),
            Side::Told => {
                let region = memory.region()?.with_backing(Backing {
                    kind: BackingKind::Anonymous,
                    page_size: match self.pages {
                        MmapAdvise::MADV_HUGEPAGE => PageSize::SIZE_2M,
                        _ => PageSize::SIZE_4K,
                    },
                    shared: false,
                });
                self.ours(region, &self.target, &mut Pinner::new().check(false))
            }
            Side::Forced => {
                let target = self.target.clone().strategy(Strategy::Pipeline);
                self.ours(memory.region()?, &target, &mut Pinner::new())
            }
        }
    }

    fn ours(
        &self,
        region: Region,
        target: &OpsTarget,
        pinner: &mut Pinner<'_>,
    ) -> Result<Duration, Skipped> {
        let regions = Regions::new([region])?;
        let before = self.via.counter();
        let start = Instant::now();
        let pinned = pinner.pin(target, &regions)?;
        let time = start.elapsed();
        assert_eq!(self.via.counter() - before, self.bytes, "bytes pinned");
        self.strategies
            .borrow_mut()
            .insert(pinned.report().strategy);
        pinned.unpin()?;
        Ok(time)
    }

    /// The time of a side that leaves `memory` mapped.
    fn others(
        &self,
        memory: &Memory,
        pin: impl FnOnce() -> Result<(), Skipped>,
    ) -> Result<Duration, Skipped> {
        let before = self.via.counter();
        let start = Instant::now();
        pin()?;
        let time = start.elapsed();
        assert_eq!(self.via.counter() - before, self.bytes, "bytes pinned");
        self.edu.ops.vfio_dma_unmap(IOVA, memory.size.get())?;
        Ok(time)
    }

    /// What every VMM on `vfio-ioctls` does.
    fn serial(&self, memory: &Memory) -> Result<(), Skipped> {
        // SAFETY: the memory is unmapped from the device before it is freed (`others`), there is no reference to it,
        // and it is touched by atomic operations and system calls alone.
        unsafe {
            self.edu
                .ops
                .vfio_dma_map(IOVA, memory.size.get(), memory.start.as_ptr())
        }?;
        Ok(())
    }

    /// Memory is prepared on both CPUs, as Cloud Hypervisor and QEMU do it, and then mapped as ever.
    fn split(&self, memory: &Memory) -> Result<(), Skipped> {
        let half = self.bytes / 2;
        together(
            || memory.populate(0..half),
            || memory.populate(half..self.bytes),
        )?;
        self.serial(memory)
    }

    /// One thread faults pages in from user mode; the caller does the same, and maps the chunks that are complete.
    fn raw_type1(&self, memory: &Memory) -> Result<(), Skipped> {
        let container = self.edu.ops.as_any().downcast_ref::<VfioContainer>();
        let container = container.ok_or(Errno::ENOTTY)?.as_raw_fd();
        let chunks = Chunks::new(self.bytes);
        let touched: Vec<AtomicBool> = (0..chunks.count).map(|_| AtomicBool::new(false)).collect();
        let caller = thread::current();
        let help = || {
            while let Some((index, range)) = chunks.next() {
                memory.touch(range);
                // Release: pairs with the swap of the caller, who hands these pages to the kernel.
                touched[index].store(true, Ordering::Release);
                caller.unpark();
            }
            Ok(())
        };
        together(help, || {
            let mut mapped = 0;
            while mapped < touched.len() {
                if let Some(index) =
                    (0..touched.len()).find(|&index| touched[index].swap(false, Ordering::Acquire))
                {
                    map_type1(container, memory, chunks.range(index))?;
                    mapped += 1;
                } else if let Some((index, range)) = chunks.next() {
                    memory.touch(range);
                    touched[index].store(true, Ordering::Release);
                } else {
                    thread::park();
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Two threads map.
    fn raw_iommufd(&self, memory: &Memory) -> Result<(), Skipped> {
        let iommufd = self.edu.ops.as_any().downcast_ref::<VfioIommufd>();
        let iommufd = iommufd.ok_or(Errno::ENOTTY)?;
        let (fd, ioas) = (iommufd.iommufd().as_raw_fd(), iommufd.ioas().id());
        let chunks = Chunks::new(self.bytes);
        let work = || {
            while let Some((_, range)) = chunks.next() {
                map_iommufd(fd, ioas, memory, range)?;
            }
            Ok(())
        };
        together(work, work)?;
        Ok(())
    }
}

/// Both at the same time, `help` on a thread of its own.
///
/// A thread that starts maps stacks, which has to wait while others fault pages in by system calls: Cloud Hypervisor
/// and QEMU, too, let nobody begin before all are there.
fn together(
    help: impl FnOnce() -> Result<(), Errno> + Send,
    call: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let started = Barrier::new(2);
    thread::scope(|scope| {
        let helper = scope.spawn(|| {
            started.wait();
            help()
        });
        started.wait();
        call()?;
        helper.join().unwrap_or(Err(Errno::ECANCELED))
    })
}

/// Chunks, each for whoever takes it.
struct Chunks {
    bytes: u64,
    count: usize,
    taken: AtomicU64,
}

impl Chunks {
    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            count: usize::try_from(bytes.div_ceil(CHUNK)).unwrap_or(usize::MAX),
            taken: AtomicU64::new(0),
        }
    }

    fn next(&self) -> Option<(usize, Range<u64>)> {
        // Relaxed: hands out numbers.
        let index = usize::try_from(self.taken.fetch_add(1, Ordering::Relaxed)).ok()?;
        (index < self.count).then(|| (index, self.range(index)))
    }

    fn range(&self, index: usize) -> Range<u64> {
        let start = index as u64 * CHUNK;
        start..self.bytes.min(start + CHUNK)
    }
}

/// `VFIO_IOMMU_MAP_DMA`.
fn map_type1(container: RawFd, memory: &Memory, range: Range<u64>) -> Result<(), Errno> {
    const MAP_DMA: libc::Ioctl = 0x3b71;
    let map = vfio_iommu_type1_dma_map {
        argsz: u32::try_from(size_of::<vfio_iommu_type1_dma_map>()).unwrap_or(0),
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.address(range.start),
        iova: IOVA + range.start,
        size: range.end - range.start,
    };
    // SAFETY: the kernel reads the structure. The memory is unmapped from the device before it is freed (`others`),
    // there is no reference to it, and it is touched by atomic operations and system calls alone.
    let outcome = unsafe { libc::ioctl(container, MAP_DMA, &raw const map) };
    Errno::result(outcome).map(drop)
}

/// `struct iommu_ioas_map` (include/uapi/linux/iommufd.h).
#[repr(C)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

/// `IOMMU_IOAS_MAP`.
fn map_iommufd(fd: RawFd, ioas: u32, memory: &Memory, range: Range<u64>) -> Result<(), Errno> {
    const MAP: libc::Ioctl = 0x3b85;
    const FIXED_IOVA_WRITEABLE_READABLE: u32 = 7;
    let mut map = IoasMap {
        size: u32::try_from(size_of::<IoasMap>()).unwrap_or(0),
        flags: FIXED_IOVA_WRITEABLE_READABLE,
        ioas_id: ioas,
        reserved: 0,
        user_va: memory.address(range.start),
        length: range.end - range.start,
        iova: IOVA + range.start,
    };
    // SAFETY: as in `map_type1`; the kernel also writes the structure.
    let outcome = unsafe { libc::ioctl(fd, MAP, &raw mut map) };
    Errno::result(outcome).map(drop)
}

/// Private anonymous memory that nobody has touched, at a multiple of the huge page; unmapped on drop.
struct Memory {
    start: NonNull<u8>,
    size: NonZeroUsize,
    /// With what is in front of and behind it.
    whole: (NonNull<u8>, NonZeroUsize),
}

// SAFETY: it is accessed by atomic operations and system calls alone.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: u64, pages: MmapAdvise) -> Result<Self, Errno> {
        let length = |bytes: u64| usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
        let (size, spare) = length(bytes)
            .zip(length(bytes + HUGE))
            .ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let mapped = unsafe { mmap_anonymous(None, spare, protection, MapFlags::MAP_PRIVATE) }?;
        let before = mapped
            .cast::<u8>()
            .align_offset(usize::try_from(HUGE).map_err(|_| Errno::EINVAL)?);
        let memory = Self {
            // SAFETY: less than a huge page, which is what the mapping is longer.
            start: unsafe { mapped.cast().add(before) },
            size,
            whole: (mapped.cast(), spare),
        };
        // SAFETY: a hint about memory that belongs to `memory`.
        unsafe { madvise(memory.start.cast(), size.get(), pages) }?;
        Ok(memory)
    }

    /// As a VMM would say it.
    fn region(&self) -> Result<Region, Skipped> {
        // SAFETY: `Guest::ours` unpins before this memory is unmapped, there is no reference to it, and nothing in it
        // must keep its value.
        let region =
            unsafe { Region::new(Iova(IOVA), self.start.as_ptr(), self.size.get() as u64) };
        Ok(region?)
    }

    fn populate(&self, range: Range<u64>) -> Result<(), Errno> {
        let length = usize::try_from(range.end - range.start).map_err(|_| Errno::EINVAL)?;
        let start = self.at(range.start).cast();
        // SAFETY: faults pages in, without a change to what can be read from them.
        unsafe { madvise(start, length, MmapAdvise::MADV_POPULATE_WRITE) }
    }

    /// Faults pages in from user mode, by one write each.
    fn touch(&self, range: Range<u64>) {
        for at in range.step_by(PAGE) {
            // SAFETY: mapped readable and writable for as long as `self`, and only accessed atomically.
            let byte = unsafe { AtomicU8::from_ptr(self.at(at).as_ptr()) };
            // The CPU takes a compare-exchange for a write, whatever it finds; a load before it would fault the zero
            // page in first, and an or with 0 may be compiled to a load.
            // Relaxed: nobody reads the value.
            let _ = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn at(&self, offset: u64) -> NonNull<u8> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(offset < self.size.get(), "inside the memory");
        // SAFETY: inside the mapping, which is one piece.
        unsafe { self.start.add(offset) }
    }

    fn address(&self, offset: u64) -> u64 {
        self.at(offset).addr().get() as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let (start, size) = self.whole;
        // SAFETY: the mapping belongs to this value, and the device has been told to forget it.
        let unmapped = unsafe { munmap(start.cast(), size.get()) };
        debug_assert_eq!(unmapped, Ok(()), "munmap of a whole own mapping");
    }
}
