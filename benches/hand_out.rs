// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Chunks handed out while the job runs, against a share for each thread that is fixed beforehand.
//!
//! ```text
//!            CPU 0        CPU 1 (shared)
//!  fixed     ████████     ████████████████     as long as the slowest thread
//!  ours      ███████████  ███████████          the free CPU takes what the other one has not begun
//!                         ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ ◄── a busy process of the same priority
//! ```
//!
//! Both sides do the same work, memset of resident memory, with one thread on each CPU at nice 0, and both make their
//! threads before the clock starts. Each thread is bound to its CPU: otherwise the kernel's load balancer moves the
//! fixed threads about and hides the difference. For ours that happens in the first piece that a worker gets, since a
//! crew puts its helpers under the caller's mask when a job starts.
//!
//! | row | busy process | ours does |
//! |---|---|---|
//! | `chunks_beside_helper` | on the last CPU | whole chunks, as for io_uring and iommufd |
//! | `chunks_beside_caller` | on the caller's CPU, which always drains the queue | whole chunks |
//! | `slices_beside_helper` | on the last CPU | slices of chunks, as for populating |
//! | `slices_beside_caller` | on the caller's CPU | slices |
//! | `chunks_alone`, `slices_alone` | none | what handing out costs where nothing has to be balanced |

mod harness;

