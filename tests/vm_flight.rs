// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Limits change while a job runs: helpers retire, come back and move, and what is pinned is exact all the same.
//!
//! ```text
//!  progress, call 1   3            5                          7
//!        the change   those       nobody else has begun a     all work
//!        is made      too many    piece; changed back         again
//!                     rest
//! ```
//!
//! Progress is told on the calling thread, and the limits are looked at there too: at the second call after a change the
//! job has seen it, however slow the machine is. Pieces take their time, so that no job is over before its last call.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
#[expect(dead_code, reason = "other tests look at more of a group")]
mod groups;
mod machine;
mod nodes;
mod watched;

use std::{
    fs,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use cgroup::CpuSet;
use edu::{Edu, Via};
use groups::{Group, Version::V2};
use machine::{alone, assert_foll_pinned, foll_pinned, vm::in_vm, vm_pin};
use nodes::{Kind, Memory, Policy, cpus_of, mask, masks_of_helpers, run_on};
use parapin::{
    CancelToken, Crew, IoUring, NICEST, PinErrorKind, PinReport, Pinned, Pinner, Populate,
    Progress, Regions, Target,
};
use watched::{Journal, Piece};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Of a job in which things change: more pieces than four threads do until its last step.
const SIZE: u64 = 512 * MIB;
/// The emulated machine has soon cleared it.
const QUICK: Kind = Kind::Transparent;
/// Pieces of helpers for each call: with at most six of the caller's own, the last step comes before the end.
const LEAD: usize = 16;
/// Of a job that ends early: more pieces than until the fourth call.
const SHORT: u64 = 160 * MIB;
/// Its last page.
const LAST: u64 = SHORT - 4096;
const SHORT_LEAD: usize = 8;
/// Of one of several jobs.
const EACH: u64 = 64 * MIB;
/// What a piece has beside the time that it takes.
const PAUSE: Duration = Duration::from_millis(20);

/// A change of the limits, and its opposite.
struct Change<'c> {
    what: &'static str,
    /// The CPUs that the caller has before and after it, and in between.
    all: CpuSet,
    left: CpuSet,
    /// How many threads may work in between.
    threads: usize,
    now: Box<dyn Fn() + Send + Sync + 'c>,
    back: Box<dyn Fn() + Send + Sync + 'c>,
}

impl<'c> Change<'c> {
    /// One that leaves as many threads as CPUs.
    fn of_cpus(
        what: &'static str,
        [all, left]: [&str; 2],
        now: impl Fn() + Send + Sync + 'c,
        back: impl Fn() + Send + Sync + 'c,
    ) -> Self {
        let [all, left] = [all, left].map(cpus);
        Self {
            what,
            threads: left.count(),
            all,
            left,
            now: Box::new(now),
            back: Box::new(back),
        }
    }

    /// The caller narrows its own mask, and takes it back.
    fn of_mask(all: &'static str, left: &'static str) -> Self {
        let now = move || run_on(&cpus(left));
        Self::of_cpus("mask", [all, left], now, move || run_on(&cpus(all)))
    }

    fn of_cpuset(group: &'c Group, left: &'static str) -> Self {
        let now = move || group.set_cpus(left);
        Self::of_cpus("cpuset", ["0-3", left], now, || group.set_cpus("0-3"))
    }

    fn of_quota(group: &'c Group, percent: u64) -> Self {
        let now = move || group.set_quota(percent);
        Self {
            threads: usize::try_from(percent / 100).unwrap(),
            ..Self::of_cpus("quota", ["0-3", "0-3"], now, || group.set_quota(400))
        }
    }

    fn of_hotplug(all: &'static str, left: &'static str) -> Self {
        let (now, back) = (|| set_online(3, false), || set_online(3, true));
        Self::of_cpus("offline", [all, left], now, back)
    }

    /// All CPUs of node 1.
    fn of_node() -> Self {
        let (now, back) = (|| set_node_1_online(false), || set_node_1_online(true));
        Self::of_cpus("node", ["0-3", "0-1"], now, back)
    }
}

/// What a worker at home on `node` may use of `cpus`.
fn near(node: Option<u32>, cpus: &CpuSet, nodes: &[CpuSet; 2]) -> CpuSet {
    let near = node.map(|node| nodes[node as usize].intersect(cpus));
    near.filter(|near| !near.is_empty())
        .unwrap_or_else(|| cpus.clone())
}

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn set_online(cpu: u32, online: bool) {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    fs::write(file, if online { "1" } else { "0" }).unwrap();
}

