// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Work`]: channels that compress or restore for a while, and what CPU time their threads took.
//!
//! ```text
//!  channel 0 │ one call unmeasured │ calls until the time is over │  ─► pages, CPU time of the thread
//!  channel n │                     │                              │  ─► pages, CPU time of the thread
//! ```
//!
//! The channel waits for devices itself: its thread wakes up on time (`PR_SET_TIMERSLACK`). A model's thread is not counted.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use migration::{CodecReport, PageCodec, PageDecoder, PageEncoder};
use parapin::bench::Skipped;

use super::pages::{Bodies, PAGE, Pages};
use crate::cli::bench::threads::{cpu_of_calling_thread, together, wake_up_on_time};

/// Some channels at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) codec: &'a PageCodec,
    pub(super) pages: &'a Pages,
    /// What is to be restored; none to compress.
    pub(super) bodies: Option<&'a Bodies>,
    pub(super) channels: usize,
    /// Pages of a call.
    pub(super) call: usize,
    /// How long, at least; each channel ends the call that it is in.
    pub(super) time: Duration,
}

/// What that gave.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Worked {
    pub(super) report: CodecReport,
    /// From the first start to the last end.
    pub(super) wall: Duration,
    /// Of all channels.
    pub(super) cpu: Duration,
}

impl Worked {
    pub(super) fn add(&mut self, other: &Self) {
        self.report.add(&other.report);
        self.wall += other.wall;
        self.cpu += other.cpu;
    }

    pub(super) fn cpu_nanos_a_page(&self) -> f64 {
        self.nanos_a_page(self.cpu)
    }

    pub(super) fn wall_nanos_a_page(&self) -> f64 {
        self.nanos_a_page(self.wall)
    }

    fn nanos_a_page(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / self.report.pages.max(1) as f64
    }
}

/// One end of a channel, and the calls of its part.
#[derive(Debug)]
struct Channel<'a> {
    end: End<'a>,
    calls: Vec<Range<usize>>,
}

#[derive(Debug)]
enum End<'a> {
    Sends(Box<PageEncoder>),
    Receives(Box<PageDecoder>, &'a Bodies),
}

impl Work<'_> {
    pub(super) fn run(&self) -> Result<Worked, Skipped> {
        let (runs, wall) = together(
            self.channels,
            |index| self.prepare(index),
            || (),
            |channel| self.channel(channel),
        )?;
        let mut worked = Worked {
            wall,
            ..Worked::default()
        };
        for (report, cpu) in &runs {
            worked.report.add(report);
            worked.cpu += *cpu;
        }
        Ok(worked)
    }

    /// A channel that has allocated what it needs.
    fn prepare(&self, index: usize) -> Result<Channel<'_>, Skipped> {
        wake_up_on_time()?;
        let end = match self.bodies {
            None => End::Sends(Box::new(self.codec.encoder()?)),
            Some(bodies) => End::Receives(Box::new(self.codec.decoder()?), bodies),
        };
        let mut channel = Channel {
            end,
            calls: self.pages.calls((index, self.channels), self.call),
        };
        if let Some(first) = channel.calls.first().cloned() {
            channel.end.call(self.pages, first)?;
        }
        Ok(channel)
    }

    fn channel(&self, mut channel: Channel<'_>) -> Result<(CodecReport, Duration), Skipped> {
        let mut report = CodecReport::default();
        let (start, before) = (Instant::now(), cpu_of_calling_thread());
        for call in channel.calls.iter().cycle() {
            report.add(&channel.end.call(self.pages, call.clone())?);
            if start.elapsed() >= self.time {
                break;
            }
        }
        Ok((report, cpu_of_calling_thread().saturating_sub(before)))
    }
}

impl End<'_> {
    fn call(&mut self, pages: &Pages, call: Range<usize>) -> Result<CodecReport, Skipped> {
        let offsets = pages.offsets(call.clone());
        let page_size = PAGE as u64;
        Ok(match self {
            Self::Sends(encoder) => *encoder.encode(&pages.block, page_size, offsets)?.report(),
            Self::Receives(decoder, bodies) => {
                let (bytes, lengths) = bodies.call(call);
                decoder.decode(bytes, lengths, &pages.guest, page_size, offsets)?
            }
        })
    }
}
