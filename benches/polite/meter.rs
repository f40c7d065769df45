// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What happens to others while a job works: the neighbours, the group, and a thread of the same process that maps.
//!
//! ```text
//!  calling thread  ── read counters │ work ................ │ read counters ──► Sample
//!  probing thread  ────────────────── mmap munmap . mmap munmap . ──────────┘
//! ```
//!
//! `mmap` and `munmap` take `mmap_lock` for writing, which a thread that populates holds for reading. The probing thread
//! begins every half millisecond. Where one call takes longer, those that could not begin meanwhile are counted as
//! well, each with what was left for it to wait: otherwise a job that blocks everybody for seconds would be
//! a single sample among thousands, and its 99th percentile the best of all.

#![expect(unsafe_code, reason = "maps and unmaps a page")]

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap},
};
use parapin::bench::Skipped;

use crate::{group::Throttled, job::Sample, neighbour::progress};

/// From the end of one probe to the start of the next.
const INTERVAL: Duration = Duration::from_micros(500);

/// What to look at while a job works.
#[derive(Debug)]
pub(crate) struct Meter {
    /// The counters of the neighbours.
    pub(crate) counters: File,
    /// The group whose throttling counts.
    pub(crate) group: Option<PathBuf>,
    /// Whether another thread maps meanwhile.
    pub(crate) probing: bool,
}

impl Meter {
    /// With the counters that this process was given as its standard input.
    pub(crate) fn new(group: Option<PathBuf>, probing: bool) -> io::Result<Self> {
        Ok(Self {
            counters: File::from(io::stdin().as_fd().try_clone_to_owned()?),
            group,
            probing,
        })
    }

    /// Measures `work`.
    pub(crate) fn around<T>(&self, work: impl FnOnce() -> T) -> Result<(T, Sample), Skipped> {
        let stop = AtomicBool::new(false);
        let ready = Barrier::new(2);
        thread::scope(|scope| {
            // Whatever happens here, the probing thread is told to end before it is waited for.
            let stopping = Stopping(&stop);
            let probe = self.probing.then(|| {
                let probe = scope.spawn(|| {
                    ready.wait();
                    latencies(&stop)
                });
                ready.wait();
                probe
            });
            let (progress_before, throttled_before) = self.read()?;
            let start = Instant::now();
            let done = work();
            let seconds = start.elapsed().as_secs_f64();
            let (progress, throttled) = self.read()?;
            drop(stopping);
            let mut sample = Sample {
                seconds,
                progress: (progress - progress_before) as f64 / seconds,
                throttled_periods: throttled.periods - throttled_before.periods,
                throttled_seconds: throttled.seconds - throttled_before.seconds,
                ..Sample::default()
            };
            if let Some(probe) = probe {
                let latencies = probe.join().unwrap_or(Err(Errno::ECANCELED))?;
                (sample.mmap_p99, sample.mmap_max) = p99_and_max(latencies);
            }
            Ok((done, sample))
        })
    }

    fn read(&self) -> io::Result<(u64, Throttled)> {
        let throttled = self.group.as_deref().map(Throttled::read).transpose()?;
        Ok((progress(&self.counters)?, throttled.unwrap_or_default()))
    }
}

/// Raises the flag when it is dropped.
struct Stopping<'s>(&'s AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        // Relaxed: nothing else is read through it.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long mapping and unmapping one page took, again and again until `stop`.
fn latencies(stop: &AtomicBool) -> Result<Vec<Duration>, Errno> {
    // For half a minute; a vector that grows maps memory itself.
    let mut latencies = Vec::with_capacity(1 << 16);
    // Relaxed: as in `Stopping`.
    while !stop.load(Ordering::Relaxed) {
        let mut took = map_one_page()?;
        latencies.push(took);
        while took > INTERVAL {
            took -= INTERVAL;
            latencies.push(took);
        }
        thread::sleep(INTERVAL);
    }
    Ok(latencies)
}

fn map_one_page() -> Result<Duration, Errno> {
    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
    let start = Instant::now();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let page = unsafe { mmap_anonymous(None, PAGE, protection, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the page was mapped just now, and nobody has seen it.
    unsafe { munmap(page, PAGE.get()) }?;
    Ok(start.elapsed())
}

/// In milliseconds.
fn p99_and_max(mut latencies: Vec<Duration>) -> (f64, f64) {
    latencies.sort_unstable();
    let millis = |latency: Option<&Duration>| latency.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let p99 = latencies.get(latencies.len() * 99 / 100);
    (millis(p99), millis(latencies.last()))
}
