// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The engine allocates nothing between the first and the last chunk, on any thread.
//!
//! One test in a process of its own: it replaces the allocator.
#![expect(unsafe_code, reason = "a counting allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    num::{NonZeroU64, NonZeroUsize},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use pinning::{Allowance, Chunk, Constraints, Crew, Job, NICEST, Plan, Range, Watch, Work};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The test harness has the first thread to itself.
        let harness = rustix::thread::gettid() == rustix::process::getpid();
        ALLOCATIONS.fetch_add(u64::from(!harness), SeqCst);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Remembers the counter at its first and at its latest piece.
struct Nothing {
    first: AtomicU64,
    last: AtomicU64,
}

impl Work for Nothing {
    type Error = Infallible;

    fn run(&self, _: Chunk, _: usize) -> Result<(), Infallible> {
        let now = ALLOCATIONS.load(SeqCst);
        let _ = self.first.compare_exchange(u64::MAX, now, SeqCst, SeqCst);
        std::thread::yield_now();
        self.last.fetch_max(ALLOCATIONS.load(SeqCst), SeqCst);
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn nothing_is_allocated_while_chunks_are_done() {
    let job = Job::new([
        Range::new(0, 8 << 30, 4096).unwrap(),
        Range::new(1 << 40, 8 << 30, 2 << 20).unwrap(),
    ])
    .unwrap();
    for slice in [None, NonZeroU64::new(2 << 20)] {
        for threads in 1..=4 {
            let budget = Allowance {
                threads: NonZeroUsize::new(threads).unwrap(),
                limited_by: "affinity",
            };
            let constraints = Constraints {
                slice,
                ..Constraints::default()
            };
            let plan = Plan::new(&job, &constraints, &budget).unwrap();
            // A fresh crew each time: its first job is the one that might still set something up.
            let crew = Crew::new(threads - 1, NICEST);
            for round in 0..3 {
                let work = Nothing {
                    first: AtomicU64::new(u64::MAX),
                    last: AtomicU64::new(0),
                };
                pinning::run(&plan, Some(&crew), &work, Watch::default()).unwrap();
                assert_eq!(
                    work.last.load(SeqCst) - work.first.load(SeqCst),
                    0,
                    "{threads} threads, slice {slice:?}, round {round}"
                );
            }
        }
    }
}
