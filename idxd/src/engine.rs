// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`CompletionEngine`]: one thread that waits for all queues of all devices.
//!
//! ```text
//!  channel 0 ── hand_over(Flight) ──┐            ┌─► wq0.0 ─┐  looks at all flights, sleeps until the first should be done,
//!  channel 1 ── hand_over(Flight) ──┼─► desk ──► ┼─► wq0.1 ─┼─► and gives back what is done, in the order in which it is
//!  channel n ── hand_over(Flight) ──┘            └─► wq1.0 ─┘
//!      ▲                                                              │
//!      └── Ticket::wait ◄──────────── Task, or why there is none ─────┘
//! ```
//!
//! Without a running engine a ticket waits for its flight itself, so that starting and stopping it changes who waits and
//! nothing else: any thread may do either at any time, any number of times.

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    Flight, Process, Task, WaitError,
    desk::{Desk, Idle},
    flight::Look,
    patience::Step,
    service::Service,
    slot::{Giver, Slot, slot},
};

type Outcome = Result<Task, WaitError>;

/// A flight, and who waits for it.
#[derive(Debug)]
struct Watched {
    flight: Flight,
    giver: Giver<Outcome>,
}

/// One thread that waits for all queues of all devices, and gives tasks back in the order in which devices finish them.
///
/// It sleeps while nothing is in flight, and until the first of what is in flight should be done. Without it a [`Ticket`] waits for its
/// own flight, so that starting and stopping it changes who waits and nothing else: any thread may do either at any time, any
/// number of times. An error of one task, or a device that does not answer, concerns that task alone.
///
/// It belongs to the process that made it. In a child after a fork it does not run, nor start.
#[derive(Debug)]
pub struct CompletionEngine(Service<Watched>);

impl Default for CompletionEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl CompletionEngine {
    /// The name of its thread.
    pub const THREAD_NAME: &'static str = "parapin-idxd";

    /// One that does not run yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Service::new(Self::THREAD_NAME, serve))
    }

    /// Starts its thread, in the cgroup, CPU mask and niceness of the caller, with all signals blocked. Returns false if it was running.
    ///
    /// The thread lowers its own timer slack (`prctl`), which a VMM's system call filter may forbid: start it before.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had. Then everybody waits for himself.
    pub fn start(&self) -> Result<bool, StartError> {
        self.0.start().map_err(|source| StartError { source })
    }

    /// Stops its thread after everything that was handed over is done or out of time. Returns false if it was not running.
    pub fn stop(&self) -> bool {
        self.0.stop()
    }

    /// Whether it takes flights.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.is_running()
    }

    /// CPU time that its thread has used since it was started; none if it does not run, or the kernel does not tell
    /// (`/proc/self/task/…/schedstat`).
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        let id = self.0.thread_id()?;
        let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
        let nanos = text.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(nanos))
    }

    /// Leaves the waiting to the engine, if it runs.
    pub fn hand_over(&self, flight: Flight) -> Ticket {
        let due = flight.expected();
        let process = flight.queue().process();
        let (giver, slot) = slot();
        match self.0.put(Watched { flight, giver }, due) {
            Ok(()) => Ticket {
                waiter: Waiter::Engine(slot),
                due,
                process,
            },
            Err(Watched { flight, .. }) => Ticket {
                waiter: Waiter::Own(Box::new(flight)),
                due,
                process,
            },
        }
    }
}

/// Where a flight's task comes back.
///
/// Dropping it cancels nothing: the engine waits for the flight all the same, and frees the task; without an engine the drop waits.
#[derive(Debug)]
#[must_use = "the task comes back through it"]
pub struct Ticket {
    waiter: Waiter,
    due: Instant,
    process: Process,
}

#[derive(Debug)]
enum Waiter {
    Engine(Slot<Outcome>),
    Own(Box<Flight>),
}

impl Ticket {
    /// Waits for the task.
    ///
    /// # Errors
    ///
    /// If the device did not answer in time, or this is a child of the process that submitted.
    pub fn wait(self) -> Result<Task, WaitError> {
        match self.waiter {
            // The thread that would fill it is the parent's.
            Waiter::Engine(_) if !self.process.is_current() => Err(WaitError::Abandoned),
            Waiter::Engine(slot) => slot.wait().unwrap_or(Err(WaitError::Abandoned)),
            Waiter::Own(flight) => flight.wait(),
        }
    }

    /// Waits until that time, at most. Returns whether [`wait`](Self::wait) would return at once.
    pub fn wait_until(&mut self, until: Instant) -> bool {
        match &mut self.waiter {
            Waiter::Engine(_) if !self.process.is_current() => true,
            Waiter::Engine(slot) => slot.wait_until(until),
            Waiter::Own(flight) => flight.wait_until(until),
        }
    }

    /// When the task should be done, by what is known of its queue.
    #[must_use]
    pub fn expected(&self) -> Instant {
        self.due
    }

    /// Whether waiting would return at once.
    pub fn is_ready(&mut self) -> bool {
        match &mut self.waiter {
            Waiter::Engine(_) if !self.process.is_current() => true,
            Waiter::Engine(slot) => slot.is_ready(),
            Waiter::Own(flight) => flight.is_over(),
        }
    }
}

/// Waits for flights until the desk is closed and none is left.
fn serve(desk: &Desk<Watched>) {
    let mut flights: Vec<Watched> = Vec::new();
    let mut idle = Idle::Wait;
    while desk.take(&mut flights, idle) {
        idle = match sweep(&mut flights) {
            None => Idle::Wait,
            Some(Step::Sleep(time)) => Idle::Sleep(time),
            Some(Step::Look) => {
                // Of several that are nearly done, any will do: all are looked at again in a microsecond.
                if let Some(soonest) = flights
                    .iter()
                    .min_by_key(|watched| watched.flight.expected())
                {
                    soonest.flight.linger();
                }
                Idle::Go
            }
        };
    }
}

/// Gives back what has ended. Returns what to do until the next sweep; none if nothing is left to wait for.
fn sweep(flights: &mut Vec<Watched>) -> Option<Step> {
    let now = Instant::now();
    let mut next: Option<Step> = None;
    let mut index = 0;
    while index < flights.len() {
        match flights[index].flight.look(now) {
            Look::Done | Look::Over => {
                let Watched { flight, giver } = flights.swap_remove(index);
                // If nobody waits, this drops the task, and with it maybe the last keep of a source: code of others, whose
                // panic is not to end the wait of everybody.
                let given = panic::catch_unwind(AssertUnwindSafe(|| giver.give(flight.end())));
                drop(given);
            }
            Look::Wait(step) => {
                next = Some(next.map_or(step, |other| other.sooner(step)));
                index += 1;
            }
        }
    }
    next
}

/// Why there is no engine.
#[derive(Debug, Error)]
#[error("no thread for the completion engine; each caller waits for its own tasks")]
#[non_exhaustive]
pub struct StartError {
    /// The system's reason.
    source: io::Error,
}
