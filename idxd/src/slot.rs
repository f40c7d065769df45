// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Slot`]: where one thread waits for one thing that another will leave there.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use crate::sync::{Condvar, Mutex, lock};

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    left: Condvar,
}

#[derive(Debug)]
enum State<T> {
    /// Nothing yet, and whether somebody sleeps until there is something.
    Empty {
        awaited: bool,
    },
    Full(T),
    /// The giver is gone and left nothing.
    Void,
}

/// The side that waits.
#[derive(Debug)]
pub(crate) struct Slot<T>(Arc<Shared<T>>);

/// The side that leaves something, or, dropped, says that nothing will come: nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Giver<T>(Arc<Shared<T>>);

/// Both sides of a new slot.
pub(crate) fn slot<T>() -> (Giver<T>, Slot<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Empty { awaited: false }),
        left: Condvar::new(),
    });
    (Giver(Arc::clone(&shared)), Slot(shared))
}

impl<T> Slot<T> {
    /// Waits for what is left; none if the giver is gone.
    pub(crate) fn wait(self) -> Option<T> {
        let mut state = lock(&self.0.state);
        loop {
            match std::mem::replace(&mut *state, State::Void) {
                State::Full(thing) => return Some(thing),
                State::Void => return None,
                State::Empty { .. } => *state = State::Empty { awaited: true },
            }
            state = self
                .0
                .left
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until that time, at most. Returns whether `wait` would return at once.
    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        let mut state = lock(&self.0.state);
        while let State::Empty { .. } = *state {
            let time = until.saturating_duration_since(Instant::now());
            if time.is_zero() {
                return false;
            }
            *state = State::Empty { awaited: true };
            state = self
                .0
                .left
                .wait_timeout(state, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Whether `wait` would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(*lock(&self.0.state), State::Empty { .. })
    }
}

impl<T> Giver<T> {
    /// Leaves it, for whoever waits or will.
    pub(crate) fn give(self, thing: T) {
        self.end(State::Full(thing));
    }

    /// Leaves what is the last word, unless there was one, and wakes who sleeps: a call to the kernel that is not made for
    /// nobody.
    fn end(&self, last: State<T>) {
        let mut state = lock(&self.0.state);
        if let State::Empty { awaited } = *state {
            *state = last;
            drop(state);
            if awaited {
                self.0.left.notify_one();
            }
        }
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.end(State::Void);
    }
}

#[cfg(all(test, loom))]
mod models {
    //! `RUSTFLAGS="--cfg loom" cargo test -p parapin-idxd --lib --release models`

    use loom::thread;

    use super::*;

    #[test]
    fn what_is_left_is_found_by_who_waits_or_will() {
        loom::model(|| {
            let (giver, slot) = slot();
            let other = thread::spawn(move || giver.give(7));
            let ready = slot.is_ready();
            assert_eq!(slot.wait(), Some(7), "ready: {ready}");
            other.join().unwrap();
        });
    }

    #[test]
    fn nobody_waits_for_a_giver_that_is_gone() {
        loom::model(|| {
            let (giver, slot) = slot::<u32>();
            let other = thread::spawn(move || drop(giver));
            assert_eq!(slot.wait(), None);
            other.join().unwrap();
        });
    }

    /// The side that waits may go first; what was left goes with the other.
    #[test]
    fn what_nobody_waits_for_is_dropped_once() {
        loom::model(|| {
            let thing = Arc::new(());
            let (giver, slot) = slot();
            let left = Arc::clone(&thing);
            let other = thread::spawn(move || giver.give(left));
            drop(slot);
            other.join().unwrap();
            assert_eq!(Arc::strong_count(&thing), 1);
        });
    }
}
