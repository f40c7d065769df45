// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A job splitter after Linux padata: chunks of address ranges are handed out to polite helper threads, and taken back
//! if any of them fails.
//!
//! ```text
//!  Job { ranges, min_chunk, max_chunk, max_threads } ─┐
//!  Constraints of the target ─────────────────────────┼─► Plan ─► run ──┬─► Finished { report, chunks }
//!  Budget of the caller ──────────────────────────────┘    ▲  │  ▲      └─► RunError { at, source, left_pinned }
//!                                                   Crew ──┘  ▼  │
//!                                                          Work::run, Work::undo
//! ```
//!
//! The crate knows nothing of what a chunk does: that is the [`Work`].
//!
//! | `kernel/padata.c` (6.12) and the 2022 RFC | here |
//! |---|---|
//! | `struct padata_mt_job` | [`Job`], [`Range`] |
//! | `thread_fn(start, end, arg)` | [`Work::run`] |
//! | `undo_fn(start, end, arg)` | [`Work::undo`] |
//! | `padata_do_multithreaded()` | [`Plan::new`], then [`run`] |
//! | kthreads bound to the caller's CPUs, `MAX_NICE` | [`Crew`] |
//! | `max_cfs_bandwidth_cpus()` | [`Budget`] |
//!
//! # Example
//! ```
//! use pinning::{Allowance, Constraints, Crew, Job, Plan, Range, Watch, Work, Chunk};
//!
//! struct Nothing;
//! impl Work for Nothing {
//!     type Error = std::io::Error;
//!     fn run(&self, _chunk: Chunk, _worker: usize) -> Result<(), Self::Error> { Ok(()) }
//!     fn undo(&self, _chunk: Chunk) -> Result<(), Self::Error> { Ok(()) }
//! }
//!
//! let budget = Allowance { threads: 2.try_into()?, limited_by: "affinity" };
//! let job = Job::new([Range::new(0x1_0000_0000, 4 << 30, 2 << 20)?])?;
//! let plan = Plan::new(&job, &Constraints::default(), &budget)?;
//! let crew = Crew::new(plan.threads().get() - 1, pinning::NICEST);
//! let finished = pinning::run(&plan, Some(&crew), &Nothing, Watch::default())?;
//! assert_eq!(finished.report.bytes, 4 << 30);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Gotchas
//! - A chunk in flight cannot be interrupted. Cancel, first error and progress act between slices and chunks.
//! - `run` may be called from several threads at once; `undo` after a failure only from the calling one.
//! - A crew works for one job at a time. A second job does not wait for it: it runs on its own caller alone.

#![forbid(unsafe_code)]

mod affinity;
mod bits;
mod cancel;
mod chunk;
mod crew;
mod desk;
mod error;
mod hand_out;
mod job;
mod jobs;
mod layout;
mod ledger;
mod limit;
mod pace;
mod place;
mod plan;
mod priority;
mod progress;
mod range;
mod ready;
mod record;
mod release;
mod report;
mod rounds;
mod run;
mod stuck;
mod sync;
mod task;
mod turn;
mod unwind;
mod work;

pub use cancel::CancelToken;
pub use chunk::Chunk;
pub use crew::{Crew, NICEST};
pub use error::{LeftPinned, RunError, RunErrorKind, UndoFailure};
pub use job::{Job, JobError};
pub use jobs::Jobs;
pub use limit::{Allowance, Budget, Limit};
pub use place::Node;
pub use plan::{Constraints, Plan, PlanError};
pub use progress::{Progress, Watch};
pub use range::Range;
pub use release::{RELEASE_CHUNK, Released, release};
pub use report::{Finished, Priority, Report, WorkerReport};
pub use run::run;
pub use stuck::{Alarm, Stuck};
pub use task::SystemCallFilters;
pub use work::{Helper, Sealing, Work};
