// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`TaskMemory`]: the descriptors and completion records of one task, where a device finds them.
//!
//! ```text
//!  page                                                                                      page
//!  │ descriptors, 64 B each │ batch descriptors, 64 B │ batch records, 64 B │ records, 32 or 64 B │
//!  page
//!  │ buffer: what a device wrote                                                                 │
//! ```
//!
//! Pages of their own, for two reasons. A fork would share them with the child until one of the two writes, and then give
//! the writer a copy that the device knows nothing of, or make the device's write fault: they are wiped in the child
//! instead (`MADV_WIPEONFORK`), which leaves the parent's as they are. And a batch record has a cache line of its own, since
//! that is what a waiting thread looks at.
//!
//! They are not locked: every record is written to by the CPU right before its descriptor is submitted, which a lock would add
//! nothing to (it keeps no page from being migrated), and a VMM's system call filter may kill for `mlock`. The buffer is faulted in
//! once; where the kernel takes a page of it away, the device reports that, and the owner touches it.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ops::Range,
    ptr::{self, NonNull},
    slice,
};

use rustix::{
    io::Errno,
    mm::{Advice, madvise},
    param::page_size,
};

use crate::{Descriptor, IaxRecord, Kind, Record};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct TaskMemory {
    base: NonNull<u8>,
    layout: Layout,
    members: usize,
    batches: usize,
    record_size: usize,
    buffer: Range<usize>,
}

// SAFETY: it owns its pages, and gives out references by the usual rules; records are atomics.
unsafe impl Send for TaskMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for TaskMemory {}

/// What a batch record takes: a cache line.
const BATCH_RECORD: usize = 64;

impl TaskMemory {
    /// Room for `members` descriptors in up to `batches` batches, and a buffer. None if there is no memory for that.
    pub(crate) fn new(kind: Kind, members: usize, batches: usize, buffer: usize) -> Option<Self> {
        let record_size = kind.record_size();
        let size = members
            .checked_mul(Descriptor::SIZE + record_size)?
            .checked_add(batches.checked_mul(Descriptor::SIZE + BATCH_RECORD)?)?;
        let page = page_size();
        // Were a queue of IAA taken for one of DSA, the last record would be the longer one.
        let buffer_at = size
            .checked_add(BATCH_RECORD)?
            .checked_next_multiple_of(page)?;
        let buffer = buffer_at..buffer_at.checked_add(buffer)?;
        let size = buffer.end.checked_next_multiple_of(page)?;
        let layout = Layout::from_size_align(size, page).ok()?;
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        // SAFETY: whole pages that are ours. Where the kernel cannot (before 4.14), a fork may cost a record: its deadline passes.
        let _ = unsafe { madvise(base.as_ptr().cast(), size, Advice::LinuxWipeOnFork) };
        let mut memory = Self {
            base,
            layout,
            members,
            batches,
            record_size,
            buffer,
        };
        memory.fault_in_buffer();
        Some(memory)
    }

    /// A device that is not to wait for page faults would report every page of a new buffer.
    fn fault_in_buffer(&mut self) {
        for byte in self.buffer_mut().iter_mut().step_by(page_size()) {
            // SAFETY: a byte of ours; volatile, or else nothing need be written where there are zeroes.
            unsafe { ptr::from_mut(byte).write_volatile(0) };
        }
    }

    /// What a device wrote.
    pub(crate) fn buffer(&self) -> &[u8] {
        // SAFETY: inside the pages.
        let start = unsafe { self.base.byte_add(self.buffer.start) };
        // SAFETY: initialised when it was allocated, and written to by nobody meanwhile: while a device does, a `Flight` has
        // this, or the quarantine of its queue, and they lend it to nobody.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.buffer.len()) }
    }

    fn buffer_mut(&mut self) -> &mut [u8] {
        // SAFETY: inside the pages.
        let start = unsafe { self.base.byte_add(self.buffer.start) };
        // SAFETY: as for `buffer`, and nobody else has a reference.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.buffer.len()) }
    }

