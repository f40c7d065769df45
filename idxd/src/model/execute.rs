// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What one device does with one entry of its queue.

#![expect(
    unsafe_code,
    reason = "a device reads and writes by address, and so does its model"
)]

use super::{
    Counts, Device, EntryFate, MemberFate,
    bus::{self, Residency},
};
use crate::{Completion, Descriptor, Flags, Opcode, Status};

/// Nothing to tell but the status.
const BLANK: Completion = Completion {
    status: Status::NONE,
    result: 0,
    completed: 0,
    fault_addr: 0,
};

/// A device at work: its description, and where it counts.
pub(super) struct Worker<'d> {
    pub(super) device: &'d Device,
    pub(super) residency: &'d Residency,
    pub(super) counts: Counts,
}

impl Worker<'_> {
    /// Works on an entry and writes its records.
    ///
    /// # Safety
    ///
    /// The entry was given to [`Port::submit`](crate::Port::submit) and is not completed, and its port is not closed: what its
    /// addresses name is there, by the contract of that function.
    pub(super) unsafe fn work(&mut self, entry: &Descriptor, fate: EntryFate) {
        let (status, completion) = if entry.opcode() == Opcode::Batch as u8 {
            // SAFETY: by contract.
            unsafe { self.batch(entry, fate) }
        } else {
            match fate {
                EntryFate::Status(status) => (status, BLANK),
                // SAFETY: by contract.
                _ => match unsafe { self.one(entry, false) } {
                    Some(said) => said,
                    None => return,
                },
            }
        };
        if !entry.flags().contains(Flags::COMPLETION_ADDRESS_VALID) {
            return;
        }
        // SAFETY: by contract; the port saw to the alignment.
        unsafe { bus::complete(entry.completion_addr(), status, &completion) };
    }

    /// # Safety
    ///
    /// As for `work`.
    unsafe fn batch(&mut self, entry: &Descriptor, fate: EntryFate) -> (u8, Completion) {
        let said = |status: Status| (status.code(), BLANK);
        let count = entry.xfer_size();
        let flags = Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD;
        if !flags.contains(entry.flags()) {
            return said(Status::INVALID_FLAGS);
        }
        if !entry.is_reserved_zero() {
            return said(Status::NOZERO_RESERVE);
        }
        if count < 2 || count > self.device.limits.max_batch {
            return said(Status::DESC_CNT_ERANGE);
        }
        if entry.src_addr() % Descriptor::SIZE as u64 != 0 {
            return said(Status::DESCLIST_ALIGN);
        }
        if let EntryFate::Status(status) = fate {
            return (status, BLANK);
        }
        let readable = match fate {
            EntryFate::ListFault(at) => at.min(count),
            _ => count,
        };
        self.counts.batches += 1;
        self.counts.largest_batch = self.counts.largest_batch.max(count);
        let mut all_well = true;
        for index in 0..readable {
            let address = entry.src_addr() + u64::from(index) * Descriptor::SIZE as u64;
            // SAFETY: by contract; aligned as its list is.
            let Some(member) = (unsafe { bus::descriptor(address) }) else {
                return said(Status::BATCH_PAGE_FAULT);
            };
            // SAFETY: by contract.
            if let Some((status, completion)) = unsafe { self.one(&member, true) } {
                all_well &= status == Status::SUCCESS.code();
                let wants = Flags::COMPLETION_ADDRESS_VALID;
                if member.flags().contains(wants) && member.completion_addr() % 32 == 0 {
                    // SAFETY: by contract.
                    unsafe { bus::complete(member.completion_addr(), status, &completion) };
                }
            } else {
                all_well = false;
            }
        }
        let status = match () {
            () if readable < count => Status::BATCH_PAGE_FAULT,
            () if all_well => Status::SUCCESS,
            () => Status::BATCH_FAIL,
        };
        let completion = Completion {
            completed: readable,
            fault_addr: entry.src_addr() + u64::from(readable) * Descriptor::SIZE as u64,
            ..BLANK
        };
        (status.code(), completion)
    }

    /// What a lone descriptor or a member says; none if its record is lost.
    ///
    /// # Safety
    ///
    /// As for `work`.
    unsafe fn one(&mut self, descriptor: &Descriptor, in_batch: bool) -> Option<(u8, Completion)> {
        self.counts.descriptors += 1;
        if let Err(status) = self.check(descriptor, in_batch) {
            return Some((status.code(), BLANK));
        }
        let fate = self.device.decider().member(descriptor);
        match fate {
            MemberFate::Silent => return None,
            MemberFate::Status(status) => return Some((status, BLANK)),
            MemberFate::FaultAt(at) => {
                // SAFETY: by contract.
                return Some(unsafe { self.fault(descriptor, at) });
            }
            MemberFate::Done => {}
        }
        let (address, size) = (descriptor.src_addr(), descriptor.xfer_size());
        if descriptor.opcode() == Opcode::Memfill as u8 {
            // SAFETY: by contract.
            unsafe { bus::fill(descriptor.dst_addr(), size, address) };
        }
        if descriptor.opcode() != Opcode::Compval as u8 {
            return Some((Status::SUCCESS.code(), BLANK));
        }
        if let Some(answers) = &self.device.prepared {
            let result = u8::from(answers(address, size));
            return Some((Status::SUCCESS.code(), Completion { result, ..BLANK }));
        }
        let missing = self
            .device
            .faults_on_missing_pages
            .then(|| self.residency.first_missing(address, size))
            .flatten();
        if let Some(at) = missing {
            // SAFETY: by contract.
            return Some(unsafe { self.fault(descriptor, at) });
        }
        // SAFETY: by contract.
        let differs = unsafe { bus::first_difference(address, size, descriptor.dst_addr()) };
        let completion = Completion {
            result: u8::from(differs.is_some()),
            completed: differs.unwrap_or(size),
            ..BLANK
        };
        Some((Status::SUCCESS.code(), completion))
    }

    /// What a descriptor says that came as far as byte `at` and found no page there.
    ///
    /// # Safety
    ///
    /// As for `work`.
    unsafe fn fault(&self, descriptor: &Descriptor, at: u32) -> (u8, Completion) {
        let size = descriptor.xfer_size();
        let at = at.min(size.saturating_sub(1));
        let address = descriptor.src_addr();
        if descriptor.opcode() == Opcode::Compval as u8 && at > 0 {
            // What differs before the fault ends the comparison.
            // SAFETY: by contract.
            let differs = unsafe { bus::first_difference(address, at, descriptor.dst_addr()) };
            if let Some(completed) = differs {
                let completion = Completion {
                    result: 1,
                    completed,
                    ..BLANK
                };
                return (Status::SUCCESS.code(), completion);
            }
        }
        let completion = Completion {
            completed: at,
            fault_addr: address.wrapping_add(u64::from(at)),
            ..BLANK
        };
        (Status::PAGE_FAULT_NOBOF.code(), completion)
    }

    /// What a device refuses before it begins.
    fn check(&self, descriptor: &Descriptor, in_batch: bool) -> Result<(), Status> {
        let flags = Flags::COMPLETION_ADDRESS_VALID
            | Flags::REQUEST_COMPLETION_RECORD
            | Flags::FENCE
            | Flags::CACHE_CONTROL;
        let sized = match Opcode::of(descriptor.opcode()) {
            Some(Opcode::Noop) => false,
            Some(Opcode::Drain) if !in_batch => false,
            Some(Opcode::Compval | Opcode::Memfill) => true,
            _ => return Err(Status::BAD_OPCODE),
        };
        if !flags.contains(descriptor.flags()) {
            return Err(Status::INVALID_FLAGS);
        }
        if !descriptor.is_reserved_zero() {
            return Err(Status::NOZERO_RESERVE);
        }
        let size = descriptor.xfer_size();
        if sized && (size == 0 || u64::from(size) > self.device.limits.max_transfer) {
            return Err(Status::XFER_ERANGE);
        }
        Ok(())
    }
}
