// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A job that fails leaves nothing, wherever it fails and however many threads work.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::{NonZeroU64, NonZeroUsize};

use fakes::{Event, FakeError, FakeKernel};
use pinning::{Allowance, Constraints, Crew, Job, Plan, Range, RunErrorKind, UndoFailure, Watch};

const CELL: u64 = 4 << 12;
const SLICE: u64 = 1 << 12;
/// Starts and ends off the cut, so that border chunks are short.
const RANGES: [(u64, u64); 2] = [(0x1_1000, 6 * CELL), (0x10_3000, 3 * CELL - SLICE)];

fn plan(threads: usize, slice: Option<u64>) -> Plan {
    let ranges: Vec<Range> = RANGES
        .iter()
        .map(|&(start, size)| Range::new(start, size, SLICE).unwrap())
        .collect();
    let mut job = Job::new(ranges).unwrap();
    job.min_chunk = CELL;
    job.max_chunk = 2 * CELL;
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        ..Constraints::default()
    };
    let budget = Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "affinity",
    };
    let plan = Plan::new(&job, &constraints, &budget).unwrap();
    assert_eq!(plan.threads().get(), threads);
    plan
}

/// Every page of the job: failing at each of them covers every chunk n and every slice k of it.
fn pages() -> impl Iterator<Item = u64> {
    RANGES
        .into_iter()
        .flat_map(|(start, size)| (start..start + size).step_by(1 << 12))
}

#[test]
fn failure_in_every_chunk_and_slice_with_1_to_8_threads_leaves_nothing() {
    for threads in 1..=8 {
        let crew = Crew::new(threads - 1, 0);
        for slice in [None, Some(SLICE)] {
            let plan = plan(threads, slice);
            for page in pages() {
                let kernel = FakeKernel::new().failing_at(page);
                let error =
                    pinning::run(&plan, Some(&crew), &kernel, Watch::default()).unwrap_err();

                let case = format!("{threads} threads, slice {slice:?}, failure at {page:#x}");
                assert_eq!(error.kind, RunErrorKind::Work, "{case}");
                let at = error.at.unwrap();
                assert!((at.start()..at.end()).contains(&page), "{case}: {at}");
                assert_eq!(error.source, Some(FakeError::Told(at.start())), "{case}");
                assert!(error.left_pinned.is_empty(), "{case}");
                assert_eq!(kernel.misuse(), [], "{case}");
                assert_eq!(kernel.held(), [], "{case}");
                let undo_begins = kernel
                    .events()
                    .iter()
                    .position(|e| matches!(e, Event::Undone(_)));
                let last_run = kernel
                    .events()
                    .iter()
                    .rposition(|e| matches!(e, Event::Ran(..) | Event::Failed(_)));
                assert!(
                    undo_begins.is_none_or(|begin| Some(begin) > last_run),
                    "{case}: undo began while somebody still worked"
                );
            }
        }
    }
}

#[test]
fn one_thread_stops_at_the_failure_and_undoes_the_chunks_before_it_last_first() {
    let plan = plan(1, None);
    let kernel = FakeKernel::new().failing_at(RANGES[1].0);
    let error = pinning::run(&plan, None, &kernel, Watch::default()).unwrap_err();

    let events = kernel.events();
    let failed = events
        .iter()
        .position(|e| matches!(e, Event::Failed(_)))
        .unwrap();
    let ran: Vec<_> = events[..failed]
        .iter()
        .map(|event| match event {
            Event::Ran(chunk, 0) => *chunk,
            other => panic!("{other:?} before the failure"),
        })
        .collect();
    let expected: Vec<Event> = ran
        .iter()
        .rev()
        .map(|chunk| Event::Undone(*chunk))
        .collect();
    assert_eq!(events[failed + 1..], expected);
    assert_eq!(error.chunks_undone, ran.len() as u64);
}

#[test]
fn slices_of_the_failing_chunk_are_taken_back_as_one_run() {
    let plan = plan(1, Some(SLICE));
    let kernel = FakeKernel::new().failing_at(RANGES[0].0 + 2 * SLICE);
    let error = pinning::run(&plan, None, &kernel, Watch::default()).unwrap_err();

    assert_eq!(error.chunks_undone, 0);
    match kernel.events()[..] {
        [
            Event::Ran(first, 0),
            Event::Ran(second, 0),
            Event::Failed(_),
            Event::Undone(run),
        ] => {
            assert_eq!((run.start(), run.end()), (first.start(), second.end()));
        }
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_undone_is_listed_and_the_rest_is_undone() {
    let plan = plan(1, None);
    let kernel = FakeKernel::new()
        .failing_at(RANGES[1].0 + RANGES[1].1 - 1)
        .refusing_undo_at(RANGES[0].0);
    let error = pinning::run(&plan, None, &kernel, Watch::default()).unwrap_err();

    assert_eq!(error.left_pinned.len(), 1);
    let left = &error.left_pinned[0];
    assert!(matches!(
        left.reason,
        UndoFailure::Failed(FakeError::Told(_))
    ));
    assert_eq!(kernel.held(), [(left.chunk.start(), left.chunk.end())]);
    assert_eq!(left.chunk.start(), RANGES[0].0);
    let text = error.to_string();
    assert!(text.contains("could not be undone: 0x11000.."), "{text}");
}

#[test]
fn a_completed_job_is_taken_back_in_parallel() {
    for threads in [1, 2, 4] {
        let crew = Crew::new(threads - 1, 0);
        let plan = plan(threads, None);
        let kernel = FakeKernel::new().refusing_undo_at(RANGES[1].0);
        let finished = pinning::run(&plan, Some(&crew), &kernel, Watch::default()).unwrap();
        let budget = Allowance {
            threads: plan.threads(),
            limited_by: "affinity",
        };
        let released = pinning::release(&finished.chunks, &budget, Some(&crew), None, &kernel);

        assert_eq!(kernel.misuse(), []);
        assert_eq!(released.left_pinned.len(), 1);
        let left = released.left_pinned[0].chunk;
        assert_eq!(left.start(), RANGES[1].0);
        assert_eq!(kernel.held(), [(left.start(), left.end())]);
    }
}
