// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Jobs under a system call filter as strict as Cloud Hypervisor's: with a crew that was made before it nothing is called
//! that the filter kills for.
//!
//! ```text
//!  child process: Crew, memory, target ─► filter (none, this thread's, all threads') ─► job, undo, unpin ─► exit 0
//! ```
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod machine;
mod steered;

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::process::ExitStatusExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use child::Blocked;
use fakes::{FakeKernel, FakeTarget};
use machine::{alone, cannot_pin, describe, field, may_rise, skip, vm_pin};
use nix::{
    libc::{self, c_long},
    sys::signal::{Signal, kill},
    unistd::getpid,
};
use parapin::{
    Backing, BackingKind, Crew, IoUring, Iova, Mapping, PageSize, Pages, PinError, PinErrorKind,
    PinReport, Pinner, Populate, Region, Regions, Stuck,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter, apply_filter_all_threads,
};
use steered::{Gate, Meeting, Piece, Steered, no_helpers, until};

const MIB: u64 = 1 << 20;
/// Of each job that touches its memory.
const SIZE: u64 = 64 * MIB;
/// Of those that do not.
const LARGE: u64 = 8 << 30;
const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// What Cloud Hypervisor's `vmm` thread may call (vmm/src/seccomp_filters.rs there), beside `ioctl`. Newer versions
/// also let it call `gettid`; this is the stricter list.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    libc::SYS_accept4, libc::SYS_access, libc::SYS_bind, libc::SYS_brk, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_clone, libc::SYS_clone3, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_connect, libc::SYS_dup, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait, libc::SYS_eventfd2, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_fallocate,
    libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_fstat, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_futex,
    libc::SYS_getdents64, libc::SYS_getpgid, libc::SYS_getpgrp, libc::SYS_getpid, libc::SYS_getrandom,
    libc::SYS_gettimeofday, libc::SYS_getuid, libc::SYS_io_cancel, libc::SYS_io_destroy, libc::SYS_io_getevents,
    libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_io_uring_enter, libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register, libc::SYS_kill, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self, libc::SYS_listen, libc::SYS_lseek, libc::SYS_madvise, libc::SYS_mbind,
    libc::SYS_memfd_create, libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_munmap,
    libc::SYS_nanosleep, libc::SYS_newfstatat, libc::SYS_open, libc::SYS_openat, libc::SYS_pipe2, libc::SYS_poll,
    libc::SYS_prctl, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_prlimit64, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_read, libc::SYS_readv, libc::SYS_readlink, libc::SYS_recvfrom, libc::SYS_recvmsg,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_sched_yield,
    libc::SYS_seccomp, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_set_robust_list, libc::SYS_setsid,
    libc::SYS_setsockopt, libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_socket, libc::SYS_socketpair,
    libc::SYS_stat, libc::SYS_statfs, libc::SYS_statx, libc::SYS_tgkill, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_tkill, libc::SYS_umask, libc::SYS_unlink, libc::SYS_wait4, libc::SYS_write,
    libc::SYS_writev,
];

/// `VFIO_IOMMU_MAP_DMA`, `VFIO_IOMMU_UNMAP_DMA`, `IOMMU_IOAS_MAP`, `IOMMU_IOAS_UNMAP`: the ioctls of it that pin and unpin.
const IOCTLS: [u64; 4] = [0x3b71, 0x3b72, 0x3b85, 0x3b86];

/// Not in the list, and near to what a job does with threads and memory.
const FORBIDDEN: [(&str, c_long); 7] = [
    ("setpriority", libc::SYS_setpriority),
    ("getpriority", libc::SYS_getpriority),
    ("sched_setattr", libc::SYS_sched_setattr),
    ("gettid", libc::SYS_gettid),
    ("getcpu", libc::SYS_getcpu),
    ("get_mempolicy", libc::SYS_get_mempolicy),
    ("set_mempolicy", libc::SYS_set_mempolicy),
];

/// Which threads come under the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    /// The one that starts jobs, as in Cloud Hypervisor, and those that it starts from then on.
    Thread,
    /// The crew's threads, too.
    All,
}

impl Filter {
    const EVERY: [Self; 3] = [Self::None, Self::Thread, Self::All];

    fn install(self) {
        self.install_with(&[]);
    }