fn set_node_1_online(online: bool) {
    for cpu in [2, 3] {
        set_online(cpu, online);
    }
}

/// Whatever has happened to another test, and happens to this one: it finds all CPUs, and leaves them.
struct AllOnline;

impl AllOnline {
    fn new() -> Self {
        set_node_1_online(true);
        Self
    }
}

impl Drop for AllOnline {
    fn drop(&mut self) {
        set_node_1_online(true);
    }
}

/// Memory of the whole size, and how the pages of it are to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// In turn on both nodes: no helper has a home.
    Interleaved,
    /// One region on each node.
    OnEachNode,
    /// All of it on node 1.
    OnNode1,
}

impl Guest {
    fn make(self, kind: Kind, size: u64) -> (Vec<Arc<Memory>>, Regions) {
        let policies = match self {
            Self::Interleaved => &[Policy::Interleave][..],
            Self::OnEachNode => &[Policy::Bind(0), Policy::Bind(1)],
            Self::OnNode1 => &[Policy::Bind(1)],
        };
        let memory: Vec<_> = policies
            .iter()
            .map(|&policy| {
                let memory = Memory::new(kind, size / policies.len() as u64);
                memory.bind(policy);
                memory
            })
            .collect();
        let iovas = (1..).map(|index| index * GIB);
        let regions = memory.iter().zip(iovas);
        let regions = Regions::new(regions.map(|(memory, iova)| memory.region(iova))).unwrap();
        (memory, regions)
    }

    /// All pages are there, where they belong.
    fn assert_there(self, memory: &[Arc<Memory>], size: u64, what: &str) {
        let all = size / 4096;
        let pages: Vec<_> = memory.iter().map(|memory| memory.pages()).collect();
        let expected = match self {
            Self::Interleaved => vec![[all / 2, all / 2]],
            Self::OnEachNode => vec![[all / 2, 0], [0, all / 2]],
            Self::OnNode1 => vec![[0, all]],
        };
        assert_eq!(pages, expected, "{what}");
    }
}

fn pinner() -> Pinner<'static> {
    Pinner::new().min_chunk(2 * MIB).max_chunk(2 * MIB)
}

/// Takes the steps of a test at the calls of a progress callback; the last call, when all is done, is none of them.
fn at_calls<'a>(
    journal: &'a Journal,
    mut step: impl FnMut(usize) + Send + 'a,
) -> impl FnMut(Progress) + Send + 'a {
    move |progress| {
        let call = journal.call();
        if progress.done < progress.total {
            step(call);
        }
    }
}

/// What was seen while a job ran.
#[derive(Debug, Default)]
struct Seen {
    /// Pieces that were begun when the change had been seen, and two calls later.
    begun: [[usize; 4]; 2],
    /// Masks of helpers: before, in between, afterwards.
    masks: [Vec<CpuSet>; 3],
    /// Whether the job came to its last step.
    done: bool,
}

/// Runs a job under which `change` is made and taken back, and looks at who works when.
fn job_under<T: Target>(
    target: T,
    guest: Guest,
    change: &Change<'_>,
    crew: Option<&Arc<Crew>>,
    held: impl FnOnce(),
) {
    let what = format!("{} {guest:?} {}", change.what, target.name());
    // A mask of a thread's own outlives a change of the cpuset; both kinds of thread are looked at.
    if mask() != change.all {
        run_on(&change.all);
    }
    let nodes = [0, 1].map(cpus_of);
    let (memory, regions) = guest.make(QUICK, SIZE);
    let workers = change.all.count();
    let journal = Journal::in_step(workers, PAUSE, LEAD);
    let mut seen = Seen::default();
    let mut pinner = pinner().progress(at_calls(&journal, |call| {
        step(call, change, &journal, &mut seen);
    }));
    if let Some(crew) = crew {
        pinner = pinner.crew(Arc::clone(crew));
    }
    let pinned = pinner.pin(&journal.watch(target), &regions).unwrap();
    held();
    drop(pinner);
    assert!(seen.done, "{what}: {seen:?}");
    let report = pinned.report().clone();
    drop(pinned);
    guest.assert_there(&memory, SIZE, &what);
    assert_eq!(mask(), change.all, "{what}");
    assert_obeyed(&what, change, (&report, &nodes), &seen, &journal.pieces());
}

