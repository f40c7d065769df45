// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Desk`]: where flights are handed to the thread that waits for them.
//!
//! ```text
//!  submitters ── put ──► inbox ── take ──► the one thread that serves the desk
//!                         │
//!                 open or closed: a closed desk takes nothing more, gives what it has, and then sends its thread home
//! ```
//!
//! | race | why nothing is lost |
//! |---|---|
//! | put, while the thread goes to sleep | both hold the mutex: the thread sees the inbox, or sleeps and is woken |
//! | put, while the desk is closed | refused and given back, or taken before the thread goes home |
//! | open, while the thread goes home | the service starts no second thread before it has joined the first |

use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Desk<T> {
    state: Mutex<State<T>>,
    change: Condvar,
    /// Whether `take` would bring something; written under the mutex.
    news: AtomicBool,
}

#[derive(Debug)]
struct State<T> {
    open: bool,
    inbox: Vec<T>,
    sleep: Sleep,
}

/// Whether and how long the thread sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    Until(Instant),
    UntilWoken,
}

/// What the thread does while there is nothing at the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Goes on: it has flights to look at.
    Go,
    /// Sleeps for some time.
    Sleep(Duration),
    /// Sleeps until something comes, or goes home if the desk is closed.
    Wait,
}

impl<T> Desk<T> {
    /// A closed one.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                open: false,
                inbox: Vec::new(),
                sleep: Sleep::Awake,
            }),
            change: Condvar::new(),
            news: AtomicBool::new(false),
        }
    }

    pub(crate) fn open(&self) {
        lock(&self.state).open = true;
    }

    pub(crate) fn close(&self) {
        lock(&self.state).open = false;
        self.news.store(true, Ordering::Release);
        self.change.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).open
    }

    /// Hands `item` over, which should be looked at when `due`. A closed desk gives it back.
    pub(crate) fn put(&self, item: T, due: Instant) -> Result<(), T> {
        let mut state = lock(&self.state);
        if !state.open {
            return Err(item);
        }
        state.inbox.push(item);
        // Pairs with the Acquire in `take`. It spares the thread the mutex; the inbox itself is under it.
        self.news.store(true, Ordering::Release);
        let wake = match state.sleep {
            Sleep::Awake => false,
            // It will look in time by itself.
            Sleep::Until(time) => due < time,
            Sleep::UntilWoken => true,
        };
        if wake {
            state.sleep = Sleep::Awake;
            drop(state);
            self.change.notify_all();
        }
        Ok(())
    }

    /// What was put and not taken.
    pub(crate) fn rest(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.state).inbox)
    }

    /// Moves what is at the desk into `into`. Returns false if there is nothing, and never will be: the desk is closed.
    /// For one thread only.
    pub(crate) fn take(&self, into: &mut Vec<T>, idle: Idle) -> bool {
        // Pairs with the Release in `put`, so that the item of a put that was seen is in the inbox; one that was not seen is
        // seen in the next round.
        if idle == Idle::Go && !self.news.load(Ordering::Acquire) {
            return true;
        }
        let mut state = lock(&self.state);
        if state.inbox.is_empty() {
            state = self.idle(state, idle);
        }
        state.sleep = Sleep::Awake;
        // Relaxed: written under the mutex by `put`, too. A closed desk keeps its news.
        self.news.store(!state.open, Ordering::Relaxed);
        into.append(&mut state.inbox);
        state.open || !into.is_empty()
    }

    fn idle<'s>(
        &self,
        mut state: crate::sync::MutexGuard<'s, State<T>>,
        idle: Idle,
    ) -> crate::sync::MutexGuard<'s, State<T>> {
        match idle {
            Idle::Go => state,
            Idle::Sleep(time) => {
                state.sleep = Sleep::Until(Instant::now() + time);
                // Once: waking early does no harm.
                self.change
                    .wait_timeout(state, time)
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .0
            }
            Idle::Wait => {
                while state.open && state.inbox.is_empty() {
                    state.sleep = Sleep::UntilWoken;
                    state = self
                        .change
                        .wait(state)
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                state
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_thread_is_woken_for_what_is_due_before_it_looks_and_for_nothing_else() {
        let desk = Desk::new();
        desk.open();
        let soon = Instant::now();
        let far = soon + Duration::from_secs(3600);
        let sleep = |sleep| lock(&desk.state).sleep = sleep;
        let after = |item, due| {
            desk.put(item, due).unwrap();
            lock(&desk.state).sleep
        };
        sleep(Sleep::Until(far));
        assert_eq!(after(1, far + Duration::from_secs(1)), Sleep::Until(far));
        assert_eq!(after(2, soon), Sleep::Awake);
        sleep(Sleep::UntilWoken);
        assert_eq!(after(3, far), Sleep::Awake);
        let mut taken = Vec::new();
        assert!(desk.take(&mut taken, Idle::Go));
        assert_eq!(taken, [1, 2, 3]);
    }

    #[test]
    fn a_closed_desk_gives_what_it_has_and_refuses_the_rest() {
        let desk = Desk::new();
        assert_eq!(desk.put(0, Instant::now()), Err(0));
        desk.open();
        desk.put(1, Instant::now()).unwrap();
        desk.close();
        assert_eq!(desk.put(2, Instant::now()), Err(2));
        let mut taken = Vec::new();
        assert!(desk.take(&mut taken, Idle::Wait));
        assert_eq!(taken, [1]);
        taken.clear();
        for idle in [Idle::Go, Idle::Wait, Idle::Sleep(Duration::ZERO)] {
            assert!(!desk.take(&mut taken, idle), "{idle:?}");
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    //! `RUSTFLAGS="--cfg loom" cargo test -p parapin-idxd --lib --release models`

    use loom::{sync::Arc, thread};

    use super::*;

    /// Takes until the desk is closed and empty: looks again while it has something, as the engine does with flights, and
    /// sleeps otherwise.
    fn serve(desk: &Desk<u32>) -> Vec<u32> {
        let (mut served, mut items) = (Vec::new(), Vec::new());
        let mut idle = Idle::Wait;
        while desk.take(&mut items, idle) {
            served.extend(items.pop());
            idle = if items.is_empty() {
                Idle::Wait
            } else {
                Idle::Go
            };
        }
        served
    }

    fn opened() -> Arc<Desk<u32>> {
        let desk = Arc::new(Desk::new());
        desk.open();
        desk
    }

    fn putter(desk: &Arc<Desk<u32>>, items: &'static [u32]) -> thread::JoinHandle<Vec<u32>> {
        let desk = Arc::clone(desk);
        thread::spawn(move || {
            let refused = |item: &u32| desk.put(*item, Instant::now()).err();
            items.iter().filter_map(refused).collect()
        })
    }

    fn server(desk: &Arc<Desk<u32>>) -> thread::JoinHandle<Vec<u32>> {
        let desk = Arc::clone(desk);
        thread::spawn(move || serve(&desk))
    }

    /// A lost wake-up would be a deadlock, which loom reports: the desk stays open until both were served.
    #[test]
    fn whatever_is_put_wakes_the_thread() {
        loom::model(|| {
            let desk = opened();
            let putter = putter(&desk, &[1]);
            let mut items = Vec::new();
            desk.put(2, Instant::now()).unwrap();
            let mut served = Vec::new();
            while served.len() < 2 {
                assert!(desk.take(&mut items, Idle::Wait));
                served.append(&mut items);
            }
            served.sort_unstable();
            assert_eq!(served, [1, 2]);
            assert_eq!(putter.join().unwrap(), []);
        });
    }

    #[test]
    fn what_is_put_while_the_desk_closes_is_served_or_given_back_and_once() {
        loom::model(|| {
            let desk = opened();
            let server = server(&desk);
            let putter = putter(&desk, &[1, 2]);
            desk.close();
            let mut all = server.join().unwrap();
            let refused = putter.join().unwrap();
            // Once closed it stays closed.
            assert!(matches!(refused[..], [] | [2] | [1, 2]), "{refused:?}");
            all.extend(refused);
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
        });
    }

    #[test]
    fn two_that_put_while_it_looks_without_sleeping() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let desk = opened();
            let server = server(&desk);
            let putters = [putter(&desk, &[1, 2]), putter(&desk, &[3])];
            for putter in putters {
                assert_eq!(putter.join().unwrap(), []);
            }
            desk.close();
            let mut served = server.join().unwrap();
            served.sort_unstable();
            assert_eq!(served, [1, 2, 3]);
        });
    }
}
