// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Task`]: descriptors that go to a device together, and what came of them.

use std::{mem, ops::Range};

use thiserror::Error;

use crate::{
    Completion, Compress, Decompress, Descriptor, Destination, IaxCompletion, Keep, Kind, Opcode,
    Source, Status, iaa::Coding, split, sys::TaskMemory,
};

/// Some descriptors, their completion records, and what keeps the memory alive that they name.
///
/// Made once and used again: [`Task::clear`], fill, submit in a [`Flight`](crate::Flight), read.
#[derive(Debug)]
pub struct Task {
    pub(crate) memory: TaskMemory,
    kind: Kind,
    len: usize,
    /// Descriptors at the front that a device has had since the task was last cleared.
    sent: usize,
    /// Whether a device may have written to completion records since they were made ready.
    used: bool,
    /// Bytes that a device has to work through.
    bytes: u64,
    keeps: Vec<Keep>,
    /// Most members of a batch, whatever a queue allows.
    largest_batch: usize,
    /// Where each batch ends.
    pub(crate) ends: Vec<usize>,
}

impl Task {
    /// Room for `capacity` descriptors.
    ///
    /// # Errors
    ///
    /// If that is none, or there is no memory for it.
    pub fn with_capacity(kind: Kind, capacity: usize) -> Result<Self, TaskError> {
        Self::with_buffer(kind, capacity, 0)
    }

    /// Room for `capacity` descriptors, and a buffer of so many bytes, which a device writes to. All its pages are there from
    /// the beginning.
    ///
    /// # Errors
    ///
    /// If there is no room for a descriptor, or no memory for all that.
    pub fn with_buffer(kind: Kind, capacity: usize, bytes: usize) -> Result<Self, TaskError> {
        // Nowhere can there be more batches than pairs.
        let memory = TaskMemory::new(kind, capacity, capacity / 2, bytes)
            .filter(|_| capacity > 0)
            .ok_or(TaskError::Capacity { capacity })?;
        Ok(Self {
            memory,
            kind,
            len: 0,
            sent: 0,
            used: false,
            bytes: 0,
            keeps: Vec::new(),
            largest_batch: usize::MAX,
            ends: Vec::with_capacity(capacity / 2),
        })
    }

    /// What kind of device it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Descriptors that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Descriptors in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes batches of no more than so many descriptors, also where a queue allows larger ones.
    ///
    /// One task of several batches is waited for once; a device works on several batches with all its engines.
    pub fn set_largest_batch(&mut self, members: usize) {
        self.largest_batch = members;
    }

    /// Empties it, and lets go of all memory that its descriptors named.
    pub fn clear(&mut self) {
        self.len = 0;
        self.sent = 0;
        self.used = false;
        self.bytes = 0;
        self.keeps.clear();
    }

    /// Adds a comparison of `len` bytes at `offset` in `source` with `pattern`, of any alignment.
    ///
    /// # Errors
    ///
    /// If the task is full, or for IAA, or the range is empty or not inside `source`. Nothing is added then.
    #[inline]
    pub fn push_compval(
        &mut self,
        source: &Source,
        offset: u64,
        len: u32,
        pattern: u64,
    ) -> Result<(), TaskError> {
        if self.kind != Kind::Dsa {
            return Err(TaskError::Kind { kind: self.kind });
        }
        if len == 0 || !source.contains(offset, u64::from(len)) {
            return Err(TaskError::Outside {
                offset,
                len: u64::from(len),
                size: source.len(),
            });
        }
        let descriptor = Descriptor::compval(source.address() + offset, len, pattern);
        self.add(descriptor)?;
        self.keep(source.keep());
        Ok(())
    }