    /// Installs it with calls that are allowed beside [`ALLOWED`].
    fn install_with(self, also: &[c_long]) {
        let program = program(also);
        match self {
            Self::None => {}
            Self::Thread => apply_filter(&program).unwrap(),
            Self::All => apply_filter_all_threads(&program).unwrap(),
        }
        let mode = fs::read_to_string("/proc/thread-self/status").unwrap();
        let mode = field(&mode, "Seccomp:").unwrap();
        assert!(self == Self::None || mode == "2", "it is under a filter");
    }

    /// How jobs here keep helpers from delaying the caller.
    fn priority(self) -> &'static str {
        match self {
            Self::None if may_rise() => "one-by-one",
            _ => "small-chunks",
        }
    }
}

/// Kills the process for whatever is not listed, which is more than Cloud Hypervisor's does (a signal that it handles).
fn program(also: &[c_long]) -> BpfProgram {
    let one_of = IOCTLS.map(|request| {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request);
        SeccompRule::new(vec![is.unwrap()]).unwrap()
    });
    let rules = ALLOWED
        .iter()
        .chain(also)
        .map(|&call| (call, Vec::new()))
        .chain([(libc::SYS_ioctl, one_of.into())]);
    let filter = SeccompFilter::new(
        rules.collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().unwrap(),
    );
    filter.unwrap().try_into().unwrap()
}

/// A job in the child: makes what it needs, installs the filter, works, and says what came of it.
type Job = fn(Filter) -> String;

/// The name of each job, whether it pins, and what it says of itself behind its [`Filter::priority`].
const JOBS: [(&str, Job, bool, &str); 9] = [
    ("populate", populate, false, "1 helper, 2 at work, stuck"),
    ("pin", pin, true, "1 helper, 2 at work, stuck"),
    ("hole", hole, true, "1 helper, bad-address, undone"),
    ("part", part, false, "1 helper, 2 at work, stuck"),
    ("limits", limits, false, "out of memory"),
    ("signal", signal, true, "1 helper, cancelled, undone"),
    ("start", start, true, "1 helper, 2 at work, stuck"),
    ("guard", guard, true, "unpinned"),
    ("unpin", unpin, false, "2 threads"),
];

/// What is done in a process of its own, for the tests below.
#[test]
fn filtered_child() {
    let Some(part) = child::part() else {
        return;
    };
    child::end_at_panic();
    let (filter, name) = part.split_once(' ').unwrap();
    let filter = Filter::EVERY
        .into_iter()
        .find(|known| format!("{known:?}") == filter)
        .unwrap();
    if let Some((_, number)) = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
        call_beside_and_here(filter, *number);
    }
    let (_, job, _, _) = JOBS.iter().find(|(known, ..)| *known == name).unwrap();
    let said = job(filter);
    child::tell(&said);
}

/// Memory of `SIZE` bytes.
fn memory() -> Regions {
    let mapping = Arc::new(Mapping::anonymous(SIZE, Pages::Small).unwrap());
    Regions::new([Region::of_mapping(mapping, Iova(0)).unwrap()]).unwrap()
}

fn in_small_chunks<'a>() -> Pinner<'a> {
    Pinner::new()
        .threads(TWO)
        .min_chunk(MIB)
        .max_chunk(MIB)
        .cancel_on_signals(true)
}

/// What a job calls back, and has its threads wait for.
#[derive(Debug, Default)]
struct Told {
    /// Both workers have a piece.
    meeting: Meeting,
    /// The helper was found to be stuck.
    stuck: Gate,
    /// Bytes done as of the last report.
    done: AtomicU64,
}

