// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The plan against padata's published numbers, and against one-line oracles on random jobs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::{NonZeroU64, NonZeroUsize};

use pinning::{Allowance, Constraints, Crew, Job, Limit, Plan, PlanError, Range, Sealing, Watch};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn threads(count: usize) -> Allowance {
    Allowance {
        threads: NonZeroUsize::new(count).unwrap(),
        limited_by: "affinity",
    }
}

fn job(ranges: &[(u64, u64, u64)]) -> Job {
    let ranges: Vec<Range> = ranges
        .iter()
        .map(|&(start, size, align)| Range::new(start, size, align).unwrap())
        .collect();
    Job::new(ranges).unwrap()
}

/// All chunks that a one-thread run of `plan` makes.
fn chunks(plan: &Plan) -> Vec<pinning::Chunk> {
    let kernel = fakes::FakeKernel::new();
    pinning::run(plan, None, &kernel, Watch::default())
        .unwrap()
        .chunks
}

#[test]
fn padata_numbers_where_the_bounds_do_not_bite() {
    // 16 threads, min_chunk 128 MiB, PMD alignment: the figures of the 2022 RFC.
    for (size, chunk) in [(16, 256 * MIB), (128, 2 * GIB), (1024, 16 * GIB)] {
        let mut job = job(&[(4 * GIB, size * GIB, 2 * MIB)]);
        job.min_chunk = 128 * MIB;
        job.max_chunk = u64::MAX;
        job.max_threads = NonZeroUsize::new(16);
        let plan = Plan::new(&job, &Constraints::default(), &threads(104)).unwrap();
        assert_eq!(plan.threads().get(), 16);
        assert_eq!(plan.limited_by(), Limit::MaxThreads);
        assert_eq!(plan.chunk(), chunk, "{size} GiB");
    }
}

#[test]
fn small_jobs_get_few_threads() {
    for (size, expected) in [(1, 1), (63, 1), (64, 2), (1024, 8)] {
        let job = job(&[(0, size * MIB, 4096)]);
        let plan = Plan::new(&job, &Constraints::default(), &threads(8)).unwrap();
        assert_eq!(plan.threads().get(), expected, "{size} MiB");
    }
}

#[test]
fn many_small_ranges_are_worth_as_many_threads_as_one_large_one() {
    let ranges: Vec<_> = (0..64).map(|i| (i * GIB, 16 * MIB, 4096)).collect();
    let plan = Plan::new(&job(&ranges), &Constraints::default(), &threads(8)).unwrap();
    assert_eq!(plan.threads().get(), 8);
    assert!(chunks(&plan).iter().all(|chunk| chunk.size() <= 16 * MIB));
}

#[test]
fn alignment_beats_the_maximum() {
    let job = job(&[(0, 8 * GIB, GIB)]);
    let plan = Plan::new(&job, &Constraints::default(), &threads(4)).unwrap();
    assert_eq!(plan.chunk(), GIB);
    assert!(chunks(&plan).iter().all(|chunk| chunk.size() == GIB));
}

#[test]
fn huge_pages_of_one_range_do_not_make_the_chunks_of_another_larger() {
    let job = job(&[(0, 4 * GIB, GIB), (64 * GIB, 4 * GIB, 4096)]);
    let plan = Plan::new(&job, &Constraints::default(), &threads(1)).unwrap();
    for chunk in chunks(&plan) {
        let most = if chunk.range() == 0 {
            GIB
        } else {
            Job::MAX_CHUNK
        };
        assert!(chunk.size() <= most, "{chunk} of range {}", chunk.range());
    }
}