    /// The task's own buffer. (A flight has the task while a device works on it.)
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        self.memory.buffer()
    }

    /// Adds a compression (IAA) of the `part` of `source` into that part of the task's buffer. What does not fit there is an analytics
    /// error of the operation.
    ///
    /// # Errors
    ///
    /// If the task is full, or for DSA, or one of the ranges is empty or not inside. Nothing is added then.
    #[inline]
    pub fn push_compress(
        &mut self,
        source: &Source,
        part: Range<u64>,
        into: Range<usize>,
        coding: &Coding,
    ) -> Result<(), TaskError> {
        self.check_iax()?;
        let (src1_addr, src1_size) = inside(source.address(), source.len(), &part)?;
        let size = self.memory.buffer().len() as u64;
        let into = into.start as u64..into.end as u64;
        let (dst_addr, max_dst_size) = inside(self.memory.buffer_address(), size, &into)?;
        let (src2_addr, src2_size) = coding.tables();
        self.add(Descriptor::compress(&Compress {
            src1_addr,
            src1_size,
            dst_addr,
            max_dst_size,
            src2_addr,
            src2_size,
            compr_flags: coding.compr_flags(),
        }))?;
        self.keep(source.keep());
        if let Some(keep) = coding.keep() {
            self.keep(keep);
        }
        Ok(())
    }

    /// Adds an inflation (IAA) of the `part` of `source` to that part of `destination`. A stream that has more is an overflow, and an
    /// error of the operation; one that has less is not.
    ///
    /// # Errors
    ///
    /// If the task is full, or for DSA, or one of the ranges is empty or not inside. Nothing is added then.
    #[inline]
    pub fn push_decompress(
        &mut self,
        source: &Source,
        part: Range<u64>,
        destination: &Destination,
        into: Range<u64>,
    ) -> Result<(), TaskError> {
        self.check_iax()?;
        let (src1_addr, src1_size) = inside(source.address(), source.len(), &part)?;
        let (dst_addr, max_dst_size) = inside(destination.address(), destination.len(), &into)?;
        self.add(Descriptor::decompress(&Decompress {
            src1_addr,
            src1_size,
            dst_addr,
            max_dst_size,
            decompr_flags: Decompress::WHOLE_STREAM,
        }))?;
        self.keep(source.keep());
        self.keep(destination.keep());
        Ok(())
    }

    fn check_iax(&self) -> Result<(), TaskError> {
        match self.kind {
            Kind::Iax => Ok(()),
            Kind::Dsa => Err(TaskError::Kind { kind: self.kind }),
        }
    }

    /// Adds a descriptor that names no memory but its record.
    ///
    /// # Errors
    ///
    /// If the task is full.
    pub fn push_noop(&mut self) -> Result<(), TaskError> {
        self.add(Descriptor::noop())
    }

    /// Adds any descriptor; its completion address is filled in.
    ///
    /// # Safety
    ///
    /// The descriptor is one that asks for a completion record, as those do that [`Descriptor`] makes; without one the task is never
    /// done. As long as a clone of `keep` lives, the memory that it names may be used by a device as it says; what is written to is
    /// used by nobody else until the task is back.
    ///
    /// # Errors
    ///
    /// If the task is full.
    #[expect(
        unsafe_code,
        reason = "the caller promises what a safe constructor checks"
    )]
    pub unsafe fn push(&mut self, descriptor: Descriptor, keep: &Keep) -> Result<(), TaskError> {
        self.add(descriptor)?;
        self.keep(keep);
        Ok(())
    }

    #[inline]
    fn add(&mut self, descriptor: Descriptor) -> Result<(), TaskError> {
        if self.len == self.capacity() {
            return Err(TaskError::Full {
                capacity: self.capacity(),
            });
        }
        self.memory.set(self.len, descriptor);
        self.bytes += u64::from(descriptor.work());
        self.len += 1;
        Ok(())
    }

    #[inline]
    fn keep(&mut self, keep: &Keep) {
        // Pages of one block follow one another, and a count that all threads share is not touched for each. Beside a page a
        // descriptor may name tables.
        let mut last = self.keeps.iter().rev().take(2);
        if !last.any(|last| std::sync::Arc::ptr_eq(last, keep)) {
            self.keeps.push(keep.clone());
        }
    }

    /// Makes it ready to be submitted: every record, and the descriptors of its batches. Returns the first member that is in
    /// no batch.
    pub(crate) fn prepare(&mut self, max_batch: usize) -> usize {
        self.sent = 0;
        if mem::replace(&mut self.used, true) {
            // What the last device wrote would be taken for the answer of the next one, while that still writes.
            for index in 0..self.len {
                self.memory.record(index).reset();
            }
        }
        let largest = match self.kind {
            Kind::Dsa => max_batch.min(self.largest_batch),
            // It has none, whatever a queue is believed to allow.
            Kind::Iax => 0,
        };
        split::into_batches(self.len, largest, &mut self.ends);
        let mut start = 0;
        for (batch, end) in self.ends.iter().enumerate() {
            self.memory.set_batch(batch, start..*end);
            start = *end;
        }
        start
    }

    /// Bytes that a device has to work through.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes descriptors away behind the first `len`, of a task that is not in batches.
    pub(crate) fn truncate(&mut self, len: usize) {
        debug_assert!(self.ends.is_empty());
        while len < self.len {
            self.len -= 1;
            let descriptor = self.memory.descriptors(self.len..self.len + 1)[0];
            self.bytes -= u64::from(descriptor.work());
        }
    }

    /// Notes how many a device had.
    pub(crate) fn set_sent(&mut self, sent: usize) {
        self.sent = sent;
    }

    /// Descriptors at the front that a device took when the task was last submitted. The others were never begun.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// What the device said of a descriptor; [`Status::NONE`] for one that it did not take or did not get to.
    ///
    /// # Panics
    ///
    /// If there is no such descriptor.
    #[must_use]
    #[inline]
    pub fn completion(&self, index: usize) -> Completion {
        assert!(index < self.len, "descriptor {index} of {}", self.len);
        if index < self.sent {
            return self.memory.record(index).read();
        }
        Completion {
            status: Status::NONE,
            result: 0,
            completed: 0,
            fault_addr: 0,
        }
    }

    /// What an IAA said of a descriptor; a status of [`Status::NONE`] for one that it did not take.
    ///
    /// # Panics
    ///
    /// If there is no such descriptor.
    #[must_use]
    #[inline]
    pub fn iax_completion(&self, index: usize) -> IaxCompletion {
        let common = self.completion(index);
        let record = self.memory.iax_record(index);
        match record.filter(|_| index < self.sent) {
            Some(record) => record.read(),
            None => IaxCompletion {
                common,
                output_size: 0,
                crc: 0,
            },
        }
    }

    /// The part of the buffer that a compression filled; none if it did not succeed, or claims to have written more than it was
    /// allowed to.
    ///
    /// # Panics
    ///
    /// If there is no such descriptor.
    #[must_use]
    #[inline]
    pub fn output(&self, index: usize) -> Option<&[u8]> {
        let said = self.iax_completion(index);
        let descriptor = &self.memory.descriptors(index..index + 1)[0];
        if said.common.status != Status::SUCCESS || descriptor.opcode() != Opcode::Compress as u8 {
            return None;
        }
        let start = descriptor
            .dst_addr()
            .checked_sub(self.memory.buffer_address())?;
        let start = usize::try_from(start).ok()?;
        let size = Some(said.output_size).filter(|size| *size <= descriptor.max_dst_size())?;
        self.buffer()
            .get(start..start.checked_add(usize::try_from(size).ok()?)?)
    }

    /// Makes the page at `address` appear, if it is one of the buffer's: for a device that did not find it there. Returns whether it is.
    pub fn touch(&mut self, address: u64) -> bool {
        self.memory.touch_buffer(address)
    }

    /// What the device said of each batch that it took, when the task was last submitted. Members without a completion of
    /// their own are explained by that of their batch: a count that the queue does not allow, a list that could not be read.
    pub fn batch_completions(&self) -> impl Iterator<Item = Completion> + '_ {
        let taken = self.ends.iter().take_while(|end| **end <= self.sent);
        taken
            .enumerate()
            .map(|(batch, _)| self.memory.batch_record(batch).read())
    }
}

