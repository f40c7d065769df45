// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which engine to take on this host: both are measured, and the cheaper one that is fast enough is taken.
//!
//! ```text
//!  Demand ─► memory of its own, with that share of zero pages ─► software ─┬─► CPU time a page, pages a second ─► Choice
//!                                                            └─► DSA ──────┘
//! ```

use std::{
    ops::RangeInclusive,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use idxd::{CompletionEngine, Queue};
use rustix::time::{ClockId, clock_gettime};

use super::{DsaOptions, ZeroScanner};
use crate::{Backed, Mapping, PageBitmap, RamBlock};

/// What a migration is going to ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Pages a second over all channels; more than that is worth no CPU time. For example what the network takes, and as
    /// much again as zero pages.
    pub pages_per_second: f64,
    /// Threads that scan. No more than 8 are measured.
    pub channels: usize,
    /// Share of zero pages that is expected, in percent.
    pub zero_percent: u8,
    /// Bytes of a page: 64 bytes to 2 MiB can be measured.
    pub page_size: u64,
}

impl Default for Demand {
    /// One channel, half of the pages zero, as fast as 25 Gbit/s takes the other half.
    fn default() -> Self {
        Self {
            pages_per_second: 2.0 * 25e9 / 8.0 / 4096.0,
            channels: 1,
            zero_percent: 50,
            page_size: 4096,
        }
    }
}

/// What an engine costs on this host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// CPU time of all threads for a page, in nanoseconds.
    pub cpu_nanos_per_page: f64,
    /// Pages a second over all channels.
    pub pages_per_second: f64,
}

/// What was measured, and what was taken.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Choice {
    /// What was taken.
    pub scanner: ZeroScanner,
    /// The calling threads; none if there was nothing to compare with, or no memory to measure on.
    pub software: Option<Measured>,
    /// The devices; none if there are none.
    pub dsa: Option<Measured>,
    /// Why, in a sentence.
    pub reason: String,
}

/// Memory for all channels to measure on: more than most caches hold.
const BYTES: u64 = 64 << 20;
/// Threads that are measured, at most.
const MOST_CHANNELS: usize = 8;
/// Pages that can be measured.
const PAGE_SIZES: RangeInclusive<u64> = 64..=2 << 20;
/// Pages of a call: enough for a device to have the next task while the last one is read.
const PAGES: usize = 4096;

impl ZeroScanner {
    /// Measures software and the queues, some tens of milliseconds each, and takes what costs less CPU time for what is asked for.
    ///
    /// Without queues, software is taken, and nothing measured; so it is where nothing can be measured, and the reason says why.
    /// The measurement takes 64 MiB of memory, and as many threads as there will be channels, up to 8.
    #[must_use]
    pub fn choose(
        queues: Vec<Arc<Queue>>,
        engine: Arc<CompletionEngine>,
        options: DsaOptions,
        demand: &Demand,
    ) -> Choice {
        let software = Self::software();
        let without = |why: &str| Choice {
            scanner: software.clone(),
            software: None,
            dsa: None,
            reason: format!("software: {why}"),
        };
        let Ok(dsa) = Self::dsa(queues, engine, options) else {
            return without("there is no work queue of a DSA that this process may use");
        };
        if !PAGE_SIZES.contains(&demand.page_size) {
            return without("pages of that size are not measured");
        }
        let measured = measure(&software, demand)
            .and_then(|of_software| Some((of_software, measure(&dsa, demand)?)));
        let Some((of_software, of_dsa)) = measured else {
            return without("there were no memory or threads to measure DSA with");
        };
        let (take_dsa, why) = compare(&of_software, &of_dsa, demand.pages_per_second);
        Choice {
            scanner: if take_dsa { dsa } else { software },
            software: Some(of_software),
            dsa: Some(of_dsa),
            reason: why,
        }
    }
}

/// Whether to take DSA, and why.
fn compare(software: &Measured, dsa: &Measured, wanted: f64) -> (bool, String) {
    let enough = |of: &Measured| of.pages_per_second >= wanted;
    let costs = format!(
        "{:.0} ns of CPU a page against {:.0} ns",
        dsa.cpu_nanos_per_page, software.cpu_nanos_per_page
    );
    let rates = format!(
        "{:.2} million pages/s against {:.2} million, {:.2} million asked for",
        dsa.pages_per_second / 1e6,
        software.pages_per_second / 1e6,
        wanted / 1e6
    );
    match (enough(dsa), enough(software)) {
        (true, true) | (false, false) if !enough(dsa) => {
            let take = dsa.pages_per_second > software.pages_per_second;
            let name = if take { "dsa" } else { "software" };
            (
                take,
                format!("{name}: neither is fast enough, DSA does {rates}"),
            )
        }
        (true, false) => (
            true,
            format!("dsa: software is not fast enough, DSA does {rates}"),
        ),
        (false, _) => (
            false,
            format!("software: DSA is not fast enough, it does {rates}"),
        ),
        (true, true) => {
            // Devices have other users, too: no difference is no reason to take them.
            let take = dsa.cpu_nanos_per_page < software.cpu_nanos_per_page * 0.95;
            let name = if take { "dsa" } else { "software" };
            (take, format!("{name}: DSA takes {costs} for software"))
        }
    }
}