    /// Makes a page of the buffer appear that the kernel has taken away. Returns whether the address is one of it.
    pub(crate) fn touch_buffer(&mut self, address: u64) -> bool {
        let offset = address.checked_sub(self.buffer_address());
        let offset = offset.and_then(|offset| usize::try_from(offset).ok());
        let Some(byte) = offset.and_then(|offset| self.buffer_mut().get_mut(offset)) else {
            return false;
        };
        let place = ptr::from_mut(byte);
        // SAFETY: a byte of ours.
        let value = unsafe { place.read_volatile() };
        // SAFETY: as above; volatile, or else nothing need be written.
        unsafe { place.write_volatile(value) };
        true
    }

    /// Where the buffer is, for a device.
    #[inline]
    pub(crate) fn buffer_address(&self) -> u64 {
        self.address(self.buffer.start)
    }

    /// Descriptors that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.members
    }

    /// The address for a device of what is `offset` bytes behind the base.
    #[inline]
    fn address(&self, offset: usize) -> u64 {
        (self.base.as_ptr().expose_provenance() + offset) as u64
    }

    fn batch_descriptors_at(&self) -> usize {
        self.members * Descriptor::SIZE
    }

    fn batch_records_at(&self) -> usize {
        self.batch_descriptors_at() + self.batches * Descriptor::SIZE
    }

    fn records_at(&self) -> usize {
        self.batch_records_at() + self.batches * BATCH_RECORD
    }

    /// Sets the descriptor of a member, with its completion record, which is made ready.
    #[inline]
    pub(crate) fn set(&mut self, index: usize, descriptor: Descriptor) {
        let record = self.record_address(index);
        self.record(index).reset();
        self.all_mut()[index] = descriptor.completing_at(record);
    }

    /// Sets the descriptor of batch number `batch`, over these members.
    pub(crate) fn set_batch(&mut self, batch: usize, members: Range<usize>) {
        assert!(batch < self.batches && members.end <= self.members);
        let list = self.address(members.start * Descriptor::SIZE);
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let record = self.address(self.batch_records_at() + batch * BATCH_RECORD);
        self.batch_record(batch).reset();
        let index = self.members + batch;
        self.all_mut()[index] = Descriptor::batch(list, count).completing_at(record);
    }

    /// Descriptors of members.
    pub(crate) fn descriptors(&self, members: Range<usize>) -> &[Descriptor] {
        &self.all()[..self.members][members]
    }

    /// Descriptors of batches.
    pub(crate) fn batch_descriptors(&self, batches: Range<usize>) -> &[Descriptor] {
        &self.all()[self.members..][batches]
    }

    fn all(&self) -> &[Descriptor] {
        // SAFETY: so many descriptors are at the base, which is aligned; all bit patterns are valid; a device only reads them.
        unsafe { slice::from_raw_parts(self.base.as_ptr().cast(), self.members + self.batches) }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [Descriptor] {
        let len = self.members + self.batches;
        // SAFETY: as above; nobody else has a reference. (While a device reads them, a `Flight` has this, and lends nobody
        // a mutable reference.)
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr().cast(), len) }
    }

    /// Where the completion record of a member is, for a device.
    #[inline]
    pub(crate) fn record_address(&self, index: usize) -> u64 {
        self.address(self.records_at() + index * self.record_size)
    }

    /// The completion record of a member.
    #[inline]
    pub(crate) fn record(&self, index: usize) -> &Record {
        assert!(index < self.members);
        self.record_at(self.records_at() + index * self.record_size)
    }

    /// The completion record of a member, if it is for an IAA.
    #[inline]
    pub(crate) fn iax_record(&self, index: usize) -> Option<&IaxRecord> {
        assert!(index < self.members);
        if self.record_size != size_of::<IaxRecord>() {
            return None;
        }
        let offset = self.records_at() + index * self.record_size;
        // SAFETY: inside the pages.
        let place = unsafe { self.base.byte_add(offset) };
        // SAFETY: so long is each record, and so aligned: what is in front of them are multiples of 64 bytes from a page on. It is
        // made of atomics, of which every bit pattern is valid and which the device may write to meanwhile.
        Some(unsafe { place.cast::<IaxRecord>().as_ref() })
    }

    /// The completion record of a batch.
    pub(crate) fn batch_record(&self, batch: usize) -> &Record {
        assert!(batch < self.batches);
        self.record_at(self.batch_records_at() + batch * BATCH_RECORD)
    }

    /// `offset` is that of a record.
    #[inline]
    fn record_at(&self, offset: usize) -> &Record {
        debug_assert!(offset % align_of::<Record>() == 0);
        debug_assert!(offset + size_of::<Record>() <= self.layout.size());
        // SAFETY: the callers stay inside the pages, at multiples of 32, and a record is made of atomics, of which every bit
        // pattern is valid and which the device may write to meanwhile.
        let place = unsafe { self.base.byte_add(offset) };
        // SAFETY: as above.
        unsafe { place.cast::<Record>().as_ref() }
    }
}

