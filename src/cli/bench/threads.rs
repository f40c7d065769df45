// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that begin together, and the CPU time of one of them.
//!
//! ```text
//!  thread 0 │ prepare │       │ work │
//!  thread n │ prepare ──────► │ work ─────► │     from the first start to the last end
//!                          begin
//! ```

use std::{
    num::NonZeroU64,
    panic,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use parapin::bench::Skipped;
use rustix::{
    thread::set_current_timer_slack,
    time::{ClockId, clock_gettime},
};

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

/// CPU time that this thread has used.
pub(super) fn cpu_of_calling_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Has the calling thread wake up when it wants to, and not up to 50 us later.
pub(super) fn wake_up_on_time() -> Result<(), Skipped> {
    Ok(set_current_timer_slack(NonZeroU64::new(1))?)
}
