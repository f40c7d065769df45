// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a slow device delays the answers of a fast one that the same completion engine waits for.
//!
//! ```text
//!  slow device  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓  tasks of 7 ms, several in flight
//!  fast device  ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓ ▓              one task at a time: its median latency, alone and so
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use idxd::{CompletionEngine, Flight, Kind, Queue, Task, Ticket};
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    devices::{Devices, Open, model, running_engine},
    memory::{Memory, PAGE},
};
use crate::cli::bench::table::Table;

/// GB/s of the slow device.
const SLOW: f64 = 0.01;
/// Pages of a task on it, and tasks in flight.
const SLOW_TASK: usize = 16;
const SLOW_TASKS: usize = 8;
/// Pages of a task on the fast device.
const TASK: usize = 128;
/// About 1: a quarter more is a timer that was late, and not a device that was waited for.
const TARGET: f64 = 1.25;
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
) {
    let row = Row {
        name: format!("zero/{}/latency_beside_slow_device", devices.name()),
        unit: "us",
        bytes: None,
        compare: Compare::Cost,
        target: Some(TARGET),
    };
    let lane = match devices {
        Devices::Model => Lane::new(settings, memory),
        Devices::Queues(_) => Err(Skipped::for_reason(
            "a real device cannot be told to be slow",
        )),
    };
    let tasks = table.size(200, 5);
    let lane = lane.as_ref().map_err(Clone::clone);
    let mut alone = || lane.clone()?.latency(tasks, None);
    let mut beside = || {
        let lane = lane.clone()?;
        let mut slow = lane.keep_busy()?;
        let latency = lane.latency(tasks, slow.last_mut());
        for ticket in slow {
            ticket.wait()?;
        }
        latency
    };
    table.measure(row, Some(&mut alone), &mut beside);
}

#[derive(Debug)]
struct Lane<'a> {
    memory: &'a Memory,
    engine: Arc<CompletionEngine>,
    fast: Arc<Queue>,
    slow: Arc<Queue>,
    _open: Open,
}

impl<'a> Lane<'a> {
    fn new(settings: &Settings<'_>, memory: &'a Memory) -> Result<Self, Skipped> {
        let open = model(&[settings.args.model_rate(), SLOW], memory)?;
        Ok(Self {
            memory,
            engine: running_engine()?,
            fast: Arc::clone(&open.queues[0]),
            slow: Arc::clone(&open.queues[1]),
            _open: open,
        })
    }

    /// Puts tasks into the slow device.
    fn keep_busy(&self) -> Result<Vec<Ticket>, Skipped> {
        (0..SLOW_TASKS)
            .map(|_| {
                let task = Task::with_capacity(Kind::Dsa, SLOW_TASK)?;
                self.send(&self.slow, task, SLOW_TASK)
            })
            .collect()
    }

    fn send(&self, queue: &Arc<Queue>, mut task: Task, pages: usize) -> Result<Ticket, Skipped> {
        task.clear();
        for page in (0..self.memory.pages()).cycle().take(pages) {
            task.push_compval(self.memory.block.source(), page * PAGE, 4096, 0)?;
        }
        let flight = Flight::new(queue, task, PATIENCE);
        let mut flight = flight.map_err(|(_, error)| Skipped::because(&error))?;
        if !flight.submit()? {
            return Err(Skipped::for_reason("the queue is full"));
        }
        Ok(self.engine.hand_over(flight))
    }

    /// Microseconds from submission to answer on the fast device, the median of up to so many; for as long as the slow device has
    /// something to do.
    fn latency(&self, tasks: usize, mut slow: Option<&mut Ticket>) -> Outcome {
        let mut times = Vec::with_capacity(tasks);
        let mut task = Task::with_capacity(Kind::Dsa, TASK)?;
        while times.len() < tasks {
            let start = Instant::now();
            task = self.send(&self.fast, task, TASK)?.wait()?;
            let time = start.elapsed();
            if slow.as_mut().is_some_and(|slow| slow.is_ready()) {
                break;
            }
            times.push(time);
        }
        times.sort();
        let median = times.get(times.len() / 2);
        let median = median.ok_or_else(|| {
            Skipped::for_reason("this machine was busy for longer than the slow device")
        })?;
        Ok(median.as_secs_f64() * 1e6)
    }
}
