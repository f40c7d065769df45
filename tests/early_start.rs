// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `Pinner::start` gives what `Pinner::pin` gives, later: while the job runs the caller goes on.
//!
//! ```text
//!  caller  start ──► goes on ──► opens a gate ──► is_finished, progress ──► join
//!  job        └─► waits for the gate at its first piece ─► …          ────────┘
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;
mod steered;

use std::{
    fs,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use machine::{alone, cannot_pin, field, vm_pin};
use parapin::{
    Backing, BackingKind, CancelToken, IoUring, Iova, Mapping, PageSize, Pages, PinError,
    PinErrorKind, PinHandle, PinReport, Pinned, Pinner, Placed, Region, Regions, Target,
};
use steered::{Gate, Meeting, Piece, Steered, no_helpers, until};

const MIB: u64 = 1 << 20;
/// Of the two regions of each job.
const SIZES: [u64; 2] = [16 * MIB, 24 * MIB];
const SIZE: u64 = SIZES[0] + SIZES[1];
/// Where they are for a device.
const IOVAS: [u64; 2] = [0, 1 << 32];

fn memory() -> Regions {
    let regions = SIZES.into_iter().zip(IOVAS).map(|(size, iova)| {
        let mapping = Arc::new(Mapping::anonymous(size, Pages::Small).unwrap());
        Region::of_mapping(mapping, Iova(iova)).unwrap()
    });
    Regions::new(regions).unwrap()
}

/// The same, with a third region that is mapped nowhere, which nobody looks at before it is too late.
fn with_a_hole() -> Regions {
    // Addresses that the kernel never maps; nothing is dereferenced.
    let nowhere = std::ptr::without_provenance_mut(NOWHERE);
    #[expect(unsafe_code, reason = "builds a region that must be refused")]
    // SAFETY: the contract is broken on purpose in a way that cannot do harm: no mapping can exist there, and the
    // kernel refuses the address.
    let hole = unsafe { Region::new(Iova(1 << 40), nowhere, MIB) }.unwrap();
    let good = memory();
    let regions = good.iter().cloned().chain([hole]).map(|region| {
        region.with_backing(Backing {
            kind: BackingKind::Anonymous,
            page_size: PageSize::SIZE_4K,
            shared: false,
        })
    });
    Regions::new(regions).unwrap()
}

const NOWHERE: usize = 0x7000_0000_0000_0000;

fn two_threads() -> Pinner<'static> {
    Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .min_chunk(MIB)
        .max_chunk(MIB)
}

/// Waits at the first piece of each worker until the gate is open.
fn behind(gate: &Arc<Gate>) -> Steered<IoUring> {
    let (gate, meeting) = (Arc::clone(gate), Meeting::default());
    Steered::new(IoUring, move |piece: Piece| {
        meeting.come(piece.worker);
        gate.pass();
    })
}

/// The chunk table, where neighbours are joined: what is pinned, in IOVA order.
fn coverage<T: Target>(pinned: &Pinned<T>) -> Vec<(Iova, u64, u64)> {
    let mut joined: Vec<Placed> = Vec::new();
    for chunk in pinned.chunks() {
        match joined.last_mut() {
            Some(last)
                if last.iova.0 + last.size == chunk.iova.0
                    && last.hva.0 + last.size == chunk.hva.0 =>
            {
                last.size += chunk.size;
            }
            _ => joined.push(chunk),
        }
    }
    let parts = joined.iter();
    parts
        .map(|part| (part.iova, part.hva.0, part.size))
        .collect()
}

/// What of a report does not depend on how fast anything went.
fn fixed(report: &PinReport) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (
            report.target,
            report.strategy,
            report.regions,
            report.page_size,
        ),
        (report.nice, report.cpu.clone(), report.nodes.clone()),
        (report.job.bytes, report.job.threads, report.job.limited_by),
        (report.job.bounds.clone(), report.job.priority),
        (report.job.helpers_wanted, report.job.helpers_started),
        report.notes.clone(),
    )
}

/// Whether these tests can do nothing here.
fn cannot() -> bool {
    no_helpers() || cannot_pin(2 * SIZE)
}

