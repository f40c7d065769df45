// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Politeness: what a job takes from others, and what they take from it.
//!
//! ```text
//!  CPU 0   neighbour ▓▓▓▓▓▓▓▓▓▓  caller ██████     nice 0 both
//!  CPU 1   neighbour ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓  helper █    nice 19, starved
//! ```
//!
//! Everything is populating of cold anonymous memory, but for the rows that say io_uring. **Load** is one busy process
//! of nice 0 on each CPU, in the job's control group and session unless a row says otherwise.
//!
//! | row | baseline | value |
//! |---|---|---|
//! | `neighbour/P/one_thread`, `…/nice_19`, `…/nice_0` | – | percent that the load gets done less beside a job of one thread, with helpers at 19, at 0 |
//! | `neighbour/same/nice_19_allowed` | what one thread takes, and 3 points more | what a job with helpers at 19 takes |
//! | `neighbour/P/job_nice_19`, `…/job_nice_0` | time of the job with one thread | with helpers |
//! | `starvation/T_U` | one thread under load | with helpers, as `Pinner::new` does it |
//! | `starvation/T_U_kept_crew` | one thread under load | with helpers that were there before |
//! | `mmap/p99_job`, `mmap/max_job` | under load, no job: another thread's `mmap` and `munmap` of a page | beside a job with helpers |
//! | `mmap/p99_unsliced`, `mmap/max_unsliced` | the same | beside 4 threads at nice 19 that populate a fixed share by one call each |
//! | `mmap/p99_job_against_unsliced`, … | beside those | beside our job |
//! | `throttle/periods_S` | – | periods in which the group was throttled beside S |
//! | `throttle/stopped_S` | – | seconds for which it was, summed over its CPUs |
//! | `throttle/sibling_S` | – | percent that a busy process of the same group gets done less |
//! | `throttle/time`, `throttle/time_against_uncapped` | one thread; a thread on each CPU | ours |
//! | `many/at_once_against_one_by_one` | eight jobs, one after the other | at once |
//! | `many/at_once_against_one_thread` | eight jobs of one thread at once | with helpers |
//!
//! P, the place of the load, is `same`; `other_session`: a session of its own for each neighbour, and one for the job;
//! `other_group`: a control group for all neighbours, and one for the job. In the latter two niceness does not decide
//! against others: it weighs the threads of one group, which with autogroup (sched(7)) a session is as well. A group's
//! weight is spread over the CPUs by the load that its threads are there (`calc_group_shares()` in kernel/sched/fair.c), so
//! that a niced helper still takes its caller's part and not the neighbour's. These rows are shown, without a goal.
//!
//! T is `populate` or `io_uring`, U who does it: `root`, `nobody`, or `nobody_who_locks`, who has CAP_IPC_LOCK and nothing
//! else, since RLIMIT_MEMLOCK is in the way otherwise.
//!
//! S is a job of `one_thread`, `capped` by the quota as ours are, or `uncapped`: the engine with a thread on each CPU.
//! The throttled group has a quota of 62.5 % of the CPUs, and one busy process beside the job: 250 % of 4 CPUs, which
//! is what these rows are meant for; of 2 CPUs it is 125 %, so that ours is one thread.
//!
//! # Gotchas
//! - Each job is a process of its own; what is timed is the pin call, the start and the end of helpers included.
//! - Percent of the load are of its progress a second, all neighbours together, while the call lasts.
//! - What the host has not backed yet is ten times slower at the first touch: the bench holds as much touched memory as
//!   a job needs, and gives it free right before (`polite/lab.rs`).
//! - `PARAPIN_BENCH_GIB` sets the size of a job. Control groups need root.

mod harness;

#[path = "polite/group.rs"]
mod group;
#[path = "polite/job.rs"]
mod job;
#[path = "polite/lab.rs"]
mod lab;
#[path = "polite/meter.rs"]
mod meter;
#[path = "polite/neighbour.rs"]
mod neighbour;
#[path = "polite/role.rs"]
mod role;
#[path = "polite/rounds.rs"]
mod rounds;
#[path = "polite/tables.rs"]
mod tables;

use harness::Bench;
use lab::Lab;
use parapin::bench::Skipped;
use role::Role;

fn main() -> Result<(), Skipped> {
    if let Some(role) = Role::of_this_process() {
        return role?.play();
    }
    let mut bench = Bench::from_args("polite");
    let lab = Lab::new(&bench)?;
    tables::neighbour(&mut bench, &lab);
    tables::starvation(&mut bench, &lab);
    tables::mmap(&mut bench, &lab);
    tables::throttle(&mut bench, &lab);
    tables::many(&mut bench, &lab);
    bench.finish();
    Ok(())
}
