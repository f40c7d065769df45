// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`fly`]: submits a task to the last descriptor.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use idxd::{Flight, Queue, Task};

/// Longer than any test takes: who is given that much waits for an answer, and not for the time to pass.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Submits all of a task, however often the queue is full.
pub(crate) fn fly(queue: &Arc<Queue>, task: Task, patience: Duration) -> Flight {
    let mut flight = Flight::new(queue, task, patience).unwrap();
    let begin = Instant::now();
    while !flight.submit().unwrap() {
        assert!(begin.elapsed() < LONG, "the queue stays full");
        std::thread::yield_now();
    }
    flight
}
