// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A [`Crew`] of helper threads, made by the calling thread and polite to everybody else.
//!
//! ```text
//!  caller ──start──► threads ──► rayon pool ──► up? ──► niced        (once)
//!         ──lease──► CPU mask of the caller ──► helpers of one job   (each job)
//!                       └── followed while the job runs; raised one by one at its end, and niced again
//!         ──drop───► pool ends ──► threads joined
//! ```
//!
//! The threads are started first and handed to `rayon` afterwards, because a pool that starts its own fails as a whole
//! when one thread cannot be started, and does not join them when it is dropped.
//!
//! # System call filters
//! A filter like Cloud Hypervisor's kills the process for `setpriority`. Making a crew calls it; a job calls it only if
//! the crew was allowed to when it was made, and the calling thread is under no more filters now than it was then.

use std::{
    cell::RefCell,
    io,
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use nix::sys::signal::SigSet;
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};
use rustix::{
    process::setpriority_process,
    thread::{Pid, gettid},
};

use crate::{
    affinity::Mask,
    task::{self, SystemCallFilters},
};

/// The nice value of helpers unless another one is asked for: the kernel's `MAX_NICE`.
pub const NICEST: i32 = 19;

/// Helper threads for jobs, one job at a time.
///
/// A crew is made by the thread that will start jobs with it: its threads inherit that thread's cgroup, CPU mask and
/// memory policy. It can be made early, before a VMM installs its system call filter, and kept; each job puts it under
/// the CPU mask that the calling thread has then. It can be shared between threads; while it works for one job,
/// another one runs on its own calling thread alone and reports [`Limit::Jobs`](crate::Limit::Jobs).
///
/// Threads are named `parapin-1`, `parapin-2`, … They block all signals, so that none of the process's is handled on a
/// thread that may get no CPU for a second. Dropping joins them, unless the crew is [`detached`](Self::detached).
#[derive(Debug)]
pub struct Crew {
    id: u64,
    pool: Option<ThreadPool>,
    threads: Vec<JoinHandle<()>>,
    members: Vec<Member>,
    wanted: usize,
    nice: i32,
    detached: bool,
    /// System call filters that the thread which made the crew was under.
    filters: SystemCallFilters,
    /// The mask that all helpers have, where it is known; locked while the crew works.
    mask: Mutex<Option<Mask>>,
}

/// One helper thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) thread: Pid,
    pub(crate) nice: i32,
    /// Whether the kernel would let it become less nice again: CAP_SYS_NICE, or RLIMIT_NICE.
    can_rise: bool,
    /// System call filters that it was under when it started.
    pub(crate) filters: SystemCallFilters,
}

thread_local! {
    /// Crews that wait for this thread: the one that it is a helper of, and those whose job it runs as the caller.
    static AT_WORK_FOR: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Crew {
    /// A crew of at most `helpers` threads at nice value `nice`.
    ///
    /// A thread that cannot be started means fewer helpers ([`helpers`](Self::helpers)), not a failure. A helper is
    /// never less nice than the calling thread, since only privileged threads may become so.
    #[must_use]
    pub fn new(helpers: usize, nice: i32) -> Self {
        // Relaxed: only uniqueness counts.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut crew = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            pool: None,
            threads: Vec::new(),
            members: Vec::new(),
            wanted: helpers,
            nice,
            detached: false,
            filters: SystemCallFilters::of_caller(),
            mask: Mutex::new(Mask::of_caller().ok()),
        };
        let seats = crew.start_threads();
        crew.pool = crew.hand_over(seats);
        if let Some(pool) = &crew.pool {
            // Helpers are brought up at the caller's priority: on a busy machine a niced thread may take a second to
            // start. It also has them make their thread-local allocations now rather than in a job.
            let id = crew.id;
            crew.members = pool.broadcast(|_| settle(id, nice));
        }
        crew
    }

    /// The same crew, which does not wait for its threads to end when it is dropped.
    ///
    /// They have left every job by then and hold nothing of it; but a niced thread beside busy neighbours needs a fifth of
    /// a second for its last step, and that is what a crew for a single job would make its owner wait for.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Threads that were asked for.
    #[must_use]
    pub fn helpers_wanted(&self) -> usize {
        self.wanted
    }

    /// Threads that there are.
    #[must_use]
    pub fn helpers(&self) -> usize {
        self.members.len()
    }

    /// The nice value that was asked for.
    #[must_use]
    pub fn nice(&self) -> i32 {
        self.nice
    }

    /// Reserves the crew for a job of the calling thread and puts it under that thread's CPU mask.
    pub(crate) fn lease(&self) -> Result<Lease<'_>, LeaseError> {
        if AT_WORK_FOR.with_borrow(|crews| crews.contains(&self.id)) {
            return Err(LeaseError::Reentered);
        }
        let mut mask = match self.mask.try_lock() {
            Ok(mask) => mask,
            Err(TryLockError::WouldBlock) => return Err(LeaseError::Busy),
            // Every critical section leaves a whole value behind.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let Some(pool) = &self.pool else {
            return Err(LeaseError::NoHelpers);
        };
        let present = Mask::of_caller().map_err(|_| LeaseError::NoHelpers)?;
        if mask.as_ref() != Some(&present) {
            *mask = None;
            for member in &self.members {
                present
                    .apply(member.thread)
                    .map_err(|_| LeaseError::NoHelpers)?;
            }
            *mask = Some(present.clone());
        }
        // A filter that came since may kill the process for a call that it does not know.
        let unfiltered = SystemCallFilters::of_caller() == self.filters;
        Ok(Lease {
            pool,
            members: &self.members,
            may_raise: unfiltered && self.members.iter().all(|member| member.can_rise),
            caller: present,
            mask,
            _mark: Mark::new(self.id),
        })
    }

    /// Starts the threads; each waits for its seat in the pool.
    fn start_threads(&mut self) -> Vec<mpsc::Sender<ThreadBuilder>> {
        // Threads inherit the signal mask: there is no moment in which one of them could take a signal.
        let _blocked = Blocked::new();
        let mut seats = Vec::with_capacity(self.wanted);
        for index in 1..=self.wanted {
            let (seat, offer) = mpsc::channel::<ThreadBuilder>();
            let started = thread::Builder::new()
                .name(format!("parapin-{index}"))
                .spawn(move || {
                    if let Ok(builder) = offer.recv() {
                        builder.run();
                    }
                });
            // The pids limit or the memory limit was reached: what is running by now is what there is.
            let Ok(thread) = started else { break };
            self.threads.push(thread);
            seats.push(seat);
        }
        seats
    }

    fn hand_over(&self, seats: Vec<mpsc::Sender<ThreadBuilder>>) -> Option<ThreadPool> {
        if seats.is_empty() {
            return None;
        }
        ThreadPoolBuilder::new()
            .num_threads(seats.len())
            .spawn_handler(|builder| {
                let seat = seats.get(builder.index());
                seat.and_then(|seat| seat.send(builder).ok())
                    .ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))
            })
            .build()
            .ok()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.pool = None;
        if self.detached {
            self.threads.clear();
        }
        let me = thread::current().id();
        for thread in self.threads.drain(..) {
            // A helper that drops the last handle of its own crew must not wait for itself.
            if thread.thread().id() != me {
                // A helper never panics outside of a job, and inside of one the panic is caught.
                let _ = thread.join();
            }
        }
    }
}