/// Runs a scanner over memory that it has not seen, on as many threads as there will be. None if there is no memory, or no
/// thread.
fn measure(scanner: &ZeroScanner, demand: &Demand) -> Option<Measured> {
    let channels = demand.channels.clamp(1, MOST_CHANNELS);
    let bytes = BYTES / channels as u64;
    let blocks: Option<Vec<RamBlock>> = (0..channels).map(|_| memory(demand, bytes)).collect();
    let blocks = blocks?;
    let engine = scanner.completion_engine();
    // Threads begin when this is let go, which a failure to start one of them does, too.
    let gate = RwLock::new(());
    let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
    let (before, began, runs) = thread::scope(|scope| {
        let threads: Option<Vec<_>> = blocks
            .iter()
            .enumerate()
            .map(|(index, block)| {
                let gate = &gate;
                thread::Builder::new()
                    .spawn_scoped(scope, move || {
                        run(scanner, index, block, demand.page_size, gate)
                    })
                    .ok()
            })
            .collect();
        let before = engine.and_then(|engine| engine.cpu_time());
        let began = Instant::now();
        drop(closed);
        let runs: Option<Vec<Run>> = threads.and_then(|threads| {
            threads
                .into_iter()
                .map(|thread| thread.join().ok())
                .collect()
        });
        (before, began, runs)
    });
    let wall = began.elapsed();
    let runs = runs?;
    let after = engine.and_then(|engine| engine.cpu_time());
    let engines = after
        .unwrap_or_default()
        .saturating_sub(before.unwrap_or_default());
    let pages: usize = runs.iter().map(|run| run.pages).sum();
    let cpu = runs.iter().map(|run| run.cpu).sum::<Duration>() + engines;
    Some(Measured {
        cpu_nanos_per_page: cpu.as_secs_f64() * 1e9 / pages.max(1) as f64,
        pages_per_second: pages as f64 / wall.as_secs_f64().max(1e-9),
    })
}

/// What one thread did.
#[derive(Debug)]
struct Run {
    pages: usize,
    cpu: Duration,
}

fn run(
    scanner: &ZeroScanner,
    index: usize,
    block: &RamBlock,
    page_size: u64,
    gate: &RwLock<()>,
) -> Run {
    let mut channel = scanner.clone().reading_all().channel(index);
    let mut zero = PageBitmap::new(PAGES);
    let mut offsets = Vec::with_capacity(PAGES);
    let all = block.len() / page_size;
    drop(gate.read().unwrap_or_else(PoisonError::into_inner));
    let before = cpu_of_calling_thread();
    let mut pages = 0;
    let mut next = 0;
    while next < all {
        offsets.clear();
        while next < all && offsets.len() < PAGES {
            offsets.push(next * page_size);
            next += 1;
        }
        if channel.scan(block, page_size, &offsets, &mut zero).is_ok() {
            pages += offsets.len();
        }
    }
    Run {
        pages,
        cpu: cpu_of_calling_thread().saturating_sub(before),
    }
}

/// CPU time of the calling thread.
fn cpu_of_calling_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Memory of which that share of pages is zero.
fn memory(demand: &Demand, bytes: u64) -> Option<RamBlock> {
    let mapping = Mapping::new(bytes, Backed::Small).ok()?;
    mapping.populate(0, bytes).ok()?;
    let page = demand.page_size;
    let percent = u64::from(demand.zero_percent.min(100));
    for index in 0..bytes / page {
        // That share is left zero, evenly spread. The others have data everywhere, as most have.
        let is_zero = (index + 1) * percent / 100 > index * percent / 100;
        if !is_zero {
            mapping.fill(index * page, page, 0xa5);
        }
    }
    Some(RamBlock::new(mapping.source().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cpu_nanos_per_page: f64, pages_per_second: f64) -> Measured {
        Measured {
            cpu_nanos_per_page,
            pages_per_second,
        }
    }

    #[test]
    fn the_cheaper_one_that_is_fast_enough_is_taken_and_the_reason_says_so() {
        let table = [
            // Both are fast enough.
            (
                measured(200.0, 5e6),
                measured(50.0, 7e6),
                true,
                "dsa: DSA takes 50 ns",
            ),
            (
                measured(50.0, 5e6),
                measured(200.0, 7e6),
                false,
                "software: DSA takes 200 ns",
            ),
            // No difference is no reason.
            (
                measured(50.0, 5e6),
                measured(49.0, 7e6),
                false,
                "software: DSA takes",
            ),
            // One is.
            (
                measured(200.0, 5e6),
                measured(50.0, 1e6),
                false,
                "software: DSA is not fast enough",
            ),
            (
                measured(50.0, 1e6),
                measured(200.0, 5e6),
                true,
                "dsa: software is not fast enough",
            ),
            // None is.
            (
                measured(50.0, 1e6),
                measured(200.0, 2e6),
                true,
                "dsa: neither",
            ),
            (
                measured(200.0, 2e6),
                measured(50.0, 1e6),
                false,
                "software: neither",
            ),
        ];
        for (software, dsa, expected, words) in table {
            let (take, why) = compare(&software, &dsa, 4e6);
            assert_eq!(take, expected, "{why}");
            assert!(why.starts_with(words), "{why}");
        }
    }
}
