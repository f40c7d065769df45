// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pinner`]: what the caller wants, joined with what the machine allows.

use std::{fmt, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use cgroup::{CpuBudget, MemoryBudget, Throttle};
use pinning::{
    Alarm, CancelToken, Crew, Finished, Job, NICEST, Plan, Progress, RunError, Stuck,
    SystemCallFilters, Watch, Work,
};
use vfio::{Accounting, Addressing, BackingKind, Discard, Populate, Regions, Session, Target};

use crate::{
    PinError, PinHandle, PinReport, Pinned, Placement,
    budget::{self, CpuAllowance, JOBS, LiveAllowance},
    handle::Latest,
    locality::{InPolicy, Locality, Wanted},
    signals::Signals,
};

/// Pins regions in parallel. Everything has a default; a `Pinner` can be used many times.
///
/// ```
/// use parapin::{CancelToken, Pinner};
///
/// let cancel = CancelToken::new();
/// let pinner = Pinner::new()
///     .threads(16.try_into()?)
///     .cancel(cancel.clone())
///     .progress(|p| eprintln!("{} of {} bytes", p.done, p.total));
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
pub struct Pinner<'a> {
    threads: Option<NonZeroUsize>,
    nice: i32,
    min_chunk: u64,
    max_chunk: u64,
    huge_pages: Option<bool>,
    check: bool,
    crew: Option<Arc<Crew>>,
    cancel: Option<CancelToken>,
    progress: Option<Box<dyn FnMut(Progress) + Send + 'a>>,
    placement: Placement,
    spread: bool,
    signals: bool,
    stuck_after: Duration,
    stuck: Option<OnStuck<'a>>,
}

type OnStuck<'a> = Box<dyn FnMut(&Stuck<'_>) + Send + 'a>;

impl<'a> Pinner<'a> {
    /// As many threads as the budget allows, helpers at nice 19, chunks of 32 MiB to 256 MiB, with the memory check.
    #[must_use]
    pub fn new() -> Self {
        Self {
            threads: None,
            nice: NICEST,
            min_chunk: Job::MIN_CHUNK,
            max_chunk: Job::MAX_CHUNK,
            huge_pages: None,
            check: true,
            crew: None,
            cancel: None,
            progress: None,
            placement: Placement::default(),
            spread: false,
            signals: false,
            stuck_after: Alarm::AFTER,
            stuck: None,
        }
    }

