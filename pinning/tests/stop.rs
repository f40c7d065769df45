// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Cancel, panic, the order of errors, progress, and a crew used from inside its own job.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    num::{NonZeroU64, NonZeroUsize},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier, mpsc},
    thread,
};

use fakes::{Event, FakeError, FakeKernel};
use pinning::{
    Allowance, CancelToken, Constraints, Crew, Job, Limit, Plan, Progress, Range, RunErrorKind,
    Watch,
};

const PAGE: u64 = 4096;

fn plan(threads: usize, pages: u64, slice: Option<u64>) -> Plan {
    let mut job = Job::new([Range::new(PAGE, pages * PAGE, PAGE).unwrap()]).unwrap();
    job.min_chunk = PAGE;
    job.max_chunk = 8 * PAGE;
    let constraints = Constraints {
        slice: slice.and_then(NonZeroU64::new),
        ..Constraints::default()
    };
    let budget = Allowance {
        threads: NonZeroUsize::new(threads).unwrap(),
        limited_by: "affinity",
    };
    Plan::new(&job, &constraints, &budget).unwrap()
}

#[test]
fn cancel_undoes_everything() {
    for threads in 1..=4 {
        for slice in [None, Some(PAGE)] {
            let cancel = CancelToken::new();
            let raise = cancel.clone();
            let kernel = FakeKernel::new().with_hook(move |chunk, _| {
                if chunk.start() >= 32 * PAGE {
                    raise.cancel();
                }
            });
            let crew = Crew::new(threads - 1, 0);
            let watch = Watch {
                cancel: Some(&cancel),
                progress: None,
                ..Watch::default()
            };
            let error =
                pinning::run(&plan(threads, 512, slice), Some(&crew), &kernel, watch).unwrap_err();
            assert_eq!(error.kind, RunErrorKind::Cancelled);
            assert_eq!((error.at, error.source), (None, None));
            assert_eq!(kernel.held(), []);
            assert_eq!(kernel.misuse(), []);
            let ran = kernel
                .events()
                .iter()
                .filter(|e| matches!(e, Event::Ran(..)))
                .count();
            assert!(ran < 512, "it stopped before the end");
        }
    }
}

#[test]
fn a_token_that_was_raised_before_means_that_nothing_is_done() {
    let cancel = CancelToken::new();
    cancel.cancel();
    let kernel = FakeKernel::new();
    let watch = Watch {
        cancel: Some(&cancel),
        progress: None,
        ..Watch::default()
    };
    let error =
        pinning::run(&plan(2, 64, None), Some(&Crew::new(1, 0)), &kernel, watch).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::Cancelled);
    assert_eq!(kernel.events(), []);
}

#[test]
fn a_token_raised_during_the_last_piece_comes_too_late() {
    let cancel = CancelToken::new();
    let raise = cancel.clone();
    let kernel = FakeKernel::new().with_hook(move |chunk, _| {
        if chunk.end() == 65 * PAGE {
            raise.cancel();
        }
    });
    let watch = Watch {
        cancel: Some(&cancel),
        progress: None,
        ..Watch::default()
    };
    let finished = pinning::run(&plan(1, 64, None), None, &kernel, watch).unwrap();
    assert_eq!(finished.report.bytes, 64 * PAGE);
}

#[test]
fn a_panic_undoes_and_resumes_on_the_caller() {
    for threads in 1..=4 {
        for slice in [None, Some(PAGE)] {
            for page in [1, 17, 64] {
                let crew = Crew::new(threads - 1, 0);
                let kernel = FakeKernel::new().panicking_at(page * PAGE);
                let plan = plan(threads, 64, slice);
                let payload = catch_unwind(AssertUnwindSafe(|| {
                    pinning::run(&plan, Some(&crew), &kernel, Watch::default())
                }))
                .unwrap_err();
                let text = payload.downcast_ref::<String>().unwrap();
                assert!(text.starts_with("told to panic at 0x"), "{text}");
                assert_eq!(kernel.held(), []);
                assert_eq!(kernel.misuse(), []);

                let again = FakeKernel::new();
                let finished = pinning::run(&plan, Some(&crew), &again, Watch::default()).unwrap();
                assert_eq!(
                    finished.report.helpers_started,
                    threads - 1,
                    "the crew survives the panic"
                );
            }
        }
    }
}

#[test]
fn a_panic_in_the_progress_callback_undoes_too() {
    let kernel = FakeKernel::new();
    let mut progress = |_: Progress| panic!("the display broke");
    let payload = catch_unwind(AssertUnwindSafe(|| {
        let watch = Watch {
            cancel: None,
            progress: Some(&mut progress),
            ..Watch::default()
        };
        pinning::run(&plan(2, 64, None), Some(&Crew::new(1, 0)), &kernel, watch)
    }))
    .unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the display broke"));
    assert_eq!(kernel.held(), []);
}

#[test]
fn a_panic_in_the_progress_callback_while_pieces_are_done_stops_them() {
    // The caller's first piece lasts longer than the interval, so that the callback is due right after it.
    let kernel = FakeKernel::new().with_hook(|chunk, worker| {
        if worker == 0 && chunk.start() == PAGE {
            thread::sleep(Watch::INTERVAL);
        }
    });
    let mut seen = None;
    let mut progress = |progress: Progress| {
        seen = Some(progress.done);
        panic!("the display broke");
    };
    catch_unwind(AssertUnwindSafe(|| {
        let watch = Watch {
            cancel: None,
            progress: Some(&mut progress),
            ..Watch::default()
        };
        pinning::run(&plan(1, 512, None), None, &kernel, watch)
    }))
    .unwrap_err();
    assert_eq!(seen, Some(PAGE), "after the first piece");
    assert_eq!(
        kernel.events().len(),
        2,
        "it was done and undone, and no other was begun"
    );
    assert_eq!(kernel.held(), []);
}

