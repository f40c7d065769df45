// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Scan`]: channels that scan for a while, and what CPU time all threads of it took.
//!
//! ```text
//!  channel 0 │ one call unmeasured │ calls until the time is over │  ─► pages, CPU time of the thread
//!  channel n │                     │                              │  ─► pages, CPU time of the thread
//!  completion engines              │                              │  ─► CPU time of each of them
//! ```

use std::{
    num::NonZeroU64,
    panic,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use idxd::CompletionEngine;
use migration::{PageBitmap, ZeroReport, ZeroScanner};
use parapin::bench::Skipped;
use rustix::{
    thread::set_current_timer_slack,
    time::{ClockId, clock_gettime},
};

use super::memory::{Memory, PAGE};

/// Some channels at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    /// Channel i scans by the i-th of them, and again from the first.
    pub(super) scanners: &'a [ZeroScanner],
    pub(super) memory: &'a Memory,
    pub(super) channels: usize,
    /// Pages of a call.
    pub(super) call: usize,
    /// How long, at least; each channel ends the call that it is in.
    pub(super) time: Duration,
    /// Whether threads of channels wake up when they want to, and not up to 50 us later. That is for a caller to decide who
    /// waits for devices himself; an engine does it for its own thread.
    pub(super) exact: bool,
}

/// What that gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanned {
    pub(super) report: ZeroReport,
    /// From the first start to the last end.
    pub(super) wall: Duration,
    /// Of all channels and completion engines.
    pub(super) cpu: Duration,
}

impl Scanned {
    pub(super) fn cpu_nanos_a_page(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e9 / self.report.pages.max(1) as f64
    }

    /// Of memory, in GB/s.
    pub(super) fn rate(&self) -> f64 {
        let bytes = self.report.pages as u64 * PAGE;
        bytes as f64 / 1e9 / self.wall.as_secs_f64().max(1e-9)
    }
}

impl Scan<'_> {
    pub(super) fn run(&self) -> Result<Scanned, Skipped> {
        let engines = self.engines();
        let cpu_of_engines = || -> Duration {
            let times = engines.iter().filter_map(|engine| engine.cpu_time());
            times.sum()
        };
        let mut before = Duration::ZERO;
        let (runs, wall) = together(
            self.channels,
            |index| self.prepare(index),
            || before = cpu_of_engines(),
            |channel| self.channel(channel),
        )?;
        let mut cpu = cpu_of_engines().saturating_sub(before);
        let mut report = ZeroReport::default();
        for (of_channel, time) in &runs {
            report.add(of_channel);
            cpu += *time;
        }
        Ok(Scanned { report, wall, cpu })
    }

    /// Everybody who waits for devices, once.
    fn engines(&self) -> Vec<Arc<CompletionEngine>> {
        let mut engines: Vec<Arc<CompletionEngine>> = Vec::new();
        for scanner in self.scanners {
            if let Some(engine) = scanner.completion_engine() {
                if !engines.iter().any(|other| Arc::ptr_eq(other, engine)) {
                    engines.push(Arc::clone(engine));
                }
            }
        }
        engines
    }

    /// A channel that has allocated what it needs.
    fn prepare(&self, index: usize) -> Result<Channel, Skipped> {
        if self.exact {
            set_current_timer_slack(NonZeroU64::new(1))?;
        }
        let scanner = &self.scanners[index % self.scanners.len()];
        let mut channel = Channel {
            inner: scanner.channel(index),
            offsets: self.memory.offsets(index, self.channels),
            zero: PageBitmap::default(),
        };
        let first = channel.offsets.len().min(self.call);
        let block = &self.memory.block;
        let (offsets, zero) = (&channel.offsets[..first], &mut channel.zero);
        channel.inner.scan(block, PAGE, offsets, zero)?;
        Ok(channel)
    }

    fn channel(&self, mut channel: Channel) -> Result<(ZeroReport, Duration), Skipped> {
        let mut report = ZeroReport::default();
        let (start, before) = (Instant::now(), cpu_of_calling_thread());
        for offsets in channel.offsets.chunks(self.call.max(1)).cycle() {
            let block = &self.memory.block;
            let scanned = channel
                .inner
                .scan(block, PAGE, offsets, &mut channel.zero)?;
            report.add(&scanned);
            if start.elapsed() >= self.time {
                break;
            }
        }
        Ok((report, cpu_of_calling_thread().saturating_sub(before)))
    }
}

#[derive(Debug)]
struct Channel {
    inner: migration::ZeroChannel,
    offsets: Vec<u64>,
    zero: PageBitmap,
}

/// Does `work` on so many threads at once, each with what it was prepared with; `begin` on this one when they begin.
///
/// Returns what each gave, and the time from the first start to the last end.
pub(super) fn together<P, T: Send>(
    threads: usize,
    prepare: impl Fn(usize) -> Result<P, Skipped> + Sync,
    begin: impl FnOnce(),
    work: impl Fn(P) -> Result<T, Skipped> + Sync,
) -> Result<(Vec<T>, Duration), Skipped> {
    let start = Barrier::new(threads + 1);
    let one = |index| {
        let prepared = prepare(index);
        // Also who cannot work comes here, or the others would wait for ever.
        start.wait();
        let begun = Instant::now();
        let result = work(prepared?)?;
        Ok((result, begun, Instant::now()))
    };
    let runs: Result<Vec<(T, Instant, Instant)>, Skipped> = thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || one(index)))
            .collect();
        start.wait();
        begin();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        joined.collect()
    });
    let runs = runs?;
    let begun = runs.iter().map(|run| run.1).min();
    let ended = runs.iter().map(|run| run.2).max();
    let wall = ended.zip(begun).map(|(ended, begun)| ended - begun);
    let results = runs.into_iter().map(|run| run.0).collect();
    Ok((results, wall.unwrap_or_default()))
}

fn cpu_of_calling_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}