/// Makes the calling thread a member of the crew, as nice as asked, and says who it is.
fn settle(id: u64, nice: i32) -> Member {
    AT_WORK_FOR.with_borrow_mut(|crews| crews.push(id));
    let present = task::Stat::of_caller().map_or(0, |stat| stat.nice);
    // Raising niceness needs no privilege (setpriority(2)); where a filter refuses it, the report shows it.
    let niced = nice > present && setpriority_process(None, nice).is_ok();
    // Whether there is a way back depends on capabilities, limits and filters: trying it is the only sure answer.
    let can_rise = niced && setpriority_process(None, present).is_ok();
    let nice = if can_rise {
        setpriority_process(None, nice).map_or(present, |()| nice)
    } else if niced {
        nice
    } else {
        present
    };
    Member {
        thread: gettid(),
        nice,
        can_rise,
        filters: SystemCallFilters::of_caller(),
    }
}

/// All signals are blocked on the calling thread until this is dropped.
struct Blocked(Option<SigSet>);

impl Blocked {
    fn new() -> Self {
        Self(
            SigSet::all()
                .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
                .ok(),
        )
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It was this thread's mask a moment ago.
            let _ = before.thread_set_mask();
        }
    }
}

/// Why a crew cannot help a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseError {
    Reentered,
    Busy,
    NoHelpers,
}

/// A crew that works for one job of the calling thread.
#[derive(Debug)]
pub(crate) struct Lease<'c> {
    pub(crate) pool: &'c ThreadPool,
    pub(crate) members: &'c [Member],
    /// Whether helpers can be raised to the caller's priority.
    pub(crate) may_raise: bool,
    caller: Mask,
    /// The mask that all helpers have, where it is known.
    mask: MutexGuard<'c, Option<Mask>>,
    _mark: Mark,
}

impl Lease<'_> {
    /// The caller's mask when this was made, or looked at last.
    pub(crate) fn mask(&self) -> &Mask {
        &self.caller
    }

    /// The caller's mask, if it is another one than at the last look.
    pub(crate) fn changed_mask(&mut self) -> Option<&Mask> {
        if self.caller.is_still_the_callers() {
            return None;
        }
        let present = Mask::of_caller().ok()?;
        if self.mask.is_some() {
            *self.mask = Some(present.clone());
        }
        self.caller = present;
        Some(&self.caller)
    }

    /// Notes that members have masks of their own now, so that the next job sets them all.
    pub(crate) fn scatter(&mut self) {
        *self.mask = None;
    }
}

/// Runs `helper` on `count` threads of the pool and `caller` on this one; returns when all of them have. A helper is told
/// its number (1, 2, …) and which member of the crew it is.
///
/// No helper begins before all were called, so that nothing is allocated once the first one works.
pub(crate) fn run_on(
    pool: &ThreadPool,
    count: usize,
    helper: impl Fn(usize, usize) + Sync,
    caller: impl FnOnce(),
) {
    let gate = Mutex::new(());
    pool.in_place_scope(|scope| {
        let closed = gate.lock();
        for worker in 1..=count {
            let (helper, gate) = (&helper, &gate);
            scope.spawn(move |_| {
                drop(gate.lock());
                helper(worker, rayon::current_thread_index().unwrap_or(worker - 1));
            });
        }
        drop(closed);
        caller();
    });
}

/// Marks the calling thread as the caller of a crew's job; drop takes the mark away.
#[derive(Debug)]
struct Mark;

impl Mark {
    fn new(id: u64) -> Self {
        AT_WORK_FOR.with_borrow_mut(|crews| crews.push(id));
        Self
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        AT_WORK_FOR.with_borrow_mut(Vec::pop);
    }
}