impl Told {
    /// The helper is at its first piece until somebody notices.
    fn step(self: &Arc<Self>) -> impl Fn(Piece) + Send + Sync + 'static {
        let told = Arc::clone(self);
        move |piece| {
            told.meeting.come(piece.worker);
            if piece.worker == 1 {
                told.stuck.pass();
            }
        }
    }

    /// Asks for everything that can be asked for.
    fn pinner(self: &Arc<Self>, crew: &Arc<Crew>) -> Pinner<'static> {
        let (progress, stuck) = (Arc::clone(self), Arc::clone(self));
        in_small_chunks()
            .crew(Arc::clone(crew))
            // Relaxed: read after the job, on the thread that is told.
            .progress(move |now| progress.done.store(now.done, Ordering::Relaxed))
            .stuck(Duration::from_millis(1), move |helper: &Stuck<'_>| {
                assert!(helper.at.is_some() && helper.thread != 0, "{helper}");
                assert!(helper.state.is_some(), "{helper}");
                stuck.stuck.open();
            })
    }

    /// What it says of itself, after a whole job.
    fn summary(&self, report: &PinReport) -> String {
        assert_eq!(self.done.load(Ordering::Relaxed), SIZE, "the last report");
        assert_eq!(report.job.bytes, SIZE);
        let at_work = report.job.workers.iter().filter(|worker| worker.bytes > 0);
        let stuck = report.notes.iter().any(|note| note.contains("parapin-1"));
        format!(
            "{}: {} helper, {} at work{}",
            report.job.priority.name(),
            report.job.helpers_started,
            at_work.count(),
            if stuck { ", stuck" } else { "" }
        )
    }
}

/// One helper, made before the filter.
fn crew() -> Arc<Crew> {
    let crew = Arc::new(Crew::new(1, 19));
    assert_eq!(crew.helpers(), 1);
    crew
}

fn populate(filter: Filter) -> String {
    let (crew, told, memory) = (crew(), Arc::new(Told::default()), memory());
    let target = Steered::new(Populate::default(), told.step());
    filter.install();
    assert_eq!(helper_is_filtered(), filter == Filter::All);
    let populated = told.pinner(&crew).pin(&target, &memory).unwrap();
    told.summary(populated.report())
}

/// Whether the crew's thread is under a filter.
fn helper_is_filtered() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    let of_helper = statuses
        .map(Result::unwrap)
        .find(|status| field(status, "Name:").as_deref() == Some("parapin-1"));
    field(&of_helper.unwrap(), "Seccomp:").as_deref() == Some("2")
}

fn pin(filter: Filter) -> String {
    let (crew, told, memory) = (crew(), Arc::new(Told::default()), memory());
    let target = Steered::new(IoUring, told.step());
    filter.install();
    let before = vm_pin();
    let pinned = told.pinner(&crew).pin(&target, &memory).unwrap();
    assert_eq!(vm_pin() - before, SIZE);
    let said = told.summary(pinned.report());
    assert_eq!(pinned.unpin().unwrap().bytes, SIZE);
    assert_eq!(vm_pin(), before);
    said
}

/// Under what the newest Cloud Hypervisor allows: a thread that is started by a recent standard library of Rust asks for
/// its own id, in case its stack overflows.
fn start(filter: Filter) -> String {
    let (crew, told, memory) = (crew(), Arc::new(Told::default()), memory());
    let target = Steered::new(IoUring, told.step());
    filter.install_with(&[libc::SYS_gettid]);
    let before = vm_pin();
    let handle = told.pinner(&crew).start(target, &memory).unwrap();
    let pinned = handle.join().unwrap();
    assert_eq!(vm_pin() - before, SIZE);
    let said = told.summary(pinned.report());
    drop(pinned);
    assert_eq!(vm_pin(), before);
    said
}

/// What is said of a job that failed, of which nothing may be left.
fn undone(error: &PinError, before: u64) -> String {
    assert_eq!(vm_pin(), before, "{error}");
    assert!(error.left_pinned().is_empty(), "{error}");
    let report = error.report().unwrap();
    format!(
        "{}: {} helper, {}{}",
        report.job.priority.name(),
        report.job.helpers_started,
        error.kind().name(),
        if error.chunks_undone() > 0 {
            ", undone"
        } else {
            ""
        }
    )
}

