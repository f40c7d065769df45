// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a job process does: one measurement, on memory that nobody has touched.

#![expect(
    unsafe_code,
    reason = "the unsliced side populates without this library"
)]

use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use cgroup::CpuBudget;
use nix::{
    errno::Errno,
    sys::mman::{MmapAdvise, madvise},
};
use parapin::{
    Backing, BackingKind, Crew, IoUring, Iova, Mapping, NICEST, PageSize, Pages, Pinner, Populate,
    Region, Regions, Target, bench::Skipped,
};
use pinning::{Allowance, Plan, Watch};
use rustix::{process::setpriority_process, thread::sched_getaffinity};
use serde::{Deserialize, Serialize};

use crate::{meter::Meter, role::Place};

/// A measurement, and where it happens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) bytes: u64,
    /// What is worth a thread.
    pub(crate) min_chunk: u64,
    /// Whether another thread maps meanwhile.
    pub(crate) probing: bool,
    pub(crate) work: Work,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Nothing, for so many milliseconds.
    Rest(u64),
    /// One pin call.
    Ours(Ours),
    /// Populating with a thread on each CPU, whatever a quota says.
    Uncapped,
    /// Populating by so many niced threads, each with one call for its fixed share.
    Unsliced(usize),
    /// So many pin calls that populate a part each.
    Many {
        jobs: u64,
        at_once: bool,
        ours: Ours,
    },
}

/// A pin call.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ours {
    pub(crate) target: To,
    /// Whether helpers may work.
    pub(crate) helpers: bool,
    pub(crate) nice: i32,
    /// Whether helpers were started beforehand and stay.
    pub(crate) kept_crew: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum To {
    Populate,
    IoUring,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Wall time of the call.
    pub(crate) seconds: f64,
    /// Steps of all neighbours in a second.
    pub(crate) progress: f64,
    /// Periods in which the job's group was throttled, and for how long, summed over its CPUs.
    pub(crate) throttled_periods: u64,
    pub(crate) throttled_seconds: f64,
    /// Milliseconds that another thread took to map and unmap a page.
    pub(crate) mmap_p99: f64,
    pub(crate) mmap_max: f64,
    /// The part of `seconds` before the first and after the last piece: helpers that start and end, mostly.
    pub(crate) outside: f64,
    /// Threads of the job.
    pub(crate) threads: usize,
    /// How the job kept starved helpers from delaying it.
    pub(crate) priority: Option<String>,
}

impl Ours {
    /// As `Pinner::new` makes it.
    pub(crate) const HELPED: Self = Self {
        target: To::Populate,
        helpers: true,
        nice: NICEST,
        kept_crew: false,
    };
    pub(crate) const ALONE: Self = Self {
        helpers: false,
        ..Self::HELPED
    };
}

impl Job {
    pub(crate) fn run(&self) -> Result<Sample, Skipped> {
        let meter = Meter::new(self.place.group.clone(), self.probing)?;
        match self.work {
            Work::Rest(millis) => {
                let rest = || thread::sleep(Duration::from_millis(millis));
                Ok(meter.around(rest)?.1)
            }
            Work::Ours(ours) => match ours.target {
                To::Populate => self.pin(&meter, ours, &Populate::default()),
                To::IoUring => self.pin(&meter, ours, &IoUring),
            },
            Work::Uncapped => self.uncapped(&meter),
            Work::Unsliced(threads) => self.unsliced(&meter, threads),
            Work::Many {
                jobs,
                at_once,
                ours,
            } => self.many(&meter, jobs, at_once, ours),
        }
    }