#[test]
fn the_caller_goes_on_and_joins_what_a_pin_call_gives() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let (regions, before) = (memory(), vm_pin());
    let expected: Vec<_> = regions
        .iter()
        .map(|region| (region.iova(), region.hva().0, region.size()))
        .collect();
    let both_work = || {
        let gate = Arc::new(Gate::default());
        gate.open();
        behind(&gate)
    };
    let direct = two_threads().pin(&both_work(), &regions).unwrap();
    assert_eq!(vm_pin() - before, SIZE);
    assert_eq!(coverage(&direct), expected);
    let report = direct.report().clone();
    direct.unpin().unwrap();

    let gate = Arc::new(Gate::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let handle = {
        let told = Arc::clone(&told);
        two_threads()
            .progress(move |now| told.lock().unwrap().push((now.done, now.total)))
            .start(behind(&gate), &regions)
            .unwrap()
    };
    // Nothing can be done before this thread opens the gate, which it does only now.
    assert!(!handle.is_finished());
    assert_eq!(vm_pin(), before);
    gate.open();
    until("the job is done", || handle.is_finished());
    let last = handle.progress().unwrap();
    assert_eq!((last.done, last.total), (SIZE, SIZE));
    assert_eq!(told.lock().unwrap().last(), Some(&(SIZE, SIZE)));

    let started = handle.join().unwrap();
    assert_eq!(vm_pin() - before, SIZE);
    assert_eq!(coverage(&started), expected);
    assert_eq!(fixed(started.report()), fixed(&report));
    let bytes = |report: &PinReport| -> u64 { report.job.workers.iter().map(|w| w.bytes).sum() };
    assert_eq!((bytes(started.report()), bytes(&report)), (SIZE, SIZE));
    let unpinned = started.unpin().unwrap();
    assert_eq!((unpinned.bytes, vm_pin()), (SIZE, before));
}

/// On one thread nothing depends on who comes first.
#[test]
fn on_one_thread_even_the_chunks_are_the_same() {
    let _alone = alone();
    if cannot_pin(SIZE) {
        return;
    }
    let regions = memory();
    let alone = || two_threads().threads(NonZeroUsize::MIN);
    let table = |pinned: Pinned<IoUring>| pinned.chunks().collect::<Vec<_>>();
    let direct = table(alone().pin(&IoUring, &regions).unwrap());
    let started = table(alone().start(IoUring, &regions).unwrap().join().unwrap());
    assert_eq!(started, direct);
}

/// The job runs on a thread that has the mask of the caller, not of the process.
#[test]
fn the_limits_are_those_of_who_started_it() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu));
    let mut one = rustix::thread::CpuSet::new();
    one.set(first.unwrap());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let handle = two_threads().start(IoUring, &memory());
    rustix::thread::sched_setaffinity(None, &all).unwrap();
    let pinned = handle.unwrap().join().unwrap();
    let job = &pinned.report().job;
    assert_eq!((job.threads, job.helpers_wanted), (1, 0), "{job:?}");
    let bounds = pinned.report().cpu.threads().get();
    assert_eq!(bounds, 1);
}

#[test]
fn a_failure_is_the_same_and_nothing_stays() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let (regions, before) = (with_a_hole(), vm_pin());
    // By then there is something to undo.
    let target = || {
        Steered::new(IoUring, move |piece: Piece| {
            if piece.start >= NOWHERE as u64 {
                until("something is pinned", || vm_pin() > before);
            }
        })
    };
    let pinner = || two_threads().check(false);
    let direct = pinner().pin(&target(), &regions).map(drop).unwrap_err();
    assert_eq!(vm_pin(), before);
    let handle = pinner().start(target(), &regions).unwrap();
    until("the job has failed", || handle.is_finished());
    assert_eq!(vm_pin(), before, "undone before anybody asks");
    let started = handle.join().map(drop).unwrap_err();
    assert_eq!(started.to_string(), direct.to_string());
    for error in [&direct, &started] {
        assert_eq!(error.kind(), PinErrorKind::BadAddress, "{error}");
        assert!(error.chunks_undone() > 0, "{error}");
        assert!(error.left_pinned().is_empty(), "{error}");
        assert!(error.report().unwrap().job.bytes < SIZE + MIB, "{error}");
    }
    assert_eq!(started.remedy(), direct.remedy());
    let at = |error: &PinError| error.at().map(|at| (at.iova, at.hva, at.size));
    assert_eq!(at(&started), at(&direct));
}