/// The second region is mapped nowhere, and nobody looks before it is too late.
fn hole(filter: Filter) -> String {
    let crew = crew();
    let backing = Backing {
        kind: BackingKind::Anonymous,
        page_size: PageSize::SIZE_4K,
        shared: false,
    };
    // Addresses that the kernel never maps; nothing is dereferenced.
    let nowhere = 0x7000_0000_0000_0000;
    #[expect(unsafe_code, reason = "builds a region that must be refused")]
    // SAFETY: the contract is broken on purpose in a way that cannot do harm: no mapping can exist there, and the
    // kernel refuses the address.
    let region =
        unsafe { Region::new(Iova(SIZE), std::ptr::without_provenance_mut(nowhere), MIB) }.unwrap();
    let good = memory();
    let regions = good.iter().cloned().chain([region]);
    let regions = Regions::new(regions.map(|region| region.with_backing(backing))).unwrap();
    let before = vm_pin();
    let step = move |piece: Piece| {
        if piece.start >= nowhere as u64 {
            until("something is pinned", || vm_pin() > before);
        }
    };
    let target = Steered::new(IoUring, step);
    filter.install();
    let error = in_small_chunks()
        .crew(crew)
        .check(false)
        .pin(&target, &regions)
        .unwrap_err();
    undone(&error, before)
}

/// The region is a part of a mapping of which something is resident already, so that the memory check has to count pages.
fn part(filter: Filter) -> String {
    let (crew, told) = (crew(), Arc::new(Told::default()));
    let whole = Arc::new(Mapping::anonymous(2 * SIZE, Pages::Small).unwrap());
    whole.fill(0, SIZE / 2, 1);
    let mapped = Region::of_mapping(Arc::clone(&whole), Iova(0)).unwrap();
    let start = std::ptr::with_exposed_provenance_mut(usize::try_from(mapped.hva().0).unwrap());
    #[expect(unsafe_code, reason = "there is no safe way to a part of a mapping")]
    // SAFETY: a region over all of the mapping, which it owns, has just been made by a safe function: nothing that
    // must keep its value is in it, and no reference to it exists. So does this one own it.
    let region = unsafe { Region::new(Iova(0), start, SIZE) };
    let region = region.unwrap().owned_by(whole);
    let regions = Regions::new([region]).unwrap();
    let target = Steered::new(Populate::default(), told.step());
    filter.install();
    let populated = told.pinner(&crew).pin(&target, &regions).unwrap();
    told.summary(populated.report())
}

/// More memory than there is: nothing begins.
fn limits(filter: Filter) -> String {
    let crew = crew();
    let available = parapin::MemoryBudget::current().available().unwrap();
    let half = (available / 2 + (1 << 30)).next_multiple_of(4096);
    let regions = [0, 1 << 45].map(|iova| {
        let mapping = Arc::new(Mapping::anonymous(half, Pages::Small).unwrap());
        Region::of_mapping(mapping, Iova(iova)).unwrap()
    });
    let regions = Regions::new(regions).unwrap();
    filter.install();
    let error = in_small_chunks()
        .crew(crew)
        .pin(&Populate::default(), &regions)
        .unwrap_err();
    let kinds = [PinErrorKind::OutOfMemory, PinErrorKind::Memcg];
    assert!(kinds.contains(&error.kind()), "{error}");
    format!("{}: out of memory", filter.priority())
}

/// A termination signal, which this process has blocked, comes in the middle.
fn signal(filter: Filter) -> String {
    let (crew, memory) = (crew(), memory());
    let (meeting, raised) = (Meeting::default(), Arc::new(Gate::default()));
    let step = {
        let raised = Arc::clone(&raised);
        move |piece: Piece| {
            meeting.come(piece.worker);
            if piece.worker == 1 {
                raised.pass();
            }
            // The caller looks every tenth of a second, and so both have to be at work for longer.
            thread::sleep(Duration::from_millis(10));
        }
    };
    let target = Steered::new(IoUring, step);
    let before = vm_pin();
    filter.install();
    let error = in_small_chunks()
        .crew(crew)
        .progress(|_| {
            if !raised.is_open() {
                kill(getpid(), Signal::SIGTERM).unwrap();
                raised.open();
            }
        })
        .pin(&target, &memory)
        .unwrap_err();
    undone(&error, before)
}