/// Two pieces fail at once by intent: both workers are inside `run` when the first of them returns its error.
#[test]
fn the_first_error_in_time_wins() {
    struct Both {
        inside: Barrier,
        caller_failed: (mpsc::SyncSender<()>, std::sync::Mutex<mpsc::Receiver<()>>),
    }
    impl pinning::Work for Both {
        type Error = FakeError;
        fn run(&self, _: pinning::Chunk, worker: usize) -> Result<(), FakeError> {
            self.inside.wait();
            if worker == 1 {
                // Only after the caller has come back for its next piece, and so has stored its error, may the
                // helper fail. The caller then waits for the helper, and the callback below lets it go.
                self.caller_failed.1.lock().unwrap().recv().unwrap();
            }
            Err(FakeError::Told(worker as u64))
        }
        fn undo(&self, _: pinning::Chunk) -> Result<(), FakeError> {
            unreachable!("nothing was completed")
        }
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = Both {
        inside: Barrier::new(2),
        caller_failed: (sender, std::sync::Mutex::new(receiver)),
    };
    let sender = work.caller_failed.0.clone();
    let mut progress = move |_: Progress| {
        let _ = sender.try_send(());
    };
    let watch = Watch {
        cancel: None,
        progress: Some(&mut progress),
        ..Watch::default()
    };
    let error = pinning::run(&plan(2, 64, None), Some(&Crew::new(1, 0)), &work, watch).unwrap_err();
    assert_eq!(error.source, Some(FakeError::Told(0)));
}

#[test]
fn progress_rises_to_the_total_on_the_calling_thread() {
    let caller = thread::current().id();
    let mut seen: Vec<Progress> = Vec::new();
    let mut progress = |progress: Progress| {
        assert_eq!(thread::current().id(), caller);
        seen.push(progress);
    };
    let watch = Watch {
        cancel: None,
        progress: Some(&mut progress),
        ..Watch::default()
    };
    let plan = plan(3, 200, Some(PAGE));
    pinning::run(&plan, Some(&Crew::new(2, 0)), &FakeKernel::new(), watch).unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.done));
    let last = seen.last().unwrap();
    assert_eq!((last.done, last.total), (200 * PAGE, 200 * PAGE));
}

#[test]
fn a_crew_inside_its_own_job_is_an_error_on_helpers_and_on_the_caller() {
    let crew = Arc::new(Crew::new(2, 0));
    let (inner, kinds) = (
        Arc::clone(&crew),
        Arc::new(std::sync::Mutex::new(Vec::new())),
    );
    let seen = Arc::clone(&kinds);
    let everybody = Barrier::new(3);
    let kernel = FakeKernel::new().with_hook(move |chunk, worker| {
        if chunk.start() < 4 * PAGE {
            everybody.wait();
            let error = pinning::run(
                &plan(2, 64, None),
                Some(&inner),
                &FakeKernel::new(),
                Watch::default(),
            )
            .unwrap_err();
            seen.lock().unwrap().push((worker, error.kind));
        }
    });
    // Three cells for three workers that wait for each other, so that each of them tries.
    let mut job = Job::new([Range::new(PAGE, 3 * PAGE, PAGE).unwrap()]).unwrap();
    job.min_chunk = PAGE;
    let budget = Allowance {
        threads: NonZeroUsize::new(3).unwrap(),
        limited_by: "affinity",
    };
    let outer = Plan::new(&job, &Constraints::default(), &budget).unwrap();
    pinning::run(&outer, Some(&crew), &kernel, Watch::default()).unwrap();
    let mut kinds = kinds.lock().unwrap().clone();
    kinds.sort_unstable_by_key(|&(worker, _)| worker);
    let reentered = RunErrorKind::Reentered;
    assert_eq!(kinds, [(0, reentered), (1, reentered), (2, reentered)]);
}

#[test]
fn a_crew_that_is_busy_leaves_the_second_job_to_its_caller() {
    let crew = Arc::new(Crew::new(1, 0));
    let (inside, entered) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let first = {
        let crew = Arc::clone(&crew);
        thread::Builder::new()
            .spawn(move || {
                let kernel = FakeKernel::new().with_hook(move |chunk, _| {
                    if chunk.start() == PAGE {
                        inside.send(()).unwrap();
                        wait.lock().unwrap().recv().unwrap();
                    }
                });
                pinning::run(&plan(2, 64, None), Some(&crew), &kernel, Watch::default()).unwrap()
            })
            .unwrap()
    };
    entered.recv().unwrap();
    let kernel = FakeKernel::new();
    let second = pinning::run(&plan(2, 64, None), Some(&crew), &kernel, Watch::default()).unwrap();
    assert_eq!(second.report.limited_by, Limit::Jobs);
    assert_eq!(
        (second.report.threads, second.report.helpers_wanted),
        (1, 1)
    );
    assert_eq!(kernel.held(), [(PAGE, 65 * PAGE)]);
    go_on.send(()).unwrap();
    assert_eq!(first.join().unwrap().report.helpers_started, 1);
}
