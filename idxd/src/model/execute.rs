// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What one device does with one entry of its queue.

#![expect(
    unsafe_code,
    reason = "a device reads and writes by address, and so does its model"
)]

use super::{
    Counts, Device, EntryFate, MemberFate, analytics,
    bus::{self, Residency},
    said::Said,
};
use crate::{Descriptor, Flags, Kind, Opcode, Status};

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
        let kind = self.device.limits.kind;
        let said = if kind == Kind::Dsa && entry.opcode() == Opcode::Batch as u8 {
            // SAFETY: by contract.
            unsafe { self.batch(entry, fate) }
        } else {
            match fate {
                EntryFate::Status(status) => Said::byte(status),
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
        unsafe { bus::complete(kind, entry.completion_addr(), &said) };
    }

    /// # Safety
    ///
    /// As for `work`.
    unsafe fn batch(&mut self, entry: &Descriptor, fate: EntryFate) -> Said {
        let count = entry.xfer_size();
        let flags = Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD;
        if !flags.contains(entry.flags()) {
            return Said::only(Status::INVALID_FLAGS);
        }
        if !entry.is_reserved_zero() {
            return Said::only(Status::NOZERO_RESERVE);
        }
        if count < 2 || count > self.device.limits.max_batch {
            return Said::only(Status::DESC_CNT_ERANGE);
        }
        if entry.src_addr() % Descriptor::SIZE as u64 != 0 {
            return Said::only(Status::DESCLIST_ALIGN);
        }
        if let EntryFate::Status(status) = fate {
            return Said::byte(status);
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
                return Said::only(Status::BATCH_PAGE_FAULT);
            };
            // SAFETY: by contract.
            if let Some(said) = unsafe { self.one(&member, true) } {
                all_well &= said.status == Status::SUCCESS.code();
                let wants = Flags::COMPLETION_ADDRESS_VALID;
                if member.flags().contains(wants) && member.completion_addr() % 32 == 0 {
                    // SAFETY: by contract.
                    unsafe { bus::complete(Kind::Dsa, member.completion_addr(), &said) };
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
        Said {
            completed: readable,
            fault_addr: entry.src_addr() + u64::from(readable) * Descriptor::SIZE as u64,
            ..Said::only(status)
        }
    }

    /// What a lone descriptor or a member says; none if its record is lost.
    ///
    /// # Safety
    ///
    /// As for `work`.
    unsafe fn one(&mut self, descriptor: &Descriptor, in_batch: bool) -> Option<Said> {
        self.counts.descriptors += 1;
        let is_iax = self.device.limits.kind == Kind::Iax;
        let checked = match is_iax {
            true => analytics::check(self.device, descriptor),
            false => self.check(descriptor, in_batch),
        };
        if let Err(status) = checked {
            return Some(Said::only(status));
        }
        let fate = self.device.decider().member(descriptor);
        let said = match fate {
            MemberFate::Silent => return None,
            MemberFate::Status(status) => Said::byte(status),
            MemberFate::Analytics(code) => analytics::analytics(code),
            MemberFate::FaultAt(at) if is_iax => analytics::fault(descriptor, at),
            // SAFETY: by contract.
            MemberFate::FaultAt(at) => unsafe { self.fault(descriptor, at) },
            MemberFate::Done if is_iax => {
                // SAFETY: by contract.
                unsafe { analytics::perform(self.device, self.residency, descriptor) }
            }
            // SAFETY: by contract.
            MemberFate::Done => unsafe { self.perform(descriptor) },
        };
        Some(said)
    }

    /// Does what a descriptor of a DSA says that was checked.
    ///
    /// # Safety
    ///
    /// As for `work`.
    unsafe fn perform(&self, descriptor: &Descriptor) -> Said {
        let (address, size) = (descriptor.src_addr(), descriptor.xfer_size());
        if descriptor.opcode() == Opcode::Memfill as u8 {
            // SAFETY: by contract.
            unsafe { bus::fill(descriptor.dst_addr(), size, address) };
        }
        let done = Said::only(Status::SUCCESS);
        if descriptor.opcode() != Opcode::Compval as u8 {
            return done;
        }
        if let Some(answers) = &self.device.prepared {
            let result = u8::from(answers(address, size));
            return Said { result, ..done };
        }
        let missing = self
            .device
            .faults_on_missing_pages
            .then(|| self.residency.first_missing(address, size))
            .flatten();
        if let Some(at) = missing {
            // SAFETY: by contract.
            return unsafe { self.fault(descriptor, at) };
        }
        // SAFETY: by contract.
        let differs = unsafe { bus::first_difference(address, size, descriptor.dst_addr()) };
        Said {
            result: u8::from(differs.is_some()),
            completed: differs.unwrap_or(size),
            ..done
        }
    }

    /// What a descriptor says that came as far as byte `at` and found no page there.
    ///
    /// # Safety
    ///
    /// As for `work`.
    unsafe fn fault(&self, descriptor: &Descriptor, at: u32) -> Said {
        let size = descriptor.xfer_size();
        let at = at.min(size.saturating_sub(1));
        let address = descriptor.src_addr();
        if descriptor.opcode() == Opcode::Compval as u8 && at > 0 {
            // What differs before the fault ends the comparison.
            // SAFETY: by contract.
            let differs = unsafe { bus::first_difference(address, at, descriptor.dst_addr()) };
            if let Some(completed) = differs {
                return Said {
                    result: 1,
                    completed,
                    ..Said::only(Status::SUCCESS)
                };
            }
        }
        Said {
            completed: at,
            fault_addr: address.wrapping_add(u64::from(at)),
            ..Said::only(Status::PAGE_FAULT_NOBOF)
        }
    }

    /// What a DSA refuses before it begins.
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