/// Memory that was pinned before the filter, without a crew that could be kept.
fn guard(filter: Filter) -> String {
    let (before, kernel) = (vm_pin(), Arc::new(FakeKernel::new()));
    let meeting = Meeting::default();
    let target = Steered::new(IoUring, move |piece: Piece| meeting.come(piece.worker));
    let small = in_small_chunks().pin(&target, &memory()).unwrap();
    let mut pinner = Pinner::new().threads(TWO).check(false);
    let large = pinner.pin(&FakeTarget::new(&kernel), &large_memory());
    assert_eq!(vm_pin() - before, SIZE);
    filter.install();
    drop(small);
    assert_eq!(vm_pin(), before);
    let unpinned = large.unwrap().unpin().unwrap();
    assert_eq!((unpinned.bytes, kernel.held()), (LARGE, Vec::new()));
    // Helpers are started for it only where nothing has changed since it was pinned.
    let threads = if filter == Filter::None { 2 } else { 1 };
    assert_eq!(unpinned.threads, threads);
    format!("{}: unpinned", filter.priority())
}

/// As much as is worth a helper even when it is taken back.
fn unpin(filter: Filter) -> String {
    let (crew, memory, kernel) = (crew(), large_memory(), Arc::new(FakeKernel::new()));
    filter.install();
    let mut pinner = Pinner::new().threads(TWO).check(false).crew(crew);
    let pinned = pinner.pin(&FakeTarget::new(&kernel), &memory).unwrap();
    let unpinned = pinned.unpin().unwrap();
    assert_eq!((unpinned.bytes, kernel.held()), (LARGE, Vec::new()));
    format!("{}: {} threads", filter.priority(), unpinned.threads)
}

/// Memory of `LARGE` bytes, of which nothing is ever there.
fn large_memory() -> Regions {
    let regions = (0..LARGE).step_by(1 << 30).map(|iova| {
        let mapping = Arc::new(Mapping::anonymous(1 << 30, Pages::Small).unwrap());
        Region::of_mapping(mapping, Iova(iova)).unwrap()
    });
    Regions::new(regions).unwrap()
}

const BESIDE: &str = "the other thread may call it";

/// Has a thread that was there before the filter make a call, and then the filtered one.
fn call_beside_and_here(filter: Filter, number: c_long) -> ! {
    let (now, done) = (Gate::default(), Gate::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            now.pass();
            call(number);
            done.open();
        });
        filter.install();
        now.open();
        done.pass();
        child::note(BESIDE);
        call(number);
    });
    child::tell("alive");
}

/// Without arguments that any of these would do something with.
fn call(number: c_long) {
    #[expect(unsafe_code, reason = "makes a call for which there is no function")]
    // SAFETY: none of these calls gets an address that it could write to, nor a thread other than this one.
    let _refused = unsafe { libc::syscall(number, -1_i64, -1_i64, 0_i64, 0_i64, 0_i64) };
}

/// Whether this kernel has no filters; says so. (One before Linux 5.9 does not say how many there are.)
fn no_filters() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let none = field(&status, "Seccomp_filters:").is_none();
    if none {
        skip("the kernel has no system call filters");
    }
    none
}

/// Runs all jobs under this filter, each in a process of its own.
fn every_job(filter: Filter) {
    let _alone = alone();
    if no_filters() || no_helpers() {
        return;
    }
    let _blocked = Blocked::new(&[Signal::SIGTERM]);
    let may_pin = !cannot_pin(2 * SIZE);
    for (name, _, pins, says) in JOBS {
        if may_pin || !pins {
            let expected = format!("{}: {says}", filter.priority());
            let said = child::answer("filtered_child", &format!("{filter:?} {name}"));
            assert_eq!(said, expected, "{name}, {filter:?}");
        }
    }
}

#[test]
fn without_a_filter_helpers_are_raised() {
    every_job(Filter::None);
}

#[test]
fn the_calling_thread_may_come_under_a_filter() {
    every_job(Filter::Thread);
}

#[test]
fn the_crew_may_come_under_it_too() {
    every_job(Filter::All);
}

/// Otherwise the tests above prove nothing.
#[test]
fn the_filter_kills() {
    let _alone = alone();
    if no_filters() {
        return;
    }
    for (name, _) in FORBIDDEN {
        for (filter, beside_is_free) in [(Filter::Thread, true), (Filter::All, false)] {
            let output = child::run("filtered_child", &format!("{filter:?} {name}"));
            let case = format!("{name}, {filter:?}: {}", describe(&output));
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{case}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.contains(BESIDE), beside_is_free, "{case}");
        }
        let said = child::answer("filtered_child", &format!("{:?} {name}", Filter::None));
        assert_eq!(said, "alive", "{name}");
    }
}
