// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pinning memory that was never touched: ours, a plain loop, and the speed of memory itself.
//!
//! ```text
//!  Pinner::pin ──► chunk table ──► plain loop: the same chunks, one thread, as many rings
//!       │
//!       └── held against memset of resident memory on as many threads: zeroing pages cannot be faster
//! ```
//!
//! | row | baseline | value |
//! |---|---|---|
//! | `cold_pin_P threads=1` | plain loop on one ring | ours on one thread: what the engine costs |
//! | `cold_pin_P threads=N` | plain loop on N rings | ours on N threads |
//! | `cold_pin_P_against_memset threads=N` | memset of resident memory on N threads | ours |
//! | `cold_pin_P_with_check threads=N` | ours | ours, with the check of the memory limits |
//! | `cold_pin_P_with_own_crew threads=N` | ours, on a crew that was kept | ours, with helpers started by the call |
//!
//! What is timed is the wall clock around the pin call, the making of the rings included, on both sides; mapping,
//! unpinning and unmapping are not.
//!
//! # Gotchas
//! - Each registration walks the older buffers of its ring. Against a loop on a single ring, N threads would look
//!   better than they are, so the loop gets as many rings as our threads have, and the same chunks.
//! - On a virtual machine the first touch of memory that the host has not backed yet costs ten times as much. So as
//!   much memory as a guest has is touched beforehand, and given back right before a guest is pinned. Where a balloon
//!   tells the host of free pages, the host takes them again two seconds later, in the middle of the next round if
//!   that follows at once; the bench then waits for that moment while it holds all its memory.
//! - `PARAPIN_BENCH_GIB` sets the size of the guest.

#![expect(
    unsafe_code,
    reason = "the plain loop registers buffers without this library"
)]

mod harness;

use std::{
    cell::RefCell,
    fs,
    num::NonZeroUsize,
    ptr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cgroup::{CpuBudget, Demand, LockRule, MemoryBudget};
use harness::Bench;
use nix::libc::iovec;
use parapin::{
    Backing, BackingKind, Crew, IoUring, Iova, Mapping, NICEST, PageSize, Pages, Pinner, Region,
    Regions,
    bench::{Compare, Outcome, Row, Skipped},
};

fn main() {
    let mut bench = Bench::from_args("cold_pin");
    let gib = harness::number("PARAPIN_BENCH_GIB").unwrap_or(2) as u64;
    // A test stays below the usual RLIMIT_MEMLOCK of 8 MiB.
    let bytes = bench.size(gib << 30, 4 << 20);
    let stock = RefCell::new(Stock::new(
        bytes,
        bench.size(host_is_told_of_free_pages(), false),
    ));
    for (pages, name) in [(Pages::Small, "4k"), (Pages::Transparent, "thp")] {
        let guest = Guest {
            name,
            pages,
            bytes,
            min_chunk: bench.size(32 << 20, 2 << 20),
            max_chunk: bench.size(64 << 20, 2 << 20),
            stock: &stock,
            chunks: RefCell::default(),
        };
        for threads in thread_counts() {
            against_plain_loop(&mut bench, &guest, threads);
            against_memset(&mut bench, &guest, threads);
        }
        against_itself(&mut bench, &guest, CpuBudget::current().threads());
    }
    bench.finish();
}

/// 1, 2, 4, … and all that this process may use.
fn thread_counts() -> impl Iterator<Item = NonZeroUsize> {
    let all = CpuBudget::current().threads();
    let powers = (0..usize::BITS).filter_map(|power| NonZeroUsize::new(1 << power));
    powers
        .take_while(move |&threads| threads < all)
        .chain([all])
}

fn against_plain_loop(bench: &mut Bench, guest: &Guest<'_>, threads: NonZeroUsize) {
    let (compare, target) = match threads.get() {
        1 => (Compare::Cost, 1.02),
        _ => (Compare::SpeedUp, 1.6),
    };
    let mut pinner = guest.pinner(threads);
    bench.measure(
        guest.row("", threads, compare, Some(target)),
        Some(&mut || guest.plain_loop(threads)),
        &mut || guest.pin(&mut pinner),
    );
}

fn against_memset(bench: &mut Bench, guest: &Guest<'_>, threads: NonZeroUsize) {
    let mut pinner = guest.pinner(threads);
    let mut limit = || {
        let stock = guest.stock.borrow();
        let stock = stock.as_ref().map_err(Clone::clone)?;
        Ok(memset(&stock.resident, threads))
    };
    bench.measure(
        guest.row("_against_memset", threads, Compare::Cost, None),
        Some(&mut limit),
        &mut || guest.pin(&mut pinner),
    );
}

/// What a caller pays who keeps the defaults of a `Pinner`.
fn against_itself(bench: &mut Bench, guest: &Guest<'_>, threads: NonZeroUsize) {
    let mut plain = guest.pinner(threads);
    let mut checking = guest.pinner(threads).check(true);
    bench.measure(
        guest.row("_with_check", threads, Compare::Cost, None),
        Some(&mut || guest.pin(&mut plain)),
        &mut || guest.pin(&mut checking),
    );
    if threads.get() == 1 {
        return;
    }
    let mut starting = guest.pinner_without_crew(threads);
    bench.measure(
        guest.row("_with_own_crew", threads, Compare::Cost, None),
        Some(&mut || guest.pin(&mut plain)),
        &mut || guest.pin(&mut starting),
    );
}

/// Memory to be pinned, new for each round.
struct Guest<'s> {
    name: &'static str,
    pages: Pages,
    bytes: u64,
    min_chunk: u64,
    max_chunk: u64,
    /// Memory that the host has backed, to be given back right before it is needed.
    stock: &'s RefCell<Result<Stock, Skipped>>,
    /// Offset and size of the chunks of our latest run.
    chunks: RefCell<Vec<(u64, u64)>>,
}