/// The address of a part of some memory, and its length, if it is inside and not empty.
#[inline]
fn inside(address: u64, size: u64, part: &Range<u64>) -> Result<(u64, u32), TaskError> {
    let len = part.end.saturating_sub(part.start);
    match u32::try_from(len) {
        Ok(short) if short > 0 && part.end <= size => Ok((address + part.start, short)),
        _ => Err(TaskError::Outside {
            offset: part.start,
            len,
            size,
        }),
    }
}

/// Why a descriptor cannot be part of a task.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No room, or too much of it.
    #[error("no task of {capacity} descriptors: there is no memory for it, or it is empty")]
    Capacity {
        /// Descriptors that were asked for.
        capacity: usize,
    },
    /// The task is full.
    #[error("the task has room for {capacity} descriptors")]
    Full {
        /// Descriptors that there is room for.
        capacity: usize,
    },
    /// Another kind of device has this operation.
    #[error("{kind} devices have no such operation")]
    Kind {
        /// What the task is for.
        kind: Kind,
    },
    /// Not inside the source, the destination, or the task's buffer.
    #[error(
        "{len:#x} bytes at offset {offset:#x} are empty, or not inside of memory of {size:#x} bytes"
    )]
    Outside {
        /// Where they begin in the memory.
        offset: u64,
        /// How many they are.
        len: u64,
        /// The length of the memory.
        size: u64,
    },
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_lies_outside_of_the_source_never_becomes_a_descriptor() {
        let source = Source::of_vec(vec![0; 100]).unwrap();
        let mut task = Task::with_capacity(Kind::Dsa, 2).unwrap();
        for (offset, len) in [
            (0, 0),
            (0, 101),
            (100, 1),
            (99, 2),
            (u64::MAX, 1),
            (1, u32::MAX),
        ] {
            let error = task.push_compval(&source, offset, len, 0).unwrap_err();
            assert!(matches!(error, TaskError::Outside { .. }), "{error}");
        }
        assert!(task.is_empty());
        task.push_compval(&source, 99, 1, 0).unwrap();
        task.push_compval(&source, 0, 100, 0).unwrap();
        assert_eq!(
            task.push_compval(&source, 0, 1, 0),
            Err(TaskError::Full { capacity: 2 })
        );
        assert_eq!(task.completion(0).status, Status::NONE);
    }

    #[test]
    fn a_source_is_kept_once_and_let_go_when_cleared() {
        let source = Source::of_vec(vec![0; 8192]).unwrap();
        let held = || Arc::strong_count(source.keep());
        let before = held();
        let mut task = Task::with_capacity(Kind::Dsa, 8).unwrap();
        for page in 0..2 {
            task.push_compval(&source, page * 4096, 4096, 0).unwrap();
        }
        assert_eq!(held(), before + 1);
        task.clear();
        assert_eq!(held(), before);
    }

    #[test]
    fn sizes_and_kinds_that_make_no_sense_are_refused() {
        for capacity in [0, usize::MAX] {
            let error = Task::with_capacity(Kind::Dsa, capacity).unwrap_err();
            assert_eq!(error, TaskError::Capacity { capacity });
        }
        let source = Source::of_vec(vec![0; 64]).unwrap();
        let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
        assert_eq!(
            task.push_compval(&source, 0, 64, 0),
            Err(TaskError::Kind { kind: Kind::Iax })
        );
    }
}
