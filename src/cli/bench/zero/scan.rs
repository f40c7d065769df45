// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Scan`]: channels that scan for a while, and what CPU time all threads of it took.
//!
//! ```text
//!  channel 0 │ one call unmeasured │ calls until the time is over │  ─► pages, CPU time of the thread
//!  channel n │                     │                              │  ─► pages, CPU time of the thread
//!  completion engines              │                              │  ─► CPU time of each of them
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use idxd::CompletionEngine;
use migration::{PageBitmap, ZeroReport, ZeroScanner};
use parapin::bench::Skipped;

use super::memory::{Memory, PAGE};
use crate::cli::bench::threads::{cpu_of_calling_thread, together, wake_up_on_time};

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
            wake_up_on_time()?;
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