fn step(call: usize, change: &Change<'_>, journal: &Journal, seen: &mut Seen) {
    match call {
        1 => {
            seen.masks[0] = masks_of_helpers();
            (change.now)();
        }
        3 => {
            assert_eq!(mask(), change.left, "{}", change.what);
            journal.wait_until_others_rest(change.threads);
            seen.begun[0] = journal.begun();
            seen.masks[1] = masks_of_helpers();
        }
        5 => {
            let mut before = seen.begun[0];
            // The caller is here, and was at work in between.
            assert!(journal.begun()[0] > before[0]);
            before[0] = 0;
            journal.wait_for_work_of(change.threads, before);
            seen.begun[1] = journal.begun();
            (change.back)();
        }
        7 => {
            seen.masks[2] = masks_of_helpers();
            let mut before = journal.begun();
            before[0] = 0;
            journal.wait_for_work_of(change.all.count(), before);
            journal.hurry();
            seen.done = true;
        }
        _ => {}
    }
}

/// The job was done by as many threads as were allowed, on the CPUs that were allowed, at each time.
fn assert_obeyed(
    what: &str,
    change: &Change<'_>,
    (report, nodes): (&PinReport, &[CpuSet; 2]),
    seen: &Seen,
    pieces: &[Piece],
) {
    let job = &report.job;
    assert_eq!(job.bytes, SIZE, "{what}");
    let threads = (job.threads, job.fewest_threads);
    assert_eq!(threads, (change.all.count(), change.threads), "{what}");
    assert!(report.notes.is_empty(), "{what}: {:?}", report.notes);

    let [before, after] = seen.begun;
    for worker in change.threads..4 {
        // One that had been allowed a piece and had not yet begun it.
        let more = after[worker] - before[worker];
        assert!(more <= 1, "{what}: {worker} of {seen:?}");
    }
    let home = |worker: usize| job.workers[worker].node;
    let [before, after] = [before, after].map(|begun| begun.iter().sum::<usize>());
    for piece in &pieces[before..after] {
        if piece.worker > 0 {
            let allowed = near(home(piece.worker), &change.left, nodes);
            assert_eq!(piece.mask, allowed, "{what}: {piece:?}");
        }
    }
    let masks_at = |cpus: &CpuSet| {
        let own = |worker| near(home(worker), cpus, nodes);
        let mut masks: Vec<_> = (1..job.workers.len()).map(own).collect();
        masks.sort_by_key(ToString::to_string);
        masks
    };
    for (cpus, masks) in [&change.all, &change.left, &change.all]
        .into_iter()
        .zip(&seen.masks)
    {
        let mut masks = masks.clone();
        masks.sort_by_key(ToString::to_string);
        assert_eq!(masks, masks_at(cpus), "{what}: {:?}", seen.masks);
    }
}

/// The same through both targets that need no device.
fn jobs_under(guest: Guest, change: &Change<'_>, crew: Option<&Arc<Crew>>) {
    job_under(Populate::default(), guest, change, crew, || ());
    let before = vm_pin();
    let all_pinned = || assert_eq!(vm_pin() - before, SIZE, "{}", change.what);
    job_under(IoUring, guest, change, crew, all_pinned);
    assert_eq!(vm_pin(), before, "{}", change.what);
}

#[test]
fn a_lower_quota_retires_helpers_and_a_higher_one_brings_them_back() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let group = Group::new(V2, "flight");
    group.set_quota(400);
    let visit = group.enter();
    jobs_under(Guest::Interleaved, &Change::of_quota(&group, 100), None);
    jobs_under(Guest::OnEachNode, &Change::of_quota(&group, 200), None);
    drop(visit);
}

#[test]
fn helpers_follow_the_callers_mask() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    jobs_under(Guest::Interleaved, &Change::of_mask("0-3", "1,3"), None);
    jobs_under(Guest::OnEachNode, &Change::of_mask("0-3", "1-3"), None);
    // None of the memory's node.
    jobs_under(Guest::OnNode1, &Change::of_mask("0,2-3", "0"), None);
}

#[test]
fn helpers_follow_the_cpuset() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let group = Group::new(V2, "flight");
    group.set_cpus("0-3");
    let visit = group.enter();
    jobs_under(Guest::Interleaved, &Change::of_cpuset(&group, "2"), None);
    jobs_under(Guest::OnEachNode, &Change::of_cpuset(&group, "0-2"), None);
    // The caller's own mask is to have none of it: then it counts for nothing, until it can.
    let mut other = Change::of_cpuset(&group, "2-3");
    other.all = cpus("0-1");
    jobs_under(Guest::OnEachNode, &other, None);
    drop(visit);
}

