// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Service`]: one thread that serves a [`Desk`], started and stopped by anybody at any time.
//!
//! | race | why it is none |
//! |---|---|
//! | two start it, or two stop it | one mutex from the first step to the last: the second finds it done |
//! | put, while it stops | what the desk took is served before the thread goes home; what it did not take goes back |
//! | start, right after stop | the old thread was joined: a desk never has two |
//! | the thread panics | it closes the desk, and drops what is there; the next start joins it and begins anew |
//! | a child after a fork | has no such thread, and maybe a locked mutex: it takes nothing, and touches nothing |

use std::{
    io, mem,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Instant,
};

use nix::sys::signal::{SigSet, SigmaskHow};

use crate::{
    desk::Desk,
    sync::{JoinHandle, Mutex, ThreadBuilder, lock},
    sys::Process,
};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Service<T: Send + 'static> {
    desk: Arc<Desk<T>>,
    name: &'static str,
    /// Serves a desk until it is closed and empty.
    serve: fn(&Desk<T>),
    /// Who made it. None if the kernel cannot tell a child: then there is no queue either.
    process: Option<Process>,
    /// The id of the thread that was started last.
    id: Arc<AtomicI32>,
    /// Held from the first step of starting or stopping to the last.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Send + 'static> Service<T> {
    /// One that does not run yet. `serve` is called in a thread of that name.
    pub(crate) fn new(name: &'static str, serve: fn(&Desk<T>)) -> Self {
        Self {
            desk: Arc::new(Desk::new()),
            name,
            serve,
            process: Process::current().ok(),
            id: Arc::default(),
            thread: Mutex::new(None),
        }
    }

    /// Whether this is the process that made it.
    fn is_ours(&self) -> bool {
        self.process.is_none_or(Process::is_current)
    }

    /// Starts the thread, with all signals blocked. Returns false if it runs already.
    pub(crate) fn start(&self) -> io::Result<bool> {
        if !self.is_ours() {
            return Err(io::Error::other("it was made before a fork, by the parent"));
        }
        let mut thread = lock(&self.thread);
        if thread.is_some() && self.desk.is_open() {
            return Ok(false);
        }
        if let Some(panicked) = thread.take() {
            let _ = panicked.join();
        }
        self.desk.open();
        match self.spawn() {
            Ok(handle) => {
                *thread = Some(handle);
                Ok(true)
            }
            Err(error) => {
                self.desk.close();
                // Somebody may have handed over already.
                (self.serve)(&self.desk);
                Err(error)
            }
        }
    }

    fn spawn(&self) -> io::Result<JoinHandle<()>> {
        let desk = Arc::clone(&self.desk);
        let id = Arc::clone(&self.id);
        let serve = self.serve;
        // Inherited by the thread: a VMM's signals are for threads that it knows.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let started = ThreadBuilder::new()
            .name(self.name.to_owned())
            .spawn(move || {
                // A nanosecond: the usual 50 us are longer than a batch takes. Where it is refused, batches are seen later.
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                // Relaxed: whoever reads it reads a file of that name, or finds none.
                id.store(
                    rustix::thread::gettid().as_raw_nonzero().get(),
                    Ordering::Relaxed,
                );
                let served = Served(&desk);
                serve(served.0);
            });
        if let Ok(mask) = mask {
            let _ = mask.thread_set_mask();
        }
        started
    }

    /// Stops the thread after everything that was handed over is served. Returns false if it was not running.
    pub(crate) fn stop(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let mut thread = lock(&self.thread);
        let Some(handle) = thread.take() else {
            return false;
        };
        self.desk.close();
        if self.is_own_thread(&handle) {
            // The last owner of this is what the thread itself has just given back. It goes home when it is done here.
            return true;
        }
        // What it had when it panicked was dropped, and waiters know.
        let _ = handle.join();
        true
    }

    #[cfg(not(loom))]
    fn is_own_thread(&self, handle: &JoinHandle<()>) -> bool {
        handle.thread().id() == std::thread::current().id()
    }

    /// In models, no thread owns the service that it belongs to.
    #[cfg(loom)]
    fn is_own_thread(&self, _: &JoinHandle<()>) -> bool {
        false
    }

    /// Whether it takes what is handed over.
    pub(crate) fn is_running(&self) -> bool {
        self.is_ours() && self.desk.is_open()
    }

    /// The id of its thread; none if it was not started, and maybe that of the last one if it was right now.
    pub(crate) fn thread_id(&self) -> Option<i32> {
        let started = self.is_ours() && lock(&self.thread).is_some();
        started.then(|| self.id.load(Ordering::Relaxed))
    }

    /// Hands `item` over, which should be looked at when `due`, or gives it back if the service does not run.
    pub(crate) fn put(&self, item: T, due: Instant) -> Result<(), T> {
        if !self.is_ours() {
            return Err(item);
        }
        self.desk.put(item, due)
    }
}