use std::{
    io,
    num::{NonZeroU64, NonZeroUsize},
    process::{Child, Command},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use harness::Bench;
use parapin::{
    Crew, Mapping, Pages,
    bench::{Compare, Outcome, Row, Skipped},
};
use pinning::{Allowance, Chunk, Constraints, Job, Plan, Range, Watch, Work};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Bytes of a piece, and of a step in a larger one: small enough to stay in the caches, so that the speed of memory,
/// which the CPUs share, does not decide.
const STEP: u64 = 2 << 20;

fn main() {
    let mut bench = Bench::from_args("hand_out");
    let contest = Contest::new(&bench);
    let slices = NonZeroU64::new(STEP);
    for (name, slice, shared) in [
        ("chunks_beside_helper", None, Some(Shared::Helper)),
        ("chunks_beside_caller", None, Some(Shared::Caller)),
        ("slices_beside_helper", slices, Some(Shared::Helper)),
        ("slices_beside_caller", slices, Some(Shared::Caller)),
        ("chunks_alone", None, None),
        ("slices_alone", slices, None),
    ] {
        let contest = contest.as_ref().map_err(Clone::clone);
        let busy = contest.clone().and_then(|contest| contest.busy(shared));
        let row = Row {
            name: name.to_owned(),
            unit: "s",
            bytes: None,
            compare: shared.map_or(Compare::Cost, |_| Compare::SpeedUp),
            target: shared.map(|_| 1.3),
        };
        let ready = || match &busy {
            Ok(_) => contest.clone(),
            Err(reason) => Err(reason.clone()),
        };
        bench.measure(row, Some(&mut || ready()?.fixed_shares()), &mut || {
            ready()?.ours(slice)
        });
    }
    bench.finish();
}

/// Whose CPU the busy process shares.
#[derive(Debug, Clone, Copy)]
enum Shared {
    Caller,
    Helper,
}

/// What both sides have in common.
struct Contest {
    memory: Mapping,
    /// How often each byte is set.
    passes: u8,
    min_chunk: u64,
    /// One for each thread.
    cpus: Vec<usize>,
    mask: CpuSet,
    crew: Crew,
}

impl Contest {
    fn new(bench: &Bench) -> Result<Self, Skipped> {
        let mask = sched_getaffinity(None)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| mask.is_set(cpu))
            .collect();
        if cpus.len() < 2 {
            return Err(Skipped::because(&io::Error::other("there is one CPU only")));
        }
        let memory = Mapping::anonymous(bench.size(1 << 30, 16 << 20), Pages::Transparent)?;
        memory.fill(0, memory.size(), 1);
        Ok(Self {
            memory,
            passes: bench.size(24, 1),
            min_chunk: bench.size(Job::MIN_CHUNK, 2 * STEP),
            crew: Crew::new(cpus.len() - 1, 0),
            cpus,
            mask,
        })
    }

    /// A process that keeps a CPU busy.
    fn busy(&self, shared: Option<Shared>) -> Result<Option<Busy>, Skipped> {
        let cpu = match shared {
            None => return Ok(None),
            Some(Shared::Caller) => self.cpus[0],
            Some(Shared::Helper) => self.cpus[self.cpus.len() - 1],
        };
        bind(cpu)?;
        let busy = Busy::start();
        self.unbind()?;
        Ok(Some(busy?))
    }

    /// Each thread does its 1/N, in seconds.
    fn fixed_shares(&self) -> Outcome {
        let threads = self.cpus.len() as u64;
        let steps = self.memory.size() / STEP;
        let share = |index: u64| {
            (
                index * steps / threads * STEP,
                (index + 1) * steps / threads * STEP,
            )
        };
        let ready = Barrier::new(self.cpus.len());
        let work = |index: usize| {
            let bound = bind(self.cpus[index]);
            ready.wait();
            let start = Instant::now();
            let (from, to) = share(index as u64);
            self.fill(from, to - from);
            bound.map(|()| start)
        };
        let time = thread::scope(|scope| {
            let helpers: Vec<_> = (1..self.cpus.len())
                .map(|index| scope.spawn(move || work(index)))
                .collect();
            let start = work(0);
            for helper in helpers {
                if let Ok(bound) = helper.join() {
                    bound?;
                }
            }
            start.map(|start| start.elapsed())
        });
        self.unbind()?;
        Ok(time?.as_secs_f64())
    }

    /// The engine does the same, in seconds.
    fn ours(&self, slice: Option<NonZeroU64>) -> Outcome {
        let mut job = Job::new([Range::new(0, self.memory.size(), STEP)?])?;
        job.min_chunk = self.min_chunk;
        let constraints = Constraints {
            slice,
            ..Constraints::default()
        };
        let budget = Allowance {
            threads: NonZeroUsize::new(self.cpus.len()).unwrap_or(NonZeroUsize::MIN),
            limited_by: "bench",
        };
        let work = Fill {
            contest: self,
            bound: self.cpus.iter().map(|_| AtomicBool::new(false)).collect(),
        };
        let plan = Plan::new(&job, &constraints, &budget)?;
        let start = Instant::now();
        let finished = pinning::run(&plan, Some(&self.crew), &work, Watch::default());
        let time = start.elapsed();
        self.unbind()?;
        finished?;
        Ok(time.as_secs_f64())
    }

    /// Sets each step several times before the next.
    fn fill(&self, offset: u64, size: u64) {
        let (mut at, end) = (offset, offset + size);
        while at < end {
            for pass in 0..self.passes {
                self.memory.fill(at, STEP.min(end - at), pass);
            }
            at += STEP;
        }
    }

    /// Puts the calling thread back under the mask it came with.
    fn unbind(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.mask)?)
    }
}

/// Binds the calling thread to one CPU.
fn bind(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The work of one run.
struct Fill<'c> {
    contest: &'c Contest,
    /// Whether a worker is on its CPU.
    bound: Box<[AtomicBool]>,
}

impl Work for Fill<'_> {
    type Error = io::Error;

    fn run(&self, chunk: Chunk, worker: usize) -> io::Result<()> {
        // Relaxed: each worker has a flag of its own.
        if !self.bound[worker].swap(true, Ordering::Relaxed) {
            bind(self.contest.cpus[worker])?;
        }
        self.contest.fill(chunk.start(), chunk.size());
        Ok(())
    }

    fn undo(&self, _chunk: Chunk) -> io::Result<()> {
        Ok(())
    }
}

/// A process that never rests, on the CPU of the thread that started it; killed on drop.
struct Busy(Child);

impl Busy {
    fn start() -> io::Result<Self> {
        // It asks all the time whether its parent is still there, so that it ends even where this process is killed
        // and drops nothing. The shell does that by itself and starts no other program.
        let script = "while kill -0 $PPID 2> /dev/null; do :; done";
        Command::new("sh").arg("-c").arg(script).spawn().map(Self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It has ended by itself, or is a child that may be killed; nothing else can fail here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