#[test]
fn a_cpu_may_go_and_come_back() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    jobs_under(Guest::Interleaved, &Change::of_hotplug("0-3", "0-2"), None);
    // Helpers are at home on its node, which keeps a CPU, or loses its last one.
    jobs_under(Guest::OnEachNode, &Change::of_hotplug("0,2-3", "0,2"), None);
    jobs_under(Guest::OnEachNode, &Change::of_hotplug("0-1,3", "0-1"), None);
}

/// Helpers at home on it go to the other one; and a job that begins meanwhile knows no CPU near its memory.
#[test]
fn a_node_may_lose_all_its_cpus() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    jobs_under(Guest::OnEachNode, &Change::of_node(), None);
    let change = Change::of_node();
    (change.now)();
    let (memory, regions) = Guest::OnNode1.make(QUICK, EACH);
    let journal = Journal::new(2, Duration::ZERO);
    let pinned = pinner().pin(&journal.watch(IoUring), &regions).unwrap();
    let job = &pinned.report().job;
    assert_eq!(job.threads, 2);
    assert!(job.workers.iter().all(|worker| worker.node.is_none()));
    let masks = journal.pieces();
    assert!(masks.iter().all(|piece| piece.mask == change.left));
    assert!(pinned.report().notes.is_empty(), "{:?}", pinned.report());
    Guest::OnNode1.assert_there(&memory, EACH, "without CPUs");
    (change.back)();
}

#[test]
fn a_kept_crew_is_whole_after_each_change() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let crew = Arc::new(Crew::new(3, NICEST));
    for change in [
        Change::of_mask("0-3", "2"),
        Change::of_hotplug("0-3", "0-2"),
    ] {
        jobs_under(Guest::OnEachNode, &change, Some(&crew));
        let (memory, regions) = Guest::Interleaved.make(QUICK, SIZE / 8);
        let journal = Journal::new(4, Duration::ZERO);
        let mut pinner = pinner().crew(Arc::clone(&crew));
        let report = pinner.pin(&journal.watch(IoUring), &regions).unwrap();
        assert_eq!(report.report().job.fewest_threads, 4);
        assert!(
            journal
                .pieces()
                .iter()
                .all(|piece| piece.mask == cpus("0-3"))
        );
        Guest::Interleaved.assert_there(&memory, SIZE / 8, change.what);
    }
}

/// How a job ends, after the limits have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its token is raised.
    Cancelled,
    /// Its last page cannot be had, or something else is mapped there.
    Fails,
}

/// A job that ends before it is done, for what `fails` does when the limits change; all of it must be undone.
fn job_that_ends<T: Target>(
    target: T,
    (end, kind): (End, PinErrorKind),
    change: &Change<'_>,
    fails: impl Fn(&Memory) + Send + Sync,
) -> (u64, u64) {
    let what = format!("{} {end:?} {}", change.what, target.name());
    run_on(&change.all);
    let (memory, regions) = Guest::Interleaved.make(QUICK, SHORT);
    let journal = Journal::in_step(change.all.count(), PAUSE, SHORT_LEAD);
    let token = CancelToken::new();
    let cancel = token.clone();
    let mut pinner =
        pinner()
            .cancel(token)
            .progress(at_calls(&journal, |call| match (call, end) {
                (1, End::Cancelled) => (change.now)(),
                (1, End::Fails) => {
                    fails(&memory[0]);
                    (change.now)();
                }
                (3, End::Cancelled) => cancel.cancel(),
                _ => {}
            }));
    let on_machine = foll_pinned();
    let outcome = pinner.pin(&journal.watch(target), &regions);
    let error = outcome.err().unwrap();
    (change.back)();
    let kind = match end {
        End::Cancelled => PinErrorKind::Cancelled,
        End::Fails => kind,
    };
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert!(error.left_pinned().is_empty(), "{what}: {error}");
    assert!(error.chunks_undone() > 0, "{what}: {error}");
    let job = &error.report().unwrap().job;
    let threads = (job.threads, job.fewest_threads);
    assert_eq!(threads, (change.all.count(), change.threads), "{what}");
    assert_foll_pinned(on_machine);
    journal.done_and_undone()
}