    fn pinner(&self, ours: Ours) -> Pinner<'static> {
        let pinner = Pinner::new()
            .min_chunk(self.min_chunk)
            .nice(ours.nice)
            .check(false);
        if !ours.helpers {
            return pinner.threads(NonZeroUsize::MIN);
        }
        if !ours.kept_crew {
            return pinner;
        }
        let helpers = CpuBudget::current().threads().get() - 1;
        pinner.crew(Arc::new(Crew::new(helpers, ours.nice)))
    }

    fn pin(&self, meter: &Meter, ours: Ours, target: &impl Target) -> Result<Sample, Skipped> {
        let regions = fresh(self.bytes)?;
        let mut pinner = self.pinner(ours);
        let (pinned, sample) = meter.around(|| pinner.pin(target, &regions))?;
        let pinned = pinned?;
        let report = &pinned.report().job;
        Ok(Sample {
            outside: sample.seconds - report.time.as_secs_f64(),
            threads: report.threads,
            priority: Some(report.priority.name().to_owned()),
            ..sample
        })
    }

    /// The engine with an allowance that no limit has a part in.
    fn uncapped(&self, meter: &Meter) -> Result<Sample, Skipped> {
        let cpus = sched_getaffinity(None)?.count();
        let allowance = Allowance {
            threads: NonZeroUsize::new(usize::try_from(cpus)?).unwrap_or(NonZeroUsize::MIN),
            limited_by: "bench",
        };
        let (regions, target) = (fresh(self.bytes)?, Populate::default());
        let (finished, sample) = meter.around(|| {
            let mut job = regions.job(target.addressing())?;
            job.min_chunk = self.min_chunk;
            let plan = Plan::new(&job, &target.constraints(&regions)?, &allowance)?;
            let session = target.begin(&regions, &plan)?;
            let crew = Crew::new(plan.threads().get() - 1, NICEST);
            Ok::<_, Skipped>(pinning::run(
                &plan,
                Some(&crew),
                &session,
                Watch::default(),
            )?)
        })?;
        Ok(Sample {
            threads: finished?.report.threads,
            ..sample
        })
    }

    /// What a program does that knows nothing of slices: Cloud Hypervisor and QEMU populate like this.
    fn unsliced(&self, meter: &Meter, threads: usize) -> Result<Sample, Skipped> {
        let regions = fresh(self.bytes)?;
        let first = regions.iter().next().map_or(0, |region| region.hva().0);
        let share = self.bytes / threads as u64;
        // A thread that starts maps its stack, which has to wait while others populate: nobody begins before all are
        // there.
        let started = Barrier::new(threads);
        let populate = |index: usize| {
            // Of the calling thread alone (setpriority(2), NOTES).
            let niced = setpriority_process(None, NICEST);
            started.wait();
            niced?;
            populate_at_once(first + index as u64 * share, share)
        };
        let (outcomes, sample) = meter.around(|| {
            thread::scope(|scope| {
                let threads: Vec<_> = (0..threads)
                    .map(|index| scope.spawn(move || populate(index)))
                    .collect();
                let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
                joined
                    .map(|outcome| outcome.unwrap_or(Err(Errno::ECANCELED.into())))
                    .collect::<io::Result<Vec<()>>>()
            })
        })?;
        outcomes?;
        Ok(Sample { threads, ..sample })
    }

    fn many(&self, meter: &Meter, jobs: u64, at_once: bool, ours: Ours) -> Result<Sample, Skipped> {
        let regions: Vec<Regions> = (0..jobs)
            .map(|_| fresh(self.bytes / jobs))
            .collect::<Result<_, _>>()?;
        let populate = |regions: &Regions| self.pinner(ours).populate(regions).map(drop);
        if !at_once {
            let (done, sample) = meter.around(|| regions.iter().try_for_each(populate))?;
            done?;
            return Ok(sample);
        }
        // As in `unsliced`.
        let started = Barrier::new(regions.len() + 1);
        let (done, sample) = thread::scope(|scope| {
            let (populate, started) = (&populate, &started);
            let start = |regions| {
                scope.spawn(move || {
                    started.wait();
                    populate(regions)
                })
            };
            let threads: Vec<_> = regions.iter().map(start).collect();
            meter.around(|| {
                started.wait();
                let mut joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
                joined.all(|outcome| matches!(outcome, Ok(Ok(()))))
            })
        })?;
        if !done {
            return Err(io::Error::other("one of the jobs has failed").into());
        }
        Ok(sample)
    }
}

/// Memory of base pages that nobody has touched.
fn fresh(bytes: u64) -> Result<Regions, Skipped> {
    let memory = Arc::new(Mapping::anonymous(bytes, Pages::Small)?);
    let region = Region::of_mapping(memory, Iova(0))?.with_backing(Backing {
        kind: BackingKind::Anonymous,
        page_size: PageSize::base(),
        shared: false,
    });
    Ok(Regions::new([region])?)
}

/// `MADV_POPULATE_WRITE` of all of it.
fn populate_at_once(address: u64, bytes: u64) -> io::Result<()> {
    let too_far = |_| Errno::EFAULT;
    let start = usize::try_from(address).map_err(too_far)?;
    let start = NonNull::new(std::ptr::without_provenance_mut(start)).ok_or(Errno::EFAULT)?;
    let length = usize::try_from(bytes).map_err(too_far)?;
    // SAFETY: faults pages in, without a change to what can be read from them; nothing is accessed by the pointer.
    unsafe { madvise(start, length, MmapAdvise::MADV_POPULATE_WRITE) }?;
    Ok(())
}