impl Guest<'_> {
    fn row(&self, kind: &str, threads: NonZeroUsize, compare: Compare, target: Option<f64>) -> Row {
        Row {
            name: format!("cold_pin_{}{kind} threads={threads}", self.name),
            unit: "s",
            bytes: Some(self.bytes),
            compare,
            target,
        }
    }

    fn pinner(&self, threads: NonZeroUsize) -> Pinner<'static> {
        let crew = Arc::new(Crew::new(threads.get() - 1, NICEST));
        self.pinner_without_crew(threads).crew(crew)
    }

    fn pinner_without_crew(&self, threads: NonZeroUsize) -> Pinner<'static> {
        Pinner::new()
            .threads(threads)
            .min_chunk(self.min_chunk)
            .max_chunk(self.max_chunk)
            .check(false)
    }

    /// Memory that nobody has touched, while as much is free that the host has backed.
    fn fresh(&self) -> Result<Regions, Skipped> {
        let mut stock = self.stock.borrow_mut();
        let stock = stock.as_mut().map_err(|reason| reason.clone())?;
        let memory = Arc::new(Mapping::anonymous(self.bytes, self.pages)?);
        stock.exchange(Arc::clone(&memory));
        let backing = Backing {
            kind: BackingKind::Anonymous,
            page_size: match self.pages {
                Pages::Transparent => PageSize::SIZE_2M,
                Pages::Small | Pages::Hugetlb(_) => PageSize::base(),
            },
            shared: false,
        };
        let region = Region::of_mapping(memory, Iova(0))?.with_backing(backing);
        Ok(Regions::new([region])?)
    }

    /// Ours, in seconds.
    fn pin(&self, pinner: &mut Pinner<'_>) -> Outcome {
        let regions = self.fresh()?;
        let start = Instant::now();
        let pinned = pinner.pin(&IoUring, &regions)?;
        let time = start.elapsed();
        self.chunks.replace(
            pinned
                .chunks()
                .map(|chunk| (chunk.offset, chunk.size))
                .collect(),
        );
        pinned.unpin()?;
        Ok(time.as_secs_f64())
    }

    /// One thread that registers one chunk of our latest run after the other, in seconds.
    fn plain_loop(&self, rings: NonZeroUsize) -> Outcome {
        let regions = self.fresh()?;
        let chunks = self.chunks.borrow();
        let first = regions.iter().next().map_or(0, |region| region.hva().0);
        let slots = u32::try_from(chunks.len().div_ceil(rings.get()))?;
        let start = Instant::now();
        let rings: Vec<io_uring::IoUring> = (0..rings.get())
            .map(|_| {
                let ring = io_uring::IoUring::new(1)?;
                ring.submitter().register_buffers_sparse(slots)?;
                Ok(ring)
            })
            .collect::<std::io::Result<_>>()?;
        for (slot, turn) in (0..).zip(chunks.chunks(rings.len())) {
            for (ring, &(offset, size)) in rings.iter().zip(turn) {
                let buffer = [iovec {
                    iov_base: ptr::without_provenance_mut(usize::try_from(first + offset)?),
                    iov_len: usize::try_from(size)?,
                }];
                // SAFETY: the memory belongs to `regions`, which outlives the rings' buffers; it is written by no
                // request, because the ring never gets one.
                unsafe {
                    ring.submitter()
                        .register_buffers_update(slot, &buffer, None)
                }?;
            }
        }
        let time = start.elapsed();
        for ring in &rings {
            ring.submitter().unregister_buffers()?;
        }
        Ok(time.as_secs_f64())
    }
}

