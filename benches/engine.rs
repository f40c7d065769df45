// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the engine itself costs: 1 TiB of work that does nothing.
//!
//! | row | baseline | value |
//! |---|---|---|
//! | `chunk threads=1` | reading the clock twice | handing out one chunk of 1 MiB and noting that it is done |
//! | `slice threads=1` | reading the clock twice | claiming one slice of 2 MiB and noting that it is done |
//! | `… threads=N` | ours on one thread | ours on N threads |
//!
//! Wall time of a whole run over the number of pieces, with the tables that are made before and the list of chunks that
//! is made after. The engine measures each piece to learn a thread's rate, so that two readings of the clock are the
//! floor. With N threads the number of pieces is fixed and all of them go through one cursor or one bit map: a ratio
//! below 1 is the price of contention, which work that does anything never meets.

mod harness;

use std::{
    convert::Infallible,
    hint::black_box,
    num::{NonZeroU64, NonZeroUsize},
    time::{Duration, Instant},
};

use cgroup::CpuBudget;
use harness::Bench;
use parapin::bench::{Compare, Outcome, Row};
use pinning::{Allowance, Chunk, Constraints, Crew, Job, Plan, Range, Watch, Work};

const MIB: u64 = 1 << 20;

fn main() {
    let mut bench = Bench::from_args("engine");
    let bytes = bench.size(1 << 40, 1 << 34);
    for pieces in [Pieces::chunks(bytes), Pieces::slices(bytes)] {
        bench.measure(
            pieces.row(NonZeroUsize::MIN, Compare::Cost),
            Some(&mut || Ok(pieces.clock())),
            &mut || pieces.run(None),
        );
        let helpers = CpuBudget::current().threads().get() - 1;
        for helpers in 1..=helpers {
            let crew = Crew::new(helpers, 0);
            bench.measure(
                pieces.row(NonZeroUsize::MIN.saturating_add(helpers), Compare::SpeedUp),
                Some(&mut || pieces.run(None)),
                &mut || pieces.run(Some(&crew)),
            );
        }
    }
    bench.finish();
}

/// A job, and into how many pieces it falls.
struct Pieces {
    name: &'static str,
    bytes: u64,
    /// Bytes of a piece.
    piece: u64,
    max_chunk: u64,
    slice: Option<NonZeroU64>,
}

impl Pieces {
    /// All chunks have the same size, so that their number is known.
    fn chunks(bytes: u64) -> Self {
        Self {
            name: "chunk",
            bytes,
            piece: MIB,
            max_chunk: MIB,
            slice: None,
        }
    }

    /// Slices of chunks as large as they are by default.
    fn slices(bytes: u64) -> Self {
        Self {
            name: "slice",
            bytes,
            piece: 2 * MIB,
            max_chunk: Job::MAX_CHUNK,
            slice: NonZeroU64::new(2 * MIB),
        }
    }

    fn row(&self, threads: NonZeroUsize, compare: Compare) -> Row {
        Row {
            name: format!("{} threads={threads}", self.name),
            unit: "ns",
            bytes: None,
            compare,
            target: None,
        }
    }

    /// Nanoseconds a piece, on the calling thread and on the helpers of `crew`.
    fn run(&self, crew: Option<&Crew>) -> Outcome {
        let mut job = Job::new([Range::new(1 << 32, self.bytes, 4096)?])?;
        job.min_chunk = self.max_chunk.min(Job::MIN_CHUNK);
        job.max_chunk = self.max_chunk;
        let constraints = Constraints {
            slice: self.slice,
            ..Constraints::default()
        };
        let helpers = crew.map_or(0, Crew::helpers);
        let budget = Allowance {
            threads: NonZeroUsize::MIN.saturating_add(helpers),
            limited_by: "bench",
        };
        let start = Instant::now();
        let plan = Plan::new(&job, &constraints, &budget)?;
        let finished = pinning::run(&plan, crew, &Nothing, Watch::default())?;
        let time = start.elapsed();
        black_box(finished);
        Ok(self.nanoseconds_a_piece(time))
    }

    /// Nanoseconds of two readings of the clock.
    fn clock(&self) -> f64 {
        let start = Instant::now();
        for _ in 0..self.bytes / self.piece {
            black_box(black_box(Instant::now()).elapsed());
        }
        self.nanoseconds_a_piece(start.elapsed())
    }

    fn nanoseconds_a_piece(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / (self.bytes / self.piece) as f64
    }
}

/// Work of no time, so that what is left is the engine's own.
struct Nothing;

impl Work for Nothing {
    type Error = Infallible;

    fn run(&self, chunk: Chunk, _worker: usize) -> Result<(), Infallible> {
        black_box(chunk);
        Ok(())
    }

    fn undo(&self, _chunk: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}