/// What is refused before the first page is told by `join`, not by `start`.
#[test]
fn what_the_check_refuses_is_told_by_join() {
    let _alone = alone();
    let available = parapin::MemoryBudget::current().available().unwrap();
    let half = (available / 2 + (1 << 30)).next_multiple_of(4096);
    let regions = [0, 1 << 45].map(|iova| {
        let mapping = Arc::new(Mapping::anonymous(half, Pages::Small).unwrap());
        Region::of_mapping(mapping, Iova(iova)).unwrap()
    });
    let regions = Regions::new(regions).unwrap();
    let before = vm_pin();
    let handle = two_threads()
        .start(parapin::Populate::default(), &regions)
        .unwrap();
    let error = handle.join().unwrap_err();
    let kinds = [PinErrorKind::OutOfMemory, PinErrorKind::Memcg];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert_eq!(vm_pin(), before);
}

/// A job that is in its middle: something is pinned, and the rest waits for the token.
fn half_done(pinner: Pinner<'static>, cancel: &CancelToken) -> PinHandle<Steered<IoUring>> {
    let before = vm_pin();
    let (meeting, token) = (Meeting::default(), cancel.clone());
    let target = Steered::new(IoUring, move |piece: Piece| {
        meeting.come(piece.worker);
        if vm_pin() > before + 4 * MIB {
            until("the job is cancelled", || token.is_cancelled());
        }
    });
    let handle = pinner
        .cancel(cancel.clone())
        .start(target, &memory())
        .unwrap();
    until("something is pinned", || vm_pin() > before + 4 * MIB);
    assert!(!handle.is_finished());
    handle
}

#[test]
fn cancelling_undoes() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let before = vm_pin();
    let cancel = CancelToken::new();
    let handle = half_done(two_threads(), &cancel);
    handle.cancel();
    assert!(cancel.is_cancelled(), "it is the caller's token");
    let error = handle.join().map(drop).unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::Cancelled, "{error}");
    assert!(error.chunks_undone() >= 4, "{error}");
    assert!(error.left_pinned().is_empty());
    assert_eq!(vm_pin(), before);
}

#[test]
fn dropping_undoes_a_job_in_its_middle_and_one_that_is_done() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let before = vm_pin();
    let cancel = CancelToken::new();
    drop(half_done(two_threads(), &cancel));
    assert!(cancel.is_cancelled());
    assert_eq!(vm_pin(), before);

    let handle = two_threads().start(IoUring, &memory()).unwrap();
    until("the job is done", || handle.is_finished());
    assert_eq!(vm_pin() - before, SIZE);
    drop(handle);
    assert_eq!(vm_pin(), before);
}

#[test]
fn a_panic_resumes_at_join() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let before = vm_pin();
    let handle = two_threads()
        .progress(|_| panic!("the display broke"))
        .start(IoUring, &memory())
        .unwrap();
    until("the job has ended", || handle.is_finished());
    let panicked = catch_unwind(AssertUnwindSafe(|| handle.join())).unwrap_err();
    let message = panicked.downcast_ref::<&str>();
    assert_eq!(message, Some(&"the display broke"));
    assert_eq!(vm_pin(), before);
}

/// Everything can end before the memory's owner does: the thread and what it had are gone when `join` returns.
#[test]
fn no_thread_is_left() {
    let _alone = alone();
    if cannot() {
        return;
    }
    let ours = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            field(&status, "Name:").filter(|name| name.starts_with("parapin-"))
        });
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let gate = Arc::new(Gate::default());
    let handle = two_threads().start(behind(&gate), &memory()).unwrap();
    // Until it has named itself, a thread is called like the one that started it.
    until("both threads are there", || {
        ours() == ["parapin-1", "parapin-start"]
    });
    gate.open();
    drop(handle.join().unwrap());
    // A thread that was joined is still listed for a moment.
    until("they have ended", || ours().is_empty());
}
