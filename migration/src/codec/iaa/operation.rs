// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Operation`]: what is done to each page, by a device or by the CPU.

use idxd::{Queue, Task, TaskError};

/// What became of a page in a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Verdict {
    /// Done.
    Done,
    /// There was no page at that address.
    Fault(u64),
    /// The device is well, and cannot do this; the CPU can.
    Cannot,
    /// The device failed.
    Failed,
}

/// Done to each page of a call.
pub(in crate::codec) trait Operation {
    /// Why the CPU cannot do it either.
    type Error;

    /// Whether tasks hold what came out, and are kept until the next call.
    const KEEPS_TASKS: bool;

    /// Bytes of a page that a device works through.
    fn bytes(&self) -> u64;

    /// Adds the page's descriptor to a task.
    fn push(&self, task: &mut Task, page: u32) -> Result<(), TaskError>;

    /// Takes what a device made of a page: descriptor `index` of the task, which is number `number` of those that are kept.
    fn landed(&mut self, task: &Task, number: usize, index: usize, page: u32) -> Verdict;

    /// Makes the page at an address appear that was missing there, if it is one of this page's, and not of a task's buffer.
    fn touch(&mut self, page: u32, address: u64);

    /// A device did not answer in time, and may still write to what it was given.
    fn timed_out(&mut self, queue: &Queue) -> Result<(), Self::Error>;

    /// Has the CPU do it.
    fn by_cpu(&mut self, page: u32) -> Result<(), Self::Error>;
}