/// Sets all of `memory`, a part on each of `threads`, in seconds.
fn memset(memory: &Mapping, threads: NonZeroUsize) -> f64 {
    let part = memory.size().div_ceil(threads.get() as u64);
    let start = Instant::now();
    thread::scope(|scope| {
        for offset in (part..memory.size()).step_by(usize::try_from(part).unwrap_or(usize::MAX)) {
            scope.spawn(move || memory.fill(offset, part, 0));
        }
        memory.fill(0, part, 0);
    });
    start.elapsed().as_secs_f64()
}

/// Memory that the host has backed.
struct Stock {
    /// That of the round before, which stays where it is until the next one needs its pages.
    memory: Arc<Mapping>,
    /// What memset works on, in huge pages, so that address translation does not slow it down.
    resident: Mapping,
    /// When pages were given back last.
    freed: Option<Instant>,
    /// Whether to wait for the moment when the host takes free pages.
    reporting: bool,
}

impl Stock {
    /// The kernel tells the host of free pages this long after the first of them (`PAGE_REPORTING_DELAY` in
    /// mm/page_reporting.c, and a little more).
    const REPORTED_AFTER: Duration = Duration::from_millis(2200);

    /// Memory for a guest of `bytes`, with a quarter more for page tables and what others take.
    ///
    /// # Errors
    /// Where that much may not be had: the kernel would kill the process, or refuse in the middle of a row.
    fn new(bytes: u64, reporting: bool) -> Result<Self, Skipped> {
        let most = bytes / 4 * 5;
        let demand = Demand {
            locked: bytes,
            rule: LockRule::User,
            fresh: most + bytes,
            huge: Vec::new(),
        };
        if let Err(shortages) = MemoryBudget::current().check(&demand) {
            return Err(Skipped::because(&shortages[0]));
        }
        let touched = |bytes, pages| {
            let memory = Mapping::anonymous(bytes, pages)?;
            memory.fill(0, bytes, 1);
            Ok::<_, Skipped>(memory)
        };
        Ok(Self {
            memory: Arc::new(touched(most, Pages::Small)?),
            resident: touched(bytes, Pages::Transparent)?,
            freed: None,
            reporting,
        })
    }

    /// Gives the pages back, and will hold those of `next` once that has some.
    fn exchange(&mut self, next: Arc<Mapping>) {
        if let Some(freed) = self.freed.filter(|_| self.reporting) {
            thread::sleep(Self::REPORTED_AFTER.saturating_sub(freed.elapsed()));
        }
        self.freed = Some(Instant::now());
        self.memory = next;
    }
}

/// Whether a virtio balloon reports free pages (`VIRTIO_BALLOON_F_REPORTING`, bit 5 of the features).
fn host_is_told_of_free_pages() -> bool {
    let Ok(balloons) = fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon") else {
        return false;
    };
    balloons.flatten().any(|device| {
        fs::read_to_string(device.path().join("features"))
            .is_ok_and(|features| features.as_bytes().get(5) == Some(&b'1'))
    })
}