/// Jobs through io_uring and for a device, cancelled and failing.
fn jobs_that_end(change: &Change<'_>) {
    for end in [End::Cancelled, End::Fails] {
        let before = vm_pin();
        let forbid = |memory: &Memory| memory.forbid(LAST);
        let how = (end, PinErrorKind::BadAddress);
        let (done, undone) = job_that_ends(IoUring, how, change, forbid);
        assert_eq!(done, undone, "{} {end:?}", change.what);
        assert_eq!(vm_pin(), before);
        for via in Via::BOTH {
            let edu = Edu::open(via);
            let other = (end == End::Fails).then(|| {
                let region = Memory::new(Kind::Small, 4096).region(GIB + LAST);
                let regions = Regions::new([region]).unwrap();
                Pinner::new().pin(&edu.target(), &regions).unwrap()
            });
            let before = via.counter();
            // Nobody can take access from what may be touched from user mode.
            job_that_ends(edu.target(), (end, PinErrorKind::Overlap), change, |_| ());
            drop(other);
            let before = before - 4096 * u64::from(end == End::Fails);
            assert_eq!(via.counter(), before, "{} {end:?} {via:?}", change.what);
        }
    }
}

#[test]
fn a_job_that_ends_after_a_lower_quota_is_undone() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let group = Group::new(V2, "flight");
    group.set_quota(400);
    let visit = group.enter();
    jobs_that_end(&Change::of_quota(&group, 100));
    drop(visit);
}

#[test]
fn a_job_that_ends_after_a_narrower_mask_is_undone() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    jobs_that_end(&Change::of_mask("0-3", "3"));
}

#[test]
fn a_job_that_ends_after_a_narrower_cpuset_is_undone() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let group = Group::new(V2, "flight");
    group.set_cpus("0-3");
    let visit = group.enter();
    jobs_that_end(&Change::of_cpuset(&group, "0-1"));
    drop(visit);
}

#[test]
fn a_job_that_ends_after_a_cpu_went_is_undone() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    jobs_that_end(&Change::of_hotplug("0-3", "0-2"));
}

const JOBS: usize = 8;
/// What four CPUs allow.
const BUDGET: usize = 4;

#[test]
fn eight_jobs_at_once() {
    at_once(false);
}

#[test]
fn eight_jobs_at_once_with_one_crew() {
    at_once(true);
}

/// What keeps pins of either target.
enum Held {
    Populated(Pinned<watched::Watched<Populate>>),
    Pinned(Pinned<watched::Watched<IoUring>>),
}

/// Half of them only fault in. One crew helps one of them at a time.
fn at_once(with_one_crew: bool) {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _all = AllOnline::new();
    let crew = with_one_crew.then(|| Arc::new(Crew::new(BUDGET - 1, NICEST)));
    let before = vm_pin();
    let journal = Journal::new(1, Duration::from_millis(5));
    let guests: Vec<_> = (0..JOBS)
        .map(|_| Guest::Interleaved.make(Kind::Small, EACH))
        .collect();
    let together = Barrier::new(JOBS);
    let job = |index: usize, regions: &Regions| {
        let mut pinner = pinner();
        if let Some(crew) = &crew {
            pinner = pinner.crew(Arc::clone(crew));
        }
        together.wait();
        if index % 2 == 0 {
            let target = journal.watch(Populate::default());
            Held::Populated(pinner.pin(&target, regions).unwrap())
        } else {
            Held::Pinned(pinner.pin(&journal.watch(IoUring), regions).unwrap())
        }
    };
    let held: Vec<_> = thread::scope(|scope| {
        let jobs = guests.iter().enumerate();
        let jobs: Vec<_> = jobs
            .map(|(index, (_, regions))| scope.spawn(move || job(index, regions)))
            .collect();
        jobs.into_iter().map(|job| job.join().unwrap()).collect()
    });
    assert_eq!(vm_pin() - before, EACH * JOBS as u64 / 2);
    for (held, (memory, _)) in held.iter().zip(&guests) {
        let report = match held {
            Held::Populated(pinned) => pinned.report(),
            Held::Pinned(pinned) => pinned.report(),
        };
        assert_eq!(report.job.bytes, EACH);
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert!((1..=BUDGET).contains(&report.job.threads));
        Guest::Interleaved.assert_there(memory, EACH, "of eight");
    }
    // The first one may have all CPUs until it looks again, and each other one has its caller.
    let most = journal.most_at_work();
    assert!(most < BUDGET + JOBS, "{most} at once");
    drop(held);
    assert_eq!(vm_pin(), before);
    let (done, _) = journal.done_and_undone();
    assert_eq!(done, EACH * JOBS as u64);
}