impl Drop for TaskMemory {
    fn drop(&mut self) {
        // SAFETY: whole pages that are ours; the next owner shall not lose them in a fork.
        let kept = unsafe {
            madvise(
                self.base.as_ptr().cast(),
                self.layout.size(),
                Advice::LinuxKeepOnFork,
            )
        };
        if kept.is_err() && kept != Err(Errno::INVAL) {
            // A fork would wipe what the next owner has there. (INVAL: a kernel that has no such advice.)
            return;
        }
        // SAFETY: allocated with this layout. No device knows of it: what is in flight is drained or in quarantine.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_place_of_its_own_that_is_aligned() {
        for (kind, record) in [(Kind::Dsa, 32), (Kind::Iax, 64)] {
            let mut memory = TaskMemory::new(kind, 5, 2, 5000).unwrap();
            for index in 0..5 {
                memory.set(index, Descriptor::compval(index as u64, 1, 0));
            }
            memory.set_batch(0, 0..3);
            memory.set_batch(1, 3..5);
            let mut places: Vec<(u64, u64)> = Vec::new();
            for index in 0..5 {
                let descriptor = &memory.descriptors(index..index + 1)[0];
                assert_eq!(descriptor.src_addr(), index as u64);
                assert_eq!(descriptor.completion_addr() % record, 0);
                places.push((ptr::from_ref(descriptor).addr() as u64, 64));
                places.push((descriptor.completion_addr(), record));
            }
            for (batch, first, count) in [(0, 0, 3), (1, 3, 2)] {
                let descriptor = &memory.batch_descriptors(batch..batch + 1)[0];
                let list = ptr::from_ref(&memory.descriptors(first..first + 1)[0]);
                assert_eq!(descriptor.src_addr(), list.addr() as u64);
                assert_eq!(descriptor.src_addr() % 64, 0);
                assert_eq!(descriptor.xfer_size(), count);
                assert_eq!(descriptor.completion_addr() % 64, 0);
                places.push((ptr::from_ref(descriptor).addr() as u64, 64));
                places.push((descriptor.completion_addr(), 64));
            }
            assert_eq!(memory.buffer_address() % page_size() as u64, 0);
            assert_eq!(memory.buffer().len(), 5000);
            memory.buffer_mut().fill(0xa5);
            assert_eq!(
                memory.buffer().as_ptr().addr() as u64,
                memory.buffer_address()
            );
            assert_eq!(memory.iax_record(4).is_some(), kind == Kind::Iax);
            places.push((memory.buffer_address(), 5000));
            places.sort_unstable();
            for pair in places.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{kind}: {pair:x?}");
            }
            let base = memory.base.as_ptr().addr() as u64;
            assert!(places[0].0 >= base);
            let (last, size) = places[places.len() - 1];
            assert!(last + size <= base + memory.layout.size() as u64);
        }
    }

    #[test]
    fn what_does_not_fit_into_memory_is_refused() {
        assert!(TaskMemory::new(Kind::Dsa, usize::MAX / 64, 0, 0).is_none());
        assert!(TaskMemory::new(Kind::Dsa, 1, usize::MAX, 0).is_none());
        assert!(TaskMemory::new(Kind::Dsa, 1, 0, usize::MAX - 64).is_none());
        assert!(TaskMemory::new(Kind::Dsa, 1, 0, isize::MAX.unsigned_abs()).is_none());
    }
}
