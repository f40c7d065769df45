// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`IaaChannel`]: one channel's tasks, and what it knows of its own speed.

use std::{sync::Arc, time::Duration};

use idxd::{Flight, Kind, Queue, Status, Task};

use super::{IaaQueues, Operation, pages::Pages, run::Run};
use crate::{Trouble, health::Leave, member::Member};

/// A task on its way, of which a part may not have been taken yet.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) flight: Flight,
    /// The page of each descriptor.
    pub(super) pages: Vec<u32>,
    pub(super) member: usize,
    pub(super) leave: Leave,
}

impl Sending {
    /// Descriptors that the device has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.pages.len() - self.flight.sent()
    }
}

/// How pages were done.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::codec) struct Done {
    pub(in crate::codec) by_device: usize,
    pub(in crate::codec) by_cpu: usize,
    /// Pages that a device had a second time, after a page fault.
    pub(in crate::codec) again: usize,
    pub(in crate::codec) trouble: Trouble,
}

/// One channel's share of the queues. For one thread at a time.
#[derive(Debug)]
pub(in crate::codec) struct IaaChannel {
    pub(super) queues: Arc<IaaQueues>,
    /// The queues, nearest first, and how many of them are near.
    pub(super) order: Vec<usize>,
    pub(super) near: usize,
    /// Of each queue the task that has not been taken as a whole.
    pub(super) open: Vec<Option<Sending>>,
    pub(super) in_flight: Vec<Sending>,
    pub(super) pages: Pages,
    pub(super) software: Pace,
    /// Tasks of the last call whose buffers hold what came out.
    kept: Vec<Task>,
    spare: Vec<Task>,
    spare_lists: Vec<Vec<u32>>,
    /// Bytes of a task's buffer for each page.
    stride: usize,
    /// Whether devices write to memory of others, so that a queue which does not answer in time has to be closed.
    lends: bool,
}

impl IaaChannel {
    /// For a thread that runs on `node`; `lends` if devices write elsewhere than to tasks' own buffers.
    pub(in crate::codec) fn new(queues: Arc<IaaQueues>, node: Option<u32>, lends: bool) -> Self {
        let (order, near) = Member::nearest_first(&queues.members, node);
        Self {
            order,
            near,
            open: queues.members.iter().map(|_| None).collect(),
            in_flight: Vec::new(),
            pages: Pages::default(),
            software: Pace::default(),
            kept: Vec::new(),
            spare: Vec::new(),
            spare_lists: Vec::new(),
            stride: 0,
            lends,
            queues,
        }
    }

    /// Does `operation` to those pages of `count` that are `named`. Tasks have `stride` bytes of buffer for each page.
    ///
    /// When it returns, also with an error, no device has anything to do with them any more, but for tasks that ran out of time.
    pub(in crate::codec) fn run<O: Operation>(
        &mut self,
        operation: &mut O,
        stride: usize,
        count: usize,
        named: impl Iterator<Item = u32>,
    ) -> Result<Done, O::Error> {
        self.begin(stride);
        self.pages.begin(count, named);
        let (result, done) = {
            let ending = Ending(self);
            let mut run = Run::new(&mut *ending.0, operation);
            let result = run.work();
            (result, run.done)
        };
        if let Some(queue) = self.undrained() {
            operation.timed_out(queue)?;
        }
        result.map(|()| done)
    }

    /// A queue that was closed, and whose device may still write to memory of others.
    pub(in crate::codec) fn undrained(&self) -> Option<&Arc<Queue>> {
        let mut queues = self.queues.members.iter().map(|member| &member.queue);
        queues.find(|queue| self.lends && queue.retired() == Some(false))
    }

    /// The buffer of a task that was kept.
    pub(in crate::codec) fn kept(&self, number: usize) -> &[u8] {
        self.kept.get(number).map_or(&[], Task::buffer)
    }

    pub(super) fn next_number(&self) -> usize {
        self.kept.len()
    }

    fn begin(&mut self, stride: usize) {
        // Of a call that was unwound.
        self.drain();
        if self.stride != stride {
            self.stride = stride;
            self.spare.clear();
            self.kept.clear();
        }
        while let Some(task) = self.kept.pop() {
            self.put_away(task, false);
        }
    }

    /// Waits for everything in flight. What a device does not answer is in quarantine then.
    fn drain(&mut self) {
        self.pages.clear();
        let open = self.open.iter_mut().filter_map(Option::take);
        let all: Vec<Sending> = open.chain(self.in_flight.drain(..)).collect();
        for sending in all {
            let queues = Arc::clone(&self.queues);
            let (member, leave) = (&queues.members[sending.member], sending.leave);
            let sent = sending.flight.sent() > 0;
            self.put_away_list(sending.pages);
            match sending.flight.wait() {
                Ok(task) => {
                    match (sent, is_answered(&task)) {
                        (false, _) => member.unused(leave),
                        (true, true) => member.answered(leave),
                        (true, false) => member.failed(leave),
                    }
                    self.put_away(task, false);
                }
                Err(_) => {
                    member.failed(leave);
                    if self.lends {
                        member.queue.retire();
                    }
                }
            }
        }
    }

    /// A task without descriptors.
    pub(super) fn spare_task(&mut self) -> Option<Task> {
        let pages = self.queues.options.task_pages.max(1);
        self.spare.pop().or_else(|| {
            let bytes = pages.checked_mul(self.stride)?;
            Task::with_buffer(Kind::Iax, pages, bytes).ok()
        })
    }

    /// Keeps a task for the next time, or with what came out for as long as that is needed.
    pub(super) fn put_away(&mut self, mut task: Task, with_results: bool) {
        if with_results {
            self.kept.push(task);
        } else {
            task.clear();
            self.spare.push(task);
        }
    }

    pub(super) fn spare_list(&mut self) -> Vec<u32> {
        self.spare_lists.pop().unwrap_or_default()
    }

    pub(super) fn put_away_list(&mut self, mut list: Vec<u32>) {
        list.clear();
        self.spare_lists.push(list);
    }
}

/// Whether a device that is well says such things.
fn is_answered(task: &Task) -> bool {
    (0..task.sent()).any(|index| {
        let status = task.completion(index).status;
        let answers = [
            Status::SUCCESS,
            Status::ANALYTICS_ERROR,
            Status::OUTBUF_OVERFLOW,
        ];
        answers.contains(&status) || status.is_page_fault()
    })
}

/// A call that ends, also by a panic: devices have nothing to do with its pages then.
struct Ending<'c>(&'c mut IaaChannel);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.drain();
    }
}

impl Drop for IaaChannel {
    fn drop(&mut self) {
        self.drain();
    }
}

/// What a page takes the CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        // The first pages correct it.
        Self(Duration::from_micros(15))
    }
}

impl Pace {
    /// A page took so long. One that was preempted counts for little.
    pub(super) fn learn(&mut self, took: Duration) {
        let took = took.min(self.0 * 4);
        self.0 = (self.0 * 7 + took) / 8;
        self.0 = self.0.max(Duration::from_nanos(100));
    }

    pub(super) fn time(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_follows_what_pages_take_and_forgives_preemption() {
        let mut pace = Pace::default();
        for _ in 0..40 {
            pace.learn(Duration::from_micros(8));
        }
        let settled = pace.time();
        assert!(settled < Duration::from_micros(9), "{settled:?}");
        pace.learn(Duration::from_secs(1));
        assert!(pace.time() < settled * 2, "{:?}", pace.time());
        for _ in 0..200 {
            pace.learn(Duration::ZERO);
        }
        assert_eq!(pace.time(), Duration::from_nanos(100));
    }
}