    /// At most so many threads, the caller included.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Nice value of helpers that are started for the job; a crew of the caller has its own.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = nice;
        self
    }

    /// Bytes that are worth a thread of their own.
    #[must_use]
    pub fn min_chunk(mut self, bytes: u64) -> Self {
        self.min_chunk = bytes;
        self
    }

    /// Most bytes of a chunk, unless the page size or the number of map entries asks for more.
    #[must_use]
    pub fn max_chunk(mut self, bytes: u64) -> Self {
        self.max_chunk = bytes;
        self
    }

    /// Asks for transparent huge pages (or for none) behind anonymous and shared regions, before the first touch.
    #[must_use]
    pub fn huge_pages(mut self, wanted: bool) -> Self {
        self.huge_pages = Some(wanted);
        self
    }

    /// Whether limits on memory are compared with what is needed before the first page is touched; on by default.
    ///
    /// Without the check the kernel refuses in the middle, and everything is undone. With one exception: a cgroup v2
    /// `memory.max` that is exceeded while pages are faulted in makes the kernel kill the process, and the check is
    /// the only protection from that.
    #[must_use]
    pub fn check(mut self, on: bool) -> Self {
        self.check = on;
        self
    }

    /// Uses this crew, instead of starting helpers for each job.
    #[must_use]
    pub fn crew(mut self, crew: Arc<Crew>) -> Self {
        self.crew = Some(crew);
        self
    }

    /// Stops and undoes the job when the token is raised.
    #[must_use]
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = Some(token);
        self
    }

    /// Is told on the calling thread how far the job is, about ten times a second.
    #[must_use]
    pub fn progress(mut self, callback: impl FnMut(Progress) + Send + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// Where pages of memory without a policy land, on a machine with several memory nodes: by default on the caller's.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Whether helper i is put on the i-th CPU of the caller's mask; off by default, since the scheduler then moves
    /// helpers away from busy neighbours.
    #[must_use]
    pub fn spread_cpus(mut self, on: bool) -> Self {
        self.spread = on;
        self
    }

    /// Whether a termination signal (TERM, INT, QUIT, HUP) that is pending for the calling thread or its process cancels
    /// the job; off by default.
    ///
    /// For a VMM that takes its signals through signalfd(2) or sigwait(3), and so has them blocked: while it pins it
    /// does not come to look. A signal that is not blocked is never pending. The token of [`cancel`](Self::cancel), if one
    /// was given, is raised.
    #[must_use]
    pub fn cancel_on_signals(mut self, on: bool) -> Self {
        self.signals = on;
        self
    }

    /// Is told on the calling thread of a helper that has been at one piece for longer than `after`, and again each time
    /// as much has passed again; [`Alarm::AFTER`] is a good value. In any case it stands in the report's notes.
    #[must_use]
    pub fn stuck(mut self, after: Duration, callback: impl FnMut(&Stuck<'_>) + Send + 'a) -> Self {
        self.stuck_after = after;
        self.stuck = Some(Box::new(callback));
        self
    }

    /// Pins `regions` with `target`.
    ///
    /// Returns when all is pinned. Call it on the thread whose limits shall hold: its CPU mask, its cgroup and its
    /// memory policy are those of the helpers.
    ///
    /// # Errors
    /// [`PinError`]; everything that was pinned by this call is then unpinned again, and what could not be is listed.
    ///
    /// # Panics
    /// A panic of the progress callback resumes here, after everything is unpinned.
    pub fn pin<T: Target>(&mut self, target: &T, regions: &Regions) -> Result<Pinned<T>, PinError> {
        self.advise(regions);
        let regions = self.prepare(target.accounting(), regions)?;
        self.run(target, regions)
    }

    /// Faults `regions` in and pins nothing.
    ///
    /// # Errors
    /// [`PinError`], as for [`pin`](Self::pin).
    ///
    /// # Panics
    /// As [`pin`](Self::pin).
    pub fn populate(&mut self, regions: &Regions) -> Result<PinReport, PinError> {
        let populated = self.pin(&Populate::default(), regions)?;
        Ok(populated.report().clone())
    }

    /// Gives the pages of `regions` back to the system, in parallel; anonymous memory reads as zero afterwards. See
    /// [`Discard`] for other kinds.
    ///
    /// Nothing of it may be pinned. Memory of a [`Mapping`](vfio::Mapping) is unmapped when that is dropped, which is
    /// quick once its pages are gone.
    ///
    /// # Errors
    /// [`PinError`], as for [`pin`](Self::pin); what was discarded stays so.
    ///
    /// # Panics
    /// As [`pin`](Self::pin).
    pub fn discard(&mut self, regions: &Regions) -> Result<PinReport, PinError> {
        let regions = regions.as_surveyed(&regions.survey()?);
        let discarded = self.run(&Discard, regions)?;
        Ok(discarded.report().clone())
    }

    fn advise(&self, regions: &Regions) {
        let Some(wanted) = self.huge_pages else {
            return;
        };
        let hugetlb = |kind| kind == Some(BackingKind::Hugetlb);
        for region in regions {
            if !hugetlb(region.backing().map(|backing| backing.kind)) {
                // Advice: a kernel without transparent huge pages pins small ones.
                let _ = region.advise_huge_pages(wanted);
            }
        }
    }

    /// Finds out what is behind the regions, where that is needed, and checks the limits on memory.
    fn prepare(&self, accounting: Accounting, regions: &Regions) -> Result<Regions, PinError> {
        if regions.all_backed() && !self.check {
            return Ok(regions.clone());
        }
        let survey = regions.survey()?;
        let regions = regions.with_backings(&survey);
        if self.check {
            let demand = budget::demand(&regions, &survey, accounting);
            MemoryBudget::current()
                .check(&demand)
                .map_err(|shortages| PinError::short(&shortages))?;
        }
        Ok(regions)
    }

    fn run<T: Target>(&mut self, target: &T, regions: Regions) -> Result<Pinned<T>, PinError> {
        let (addressing, accounting) = (target.addressing(), target.accounting());
        let locality = Locality::of_caller(self.placement);
        let (regions, mut notes) = match &locality {
            Some(locality) => locality.place(&regions),
            None => (regions, Vec::new()),
        };
        notes.extend(out_of_step(&regions, addressing));
        let cpu = CpuBudget::current();
        let plan = self.plan(target, &regions, locality.as_ref(), &cpu)?;
        let session = target
            .begin(&regions, &plan)
            .map_err(|fault| PinError::of_fault(fault, &regions, accounting))?;
        let helpers = plan.threads().get() - 1;
        let own_crew =
            (self.crew.is_none() && helpers > 0).then(|| Crew::new(helpers, self.nice).detached());
        let kept = self.crew.clone();
        let crew = own_crew.as_ref().or(kept.as_deref());
        let nice = crew.map_or(self.nice, Crew::nice);
        let filters = SystemCallFilters::of_caller();
        let before = Throttle::current();
        let wanted = locality.as_ref().map_or(Wanted::Any, Locality::policy);
        let work = InPolicy::new(&session, wanted);
        let outcome = {
            let _restored = locality.as_ref().and_then(Locality::spread_caller);
            self.watched(&plan, crew, &work, &mut notes)
        };
        notes.extend(work.note());
        let throttled = before.and_then(|before| Some(Throttle::current()?.since(&before)));
        let report = |job| PinReport {
            target: target.name(),
            strategy: session.strategy(),
            regions: regions.iter().len(),
            page_size: regions.page_size(),
            nice,
            job,
            cpu,
            nodes: locality.map(|locality| locality.nodes().clone()),
            throttled,
            notes,
        };
        match outcome {
            Ok(finished) => {
                let report = report(finished.report);
                Ok(Pinned::new(
                    target,
                    session,
                    regions,
                    finished.chunks,
                    (kept, filters),
                    report,
                ))
            }
            Err(mut error) => {
                let report = error.report.take().map(|job| report(*job));
                Err(PinError::of_run(
                    error, report, &regions, addressing, accounting,
                ))
            }
        }
    }

    /// Runs the plan, watched for everything that this was told to watch for.
    fn watched<W: Work>(
        &mut self,
        plan: &Plan,
        crew: Option<&Crew>,
        work: &W,
        notes: &mut Vec<String>,
    ) -> Result<Finished, RunError<W::Error>> {
        // A token of its own for each job, if none is given: a pinner can be used again after a signal.
        let cancel = self.cancel.clone().unwrap_or_default();
        let signals = self.signals.then(|| Signals::new(cancel.clone()));
        let (progress, stuck) = (&mut self.progress, &mut self.stuck);
        if let Some(signals) = &signals {
            signals.look();
        }
        let listens = signals.is_some() || progress.is_some();
        let mut tell = |now| {
            if let Some(signals) = &signals {
                signals.look();
            }
            if let Some(callback) = progress {
                callback(now);
            }
        };
        let mut ring = |helper: &Stuck<'_>| {
            notes.push(helper.to_string());
            if let Some(callback) = stuck {
                callback(helper);
            }
        };
        let live = LiveAllowance::new();
        let watch = Watch {
            cancel: Some(&cancel),
            progress: listens.then_some(&mut tell as _),
            budget: Some(&live),
            jobs: Some(&JOBS),
            alarm: Some(Alarm {
                after: self.stuck_after,
                call: &mut ring,
            }),
        };
        pinning::run(plan, crew, work, watch)
    }

    fn plan<T: Target>(
        &self,
        target: &T,
        regions: &Regions,
        locality: Option<&Locality>,
        cpu: &CpuBudget,
    ) -> Result<Plan, PinError> {
        let mut job = regions.job(target.addressing())?;
        job.min_chunk = self.min_chunk;
        job.max_chunk = self.max_chunk;
        job.max_threads = self.threads;
        job.spread = self.spread;
        if let Some(locality) = locality {
            locality.tell(&mut job);
        }
        let constraints = target
            .constraints(regions)
            .map_err(|fault| PinError::of_fault(fault, regions, target.accounting()))?;
        Ok(Plan::new(&job, &constraints, &CpuAllowance(cpu))?)
    }
}

