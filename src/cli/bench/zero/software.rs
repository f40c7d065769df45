// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rows of `--engine software`: the CPU against the memory's own speed.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `bandwidth` | loads of all bytes of zero pages out of cache, none tested | the same pages scanned | ≥ 0.95 |
//! | `in_cache` | `iter().all(\|b\| *b == 0)` of each page | the same pages scanned | ≥ 4x |
//! | `random` | zero pages, a page | pages of random data, a page | ≥ 20x |
//! | `cpu_per_page` | | CPU time for a page, some of them zero | |
//!
//! Targets are for the kernel that is used, the widest that this CPU has; others are shown.

use std::{fs, hint::black_box, time::Instant};

use cgroup::CpuBudget;
use idxd::Source;
use migration::{Kernel, PageBitmap, SoftwareScanner, ZeroScanner, bandwidth};
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    memory::{Memory, PAGE},
    scan::Scan,
};
use crate::cli::bench::{args::BehindName, table::Table, threads::together};

/// Pages of a call of the scanner.
const CALL: usize = 16384;
/// Pages that stay in the cache that is nearest but one, and mostly in the nearest.
const IN_CACHE: usize = 16;
/// What is slower than this share of the cache's size out of cache is in doubt.
const CACHES: u64 = 4;

pub(super) fn measure(table: &mut Table<'_>, settings: &Settings<'_>) {
    let cache = last_cache();
    if table.size(settings.bytes < CACHES * cache, false) {
        table.note(format!(
            "the last cache has {}: pages of {} may be in it, and are meant not to be",
            crate::cli::human(cache),
            crate::cli::human(settings.bytes)
        ));
    }
    let kernels = Kernel::available();
    for (index, kernel) in kernels.iter().enumerate() {
        in_cache(table, *kernel, index == 0);
    }
    for behind in &settings.behind {
        let zero = Memory::new(behind.backed(), settings.bytes, 100);
        let random = Memory::new(behind.backed(), settings.bytes, 0);
        for (index, kernel) in kernels.iter().enumerate() {
            let all = CpuBudget::current().threads().get();
            let counts = match (index, all) {
                (0, 2..) => vec![1, all],
                _ => vec![1],
            };
            for threads in counts {
                let side = Side {
                    kernel: *kernel,
                    is_used: index == 0,
                    behind: *behind,
                    threads,
                };
                side.against_bandwidth(table, &zero);
                side.random_against_zero(table, &zero, &random);
            }
        }
    }
    cpu_per_page(table, settings);
}

/// A kernel on some threads.
#[derive(Debug, Clone, Copy)]
struct Side {
    kernel: Kernel,
    is_used: bool,
    behind: BehindName,
    threads: usize,
}

impl Side {
    fn row(&self, what: &str, unit: &'static str, compare: Compare, target: f64) -> Row {
        Row {
            name: format!(
                "zero/software/{what} {} threads={} {}",
                self.behind.name(),
                self.threads,
                self.kernel.isa()
            ),
            unit,
            bytes: None,
            compare,
            target: self.is_used.then_some(target),
        }
    }

    fn against_bandwidth(&self, table: &mut Table<'_>, zero: &Result<Memory, Skipped>) {
        let mut baseline = || self.read(zero.as_ref().map_err(Clone::clone)?);
        let mut value = || {
            let zero = zero.as_ref().map_err(Clone::clone)?;
            Ok(gigabytes(zero) / self.scan(zero)?)
        };
        let row = self.row("bandwidth", "GB/s", Compare::Rate, 0.95);
        table.measure(row, Some(&mut baseline), &mut value);
    }

    fn random_against_zero(
        &self,
        table: &mut Table<'_>,
        zero: &Result<Memory, Skipped>,
        random: &Result<Memory, Skipped>,
    ) {
        let a_page = |memory: &Result<Memory, Skipped>| {
            let memory = memory.as_ref().map_err(Clone::clone)?;
            Ok(self.scan(memory)? * 1e9 / memory.pages() as f64)
        };
        let row = self.row("random", "ns", Compare::SpeedUp, 20.0);
        table.measure(row, Some(&mut || a_page(zero)), &mut || a_page(random));
    }

    /// What memory gives at most, in GB/s.
    fn read(&self, memory: &Memory) -> Outcome {
        let part = |index| {
            let (first, end) = memory.part(index, self.threads);
            let (start, size) = (first * PAGE, (end - first) * PAGE);
            Ok::<Source, Skipped>(memory.mapping.part_source(start, size)?)
        };
        let read = |part: Source| {
            bandwidth::read(&part, self.kernel);
            Ok(())
        };
        let (_, time) = together(self.threads, part, || (), read)?;
        Ok(gigabytes(memory) / time.as_secs_f64())
    }