impl<T: Send + 'static> Drop for Service<T> {
    fn drop(&mut self) {
        if self.is_ours() {
            self.stop();
        } else if let Ok(thread) = self.thread.get_mut() {
            mem::forget(thread.take());
        }
    }
}

/// Closes the desk if the thread that serves it panics: nobody shall wait for what it will not do.
struct Served<'d, T>(&'d Desk<T>);

impl<T> Drop for Served<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
            drop(self.0.rest());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{
        desk::Idle,
        slot::{Giver, slot},
    };

    /// Gives everything back but 13, which it panics at.
    fn superstitious(desk: &Desk<(u32, Giver<u32>)>) {
        let mut items = Vec::new();
        while desk.take(&mut items, Idle::Wait) {
            for (number, giver) in items.drain(..) {
                assert_ne!(number, 13, "it was told to");
                giver.give(number);
            }
        }
    }

    #[test]
    fn a_panic_ends_the_wait_of_everybody_and_it_can_be_started_again() {
        let service = Service::new("superstitious", superstitious);
        for round in 0..3 {
            assert!(service.start().unwrap(), "{round}");
            assert!(!service.start().unwrap(), "{round}");
            let asked: Vec<_> = [1, 13, 2]
                .into_iter()
                .map(|number| {
                    let (giver, slot) = slot();
                    // Refused if it has panicked meanwhile: the giver goes with it.
                    let _ = service.put((number, giver), Instant::now());
                    slot
                })
                .collect();
            let answers: Vec<_> = asked.into_iter().map(crate::slot::Slot::wait).collect();
            assert_eq!(answers, [Some(1), None, None], "{round}");
            while service.is_running() {
                std::thread::yield_now();
            }
        }
        assert!(service.stop());
        assert!(!service.stop());
    }
}

#[cfg(all(test, loom))]
mod models {
    //! `RUSTFLAGS="--cfg loom" cargo test -p parapin-idxd --lib --release models`

    use loom::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
    };

    use super::*;
    use crate::{
        desk::Idle,
        slot::{Giver, slot},
    };

    type Item = (u32, Giver<u32>);

    fn model(preemptions: Option<usize>, check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(check);
    }

    loom::lazy_static! {
        /// Threads that serve.
        static ref SERVING: AtomicUsize = AtomicUsize::new(0);
    }

    /// Serves as the engine does: sleeps when it has nothing, looks again while it has something.
    fn serve(desk: &Desk<Item>) {
        assert_eq!(SERVING.fetch_add(1, SeqCst), 0, "a desk has one thread");
        let mut items = Vec::new();
        let mut idle = Idle::Wait;
        while desk.take(&mut items, idle) {
            if let Some((number, giver)) = items.pop() {
                giver.give(number);
            }
            idle = if items.is_empty() {
                Idle::Wait
            } else {
                Idle::Go
            };
        }
        SERVING.fetch_sub(1, SeqCst);
    }

    /// Hands over, or does it itself; either way it has an answer in the end.
    fn submit(service: &Service<Item>, number: u32) {
        let (giver, slot) = slot();
        if let Err((refused, _)) = service.put((number, giver), Instant::now()) {
            assert_eq!(refused, number);
            return;
        }
        assert_eq!(slot.wait(), Some(number));
    }

    #[test]
    fn what_is_handed_over_while_it_stops_is_served_or_given_back() {
        model(None, || {
            let service = Arc::new(Service::new("model", serve));
            assert!(service.start().unwrap());
            let submitter = {
                let service = Arc::clone(&service);
                thread::spawn(move || submit(&service, 1))
            };
            assert!(service.stop());
            submitter.join().unwrap();
            assert!(!service.is_running());
        });
    }

    #[test]
    fn it_starts_again_after_it_stopped_while_others_submit() {
        model(Some(3), || {
            let service = Arc::new(Service::new("model", serve));
            assert!(service.start().unwrap());
            let submitter = {
                let service = Arc::clone(&service);
                thread::spawn(move || submit(&service, 1))
            };
            assert!(service.stop());
            assert!(service.start().unwrap());
            submit(&service, 2);
            submitter.join().unwrap();
            assert!(service.stop());
        });
    }

    #[test]
    fn of_two_that_start_and_stop_each_step_is_done_by_one() {
        model(Some(3), || {
            let service = Arc::new(Service::new("model", serve));
            let other = {
                let service = Arc::clone(&service);
                thread::spawn(move || (service.start().unwrap(), service.stop()))
            };
            let here = (service.start().unwrap(), service.stop());
            let there = other.join().unwrap();
            let starts = u32::from(here.0) + u32::from(there.0);
            let stops = u32::from(here.1) + u32::from(there.1);
            assert_eq!(starts, stops, "{here:?} {there:?}");
            assert!(starts >= 1);
            assert!(!service.is_running());
        });
    }
}