/// Regions whose addresses rule out large pages.
fn out_of_step(regions: &Regions, addressing: Addressing) -> Vec<String> {
    if addressing == Addressing::Hva {
        return Vec::new();
    }
    regions
        .out_of_step()
        .map(|region| {
            format!(
                "the region at iova {} lies at hva {}, in another place of a page of {}: the IOMMU cannot use such \
                 pages for it",
                region.iova(),
                region.hva(),
                region.page_size()
            )
        })
        .collect()
}

impl Pinner<'static> {
    /// Begins to pin `regions` on a thread of its own, and returns at once: the boot can go on.
    ///
    /// The new thread inherits CPU mask, cgroup, memory policy and nice value of the calling one, whose limits hold
    /// for the job. A [`progress`](Self::progress) callback is called on that thread.
    ///
    /// # Errors
    /// [`PinError`] where no thread can be started; that the job fails is told by [`PinHandle::join`].
    pub fn start<T>(mut self, target: T, regions: &Regions) -> Result<PinHandle<T>, PinError>
    where
        T: Target + Send + 'static,
        T::Session: 'static,
    {
        let cancel = self.cancel.get_or_insert_with(CancelToken::new).clone();
        let latest = Latest::default();
        let told = latest.clone();
        let mut callback = self.progress.take();
        self.progress = Some(Box::new(move |progress| {
            told.set(progress);
            if let Some(callback) = &mut callback {
                callback(progress);
            }
        }));
        let regions = regions.clone();
        let thread = thread::Builder::new()
            .name("parapin-start".to_owned())
            .spawn(move || self.pin(&target, &regions))
            .map_err(|error| PinError::no_thread(&error))?;
        Ok(PinHandle::new(thread, cancel, latest))
    }
}

impl Default for Pinner<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pinner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinner")
            .field("threads", &self.threads)
            .field("nice", &self.nice)
            .field("min_chunk", &self.min_chunk)
            .field("max_chunk", &self.max_chunk)
            .field("huge_pages", &self.huge_pages)
            .field("check", &self.check)
            .field("crew", &self.crew)
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
            .field("placement", &self.placement)
            .field("spread", &self.spread)
            .field("signals", &self.signals)
            .field("stuck_after", &self.stuck_after)
            .field("stuck", &self.stuck.is_some())
            .finish()
    }
}