#[test]
fn a_minimum_of_any_size_is_planned_at_once() {
    for slice in [None, NonZeroU64::new(2 * MIB)] {
        for shift in [26, 40, 54, 63] {
            let mut job = job(&[(0x7f00_0000_1000, 64 * MIB, 4096)]);
            (job.min_chunk, job.max_chunk) = (1 << shift, u64::MAX);
            let constraints = Constraints {
                slice,
                ..Constraints::default()
            };
            let plan = Plan::new(&job, &constraints, &threads(4)).unwrap();
            assert!(plan.cells() <= 40, "{} cells", plan.cells());
            assert_eq!(plan.threads().get(), 1);
            assert_eq!(
                chunks(&plan).iter().map(pinning::Chunk::size).sum::<u64>(),
                64 * MIB
            );
        }
    }
}

#[test]
fn entries_beat_the_maximum() {
    let constraints = Constraints {
        entries: Some(10),
        ..Constraints::default()
    };
    let job = job(&[(0, 64 * GIB, 4096)]);
    let plan = Plan::new(&job, &constraints, &threads(4)).unwrap();
    assert!(plan.cells() <= 10, "{} cells", plan.cells());
    assert!(plan.chunk() > Job::MAX_CHUNK);
}

#[test]
fn the_maximum_beats_padatas_rule_and_the_rule_beats_the_minimum() {
    let mut job = job(&[(0, 64 * GIB, 4096)]);
    let plan = |job: &Job| Plan::new(job, &Constraints::default(), &threads(4)).unwrap();
    assert_eq!(
        plan(&job).chunk(),
        Job::MAX_CHUNK,
        "the rule alone gives 4 GiB"
    );
    job.max_chunk = u64::MAX;
    assert_eq!(plan(&job).chunk(), 4 * GIB);
    job.max_chunk = 8 * MIB;
    assert_eq!(plan(&job).chunk(), 8 * MIB, "below the minimum of 32 MiB");
}

#[test]
fn too_few_entries_are_an_error_that_says_how_many_are_needed() {
    let constraints = Constraints {
        entries: Some(3),
        max_chunk: NonZeroU64::new(GIB),
        ..Constraints::default()
    };
    let error = Plan::new(&job(&[(0, 8 * GIB, 4096)]), &constraints, &threads(4)).unwrap_err();
    assert_eq!(
        error,
        PlanError::Entries {
            needed: 8,
            entries: 3
        }
    );
}

#[test]
fn a_page_larger_than_the_targets_maximum_is_an_error() {
    let constraints = Constraints {
        max_chunk: NonZeroU64::new(2 * MIB),
        ..Constraints::default()
    };
    let error = Plan::new(&job(&[(0, GIB, GIB)]), &constraints, &threads(1)).unwrap_err();
    assert_eq!(
        error,
        PlanError::AlignmentOverMaximum {
            align: GIB,
            max_chunk: 2 * MIB
        }
    );
}

#[test]
fn of_equal_limits_the_first_in_order_is_named() {
    let mut job = job(&[(0, 64 * MIB, 4096)]);
    job.max_threads = NonZeroUsize::new(2);
    let constraints = Constraints {
        max_threads: NonZeroUsize::new(2),
        entries: Some(2),
        ..Constraints::default()
    };
    let name = |job: &Job, budget: usize| {
        Plan::new(job, &constraints, &threads(budget))
            .unwrap()
            .limited_by()
            .name()
    };
    assert_eq!(name(&job, 2), "affinity");
    assert_eq!(name(&job, 9), "max-threads");
    job.max_threads = None;
    assert_eq!(name(&job, 9), "size");
    job.min_chunk = MIB;
    assert_eq!(name(&job, 9), "target");
}

prop_compose! {
    /// Disjoint ranges of up to 64 MiB with alignments between 4 KiB and 4 MiB, page-aligned as memory regions are.
    fn any_job()(
        parts in prop::collection::vec((1u64..64, 1u64..16_384, 12u32..23), 1..6),
        min_chunk in 0u64..(8 * MIB),
        max_chunk in 0u64..(32 * MIB),
    ) -> Job {
        let mut at = 0;
        let ranges: Vec<Range> = parts
            .into_iter()
            .map(|(gap, pages, align)| {
                let range = Range::new(at + gap * 4096, pages * 4096, 1 << align).unwrap();
                at = range.end();
                range
            })
            .collect();
        let mut job = Job::new(ranges).unwrap();
        job.min_chunk = min_chunk;
        job.max_chunk = max_chunk;
        job
    }
}