    /// Seconds for all of the memory.
    fn scan(&self, memory: &Memory) -> Outcome {
        let prepare = |index| {
            let scanner = SoftwareScanner::new().with_kernel(self.kernel);
            let offsets = memory.offsets(index, self.threads);
            Ok((scanner.reading_all(), offsets, PageBitmap::new(CALL)))
        };
        let work = |(mut scanner, offsets, mut zero): (SoftwareScanner, Vec<u64>, PageBitmap)| {
            for call in offsets.chunks(CALL) {
                scanner.scan(&memory.block, PAGE, call, &mut zero)?;
            }
            Ok(())
        };
        let (_, time) = together(self.threads, prepare, || (), work)?;
        Ok(time.as_secs_f64())
    }
}

fn gigabytes(memory: &Memory) -> f64 {
    memory.block.len() as f64 / 1e9
}

/// A few zero pages, again and again.
fn in_cache(table: &mut Table<'_>, kernel: Kernel, is_used: bool) {
    let row = Row {
        name: format!("zero/software/in_cache {}", kernel.isa()),
        unit: "ns",
        bytes: None,
        compare: Compare::SpeedUp,
        target: is_used.then_some(4.0),
    };
    let times = table.size(2000, 1);
    let bytes = vec![0; (IN_CACHE + 1) * 4096];
    let source = Source::of_vec(bytes).map_err(Skipped::from);
    let mut baseline = || plainly(source.as_ref().map_err(Clone::clone)?, times);
    let mut value = || in_kernel(source.as_ref().map_err(Clone::clone)?, kernel, times);
    table.measure(row, Some(&mut baseline), &mut value);
}

/// Where the first whole page of a vector begins.
fn first_page(source: &Source) -> u64 {
    source.address().next_multiple_of(PAGE) - source.address()
}

fn nanos_a_page(start: Instant, times: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / (times * IN_CACHE) as f64
}

/// What everybody would write, in nanoseconds a page.
fn plainly(source: &Source, times: usize) -> Outcome {
    let bytes: Option<&Vec<u8>> = source.keep().downcast_ref();
    let bytes = bytes.ok_or_else(|| Skipped::for_reason("the vector is gone"))?;
    let first = usize::try_from(first_page(source))?;
    let start = Instant::now();
    for _ in 0..times {
        for page in bytes[first..].chunks_exact(4096).take(IN_CACHE) {
            black_box(black_box(page).iter().all(|byte| *byte == 0));
        }
    }
    Ok(nanos_a_page(start, times))
}

/// Ours, in nanoseconds a page.
fn in_kernel(source: &Source, kernel: Kernel, times: usize) -> Outcome {
    let block = migration::RamBlock::new(source.clone());
    let mut scanner = SoftwareScanner::new().with_kernel(kernel).reading_all();
    let first = first_page(source);
    let offsets: Vec<u64> = (0..IN_CACHE as u64)
        .map(|page| first + page * PAGE)
        .collect();
    let mut zero = PageBitmap::new(IN_CACHE);
    let start = Instant::now();
    for _ in 0..times {
        black_box(scanner.scan(&block, PAGE, black_box(&offsets), &mut zero)?);
    }
    Ok(nanos_a_page(start, times))
}

/// What a migration pays that has no devices.
fn cpu_per_page(table: &mut Table<'_>, settings: &Settings<'_>) {
    let row = Row {
        name: "zero/software/cpu_per_page".to_owned(),
        unit: "ns",
        bytes: None,
        compare: Compare::Limit,
        target: None,
    };
    let memory = settings.mixed_memory();
    table.measure(row, None, &mut || {
        software_cpu(settings, memory.as_ref().map_err(Clone::clone)?)
    });
}

/// Nanoseconds of CPU time for a page, by software on one thread.
pub(super) fn software_cpu(settings: &Settings<'_>, memory: &Memory) -> Outcome {
    let scanner = ZeroScanner::software().normal_page_ratio(settings.args.normal_page_ratio);
    let scan = Scan {
        scanners: &[scanner.reading_all()],
        memory,
        channels: 1,
        call: CALL,
        time: settings.time,
        exact: false,
    };
    Ok(scan.run()?.cpu_nanos_a_page())
}

/// Bytes of the largest cache of the first CPU; 0 if the kernel does not tell.
fn last_cache() -> u64 {
    let sizes = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = fs::read_to_string(path).ok()?;
        let kib: u64 = text.trim().strip_suffix('K')?.parse().ok()?;
        Some(kib << 10)
    });
    sizes.max().unwrap_or(0)
}

/// What is too much for the last cache by far.
pub(super) fn out_of_cache() -> u64 {
    last_cache().saturating_mul(CACHES)
}