prop_compose! {
    fn any_constraints()(
        slice in prop::option::of(1u64..(4 * MIB)),
        max_chunk in prop::option::of((4 * MIB)..(64 * MIB)),
        entries in prop::option::of(64u64..200),
        sealing in prop::sample::select(vec![Sealing::None, Sealing::Following, Sealing::Last]),
    ) -> Constraints {
        Constraints {
            slice: slice.and_then(NonZeroU64::new),
            max_chunk: max_chunk.and_then(NonZeroU64::new),
            entries,
            max_threads: None,
            sealing,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_byte_once_aligned_and_no_range_crossed(
        job in any_job(),
        constraints in any_constraints(),
        count in 1usize..6,
    ) {
        let plan = match Plan::new(&job, &constraints, &threads(count)) {
            Ok(plan) => plan,
            Err(PlanError::Entries { .. }) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        let crew = Crew::new(count - 1, 0);
        let kernel = fakes::FakeKernel::new();
        let finished = pinning::run(&plan, Some(&crew), &kernel, Watch::default()).unwrap();

        prop_assert_eq!(kernel.misuse(), vec![]);
        let covered: Vec<(u64, u64)> = finished.chunks.iter().map(|c| (c.start(), c.end())).collect();
        let oracle: Vec<(u64, u64)> = job.ranges().iter().map(|r| (r.start(), r.end())).collect();
        prop_assert_eq!(merged(&covered), merged(&oracle));
        prop_assert_eq!(kernel.held(), merged(&oracle));

        for chunk in &finished.chunks {
            let range = job.ranges()[chunk.range()];
            prop_assert!(range.start() <= chunk.start() && chunk.end() <= range.end());
            let cut = |at: u64| at % range.align() == 0 || at == range.start() || at == range.end();
            prop_assert!(cut(chunk.start()) && cut(chunk.end()), "{}", chunk);
            if let Some(max) = constraints.max_chunk {
                prop_assert!(chunk.size() <= max.get());
            }
            let bound = job.max_chunk.max(1).next_multiple_of(range.align());
            prop_assert!(
                chunk.size() <= bound || constraints.entries.is_some(),
                "{} is larger than the maximum and than its own pages ask for", chunk
            );
        }
        prop_assert!(finished.chunks.len() <= plan.cells());
        prop_assert!(finished.chunks.len() as u64 <= constraints.entries.unwrap_or(u64::MAX));
        prop_assert_eq!(finished.report.bytes, job.size());
    }

    #[test]
    fn one_range_without_bounds_gives_padatas_numbers(
        start in 0u64..(1 << 40),
        size in 1u64..(1 << 44),
        min_chunk in 0u64..(1 << 32),
        align in 12u32..31,
        count in 1usize..128,
    ) {
        let mut job = job(&[(start, size, 1 << align)]);
        job.min_chunk = min_chunk;
        job.max_chunk = u64::MAX;
        let plan = match Plan::new(&job, &Constraints::default(), &threads(count)) {
            Ok(plan) => plan,
            Err(error) => panic!("{error}"),
        };
        let align = 1u64 << align;
        let nworks = (size / min_chunk.max(align)).max(1).min(count as u64);
        let chunk = (size / (nworks * 4)).max(min_chunk).max(1).next_multiple_of(align);
        prop_assert_eq!(plan.threads().get() as u64, nworks);
        prop_assert_eq!(plan.chunk(), chunk);
    }
}

/// Sorts and joins adjacent intervals.
fn merged(intervals: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sorted = intervals.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in sorted {
        match merged.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => merged.push((start, end)),
        }
    }
    merged
}
