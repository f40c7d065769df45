// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Record`] and [`IaxRecord`]: what a device writes when it is done, and [`Completion`] and [`IaxCompletion`], what was read
//! of it.
//!
//! ```text
//!        0        1                     2            4                  8            16         24      32            64
//!  DSA   │ status │ result              │ fault_info │ bytes_completed  │ fault_addr │ invalid_flags …  │
//!  IAA   │ status │ error_code          │ fault_info │ bytes_completed  │ fault_addr │ …  │ output_size …           │
//! ```
//!
//! A device writes the record as a whole and with it the status, which is 0 before. Layout: `struct dsa_completion_record` and
//! `struct iax_completion_record` of the kernel's `include/uapi/linux/idxd.h`.

use std::{
    fmt,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use crate::iaa::ErrorCode;

/// How an operation ended, of the status byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u8);

impl Status {
    /// The device has not written the record.
    pub const NONE: Self = Self(0x00);
    /// Done.
    pub const SUCCESS: Self = Self(0x01);
    /// Done, and the result is not the one that was expected.
    pub const SUCCESS_PRED: Self = Self(0x02);
    /// A page was missing, and nobody was asked for it.
    pub const PAGE_FAULT_NOBOF: Self = Self(0x03);
    /// A page was missing, and the kernel could not bring it.
    pub const PAGE_FAULT_IR: Self = Self(0x04);
    /// Not every descriptor of the batch succeeded.
    pub const BATCH_FAIL: Self = Self(0x05);
    /// The list of the batch could not be read to its end.
    pub const BATCH_PAGE_FAULT: Self = Self(0x06);
    /// IAA: see the error code.
    pub const ANALYTICS_ERROR: Self = Self(0x0a);
    /// IAA: the output does not fit.
    pub const OUTBUF_OVERFLOW: Self = Self(0x0b);
    /// No such operation.
    pub const BAD_OPCODE: Self = Self(0x10);
    /// A flag that this operation does not take.
    pub const INVALID_FLAGS: Self = Self(0x11);
    /// A reserved field is not 0.
    pub const NOZERO_RESERVE: Self = Self(0x12);
    /// The size is 0, or more than the queue allows.
    pub const XFER_ERANGE: Self = Self(0x13);
    /// Fewer than 2 descriptors, or more than the queue allows.
    pub const DESC_CNT_ERANGE: Self = Self(0x14);
    /// The list of a batch is not 64-byte aligned.
    pub const DESCLIST_ALIGN: Self = Self(0x18);
    /// The address of the completion record is not aligned.
    pub const CRA_ALIGN: Self = Self(0x1b);
    /// An address is not aligned.
    pub const ADDR_ALIGN: Self = Self(0x1c);
    /// IAA: source and destination overlap.
    pub const OVERLAP_BUFFERS: Self = Self(0x16);
    /// The device failed.
    pub const HW_ERR1: Self = Self(0x20);
    /// IAA: `compr_flags` or `decompr_flags` that make no sense.
    pub const INVALID_COMP_FLAG: Self = Self(0x30);

    /// The status in a status byte: bit 7 says that a faulting access was a write. Beside success it makes no sense, and the byte
    /// is then a status that is not known.
    #[must_use]
    pub const fn of_byte(byte: u8) -> Self {
        match byte & 0x7f {
            0..=2 => Self(byte),
            code => Self(code),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0x00 => "none",
            0x01 => "success",
            0x02 => "success, false predicate",
            0x03 => "page fault",
            0x04 => "page fault that the kernel could not resolve",
            0x05 => "batch with failed descriptors",
            0x06 => "page fault while reading the batch",
            0x0a => "analytics error",
            0x0b => "output buffer overflow",
            0x10 => "bad opcode",
            0x11 => "invalid flags",
            0x12 => "reserved field not zero",
            0x13 => "transfer size out of range",
            0x14 => "descriptor count out of range",
            0x16 => "overlapping buffers",
            0x18 => "misaligned descriptor list",
            0x19 => "bad interrupt handle",
            0x1a => "completion record address not translated",
            0x1b => "misaligned completion record",
            0x1c => "misaligned address",
            0x1d => "privileged",
            0x1e => "traffic class",
            0x1f => "page fault while reading back",
            0x20 | 0x21 => "hardware error",
            0x22 => "translation failed",
            0x23 => "page request timed out",
            0x24 => "watchdog expired",
            0x26 => "drained while its event was logged",
            0x27 => "batch with a logged event",
            0x30 => "invalid compression flag",
            0x31 => "invalid filter flag",
            0x32 => "invalid input size",
            0x33 => "invalid number of elements",
            0x34 => "invalid width of the first source",
            0x35 => "invalid inversion of the output",
            _ => "unknown status",
        }
    }

    /// Whether bytes before the fault were worked on, and `bytes_completed` says how many.
    #[must_use]
    pub fn is_page_fault(self) -> bool {
        matches!(self, Self::PAGE_FAULT_NOBOF | Self::PAGE_FAULT_IR)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} ({})", self.0, self.name())
    }
}

/// What a completion record said when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// How the operation ended; [`Status::NONE`] if the device has not said.
    pub status: Status,
    /// Of a comparison: 0 equal, 1 different. Of IAA: the error code.
    pub result: u8,
    /// Bytes before the one that stopped the operation; of a batch, descriptors.
    pub completed: u32,
    /// Where a page was missing.
    pub fault_addr: u64,
}

/// What the completion record of an IAA said when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IaxCompletion {
    /// What IAA and DSA have in common.
    pub common: Completion,
    /// Bytes that were written, as the device says. More than it was allowed to write is not to be believed.
    pub output_size: u32,
    /// CRC-32 of the uncompressed bytes.
    pub crc: u32,
}

impl IaxCompletion {
    /// Why there is an analytics error.
    #[must_use]
    pub fn error_code(&self) -> ErrorCode {
        ErrorCode::of(self.common.result)
    }
}

/// The first 32 bytes of a completion record of either kind, which a device writes to at any time while its descriptor is in
/// flight. Hence atomics.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct Record {
    status: AtomicU8,
    result: AtomicU8,
    fault_info: AtomicU8,
    rsvd: AtomicU8,
    completed: AtomicU32,
    fault_addr: AtomicU64,
    rest: [AtomicU64; 2],
}

impl Record {
    /// Whether the device has written it.
    ///
    /// If so, what the device wrote before it can be read: Acquire, which pairs with the order in which a device's writes
    /// arrive, and in the model with the Release of `complete`.
    #[must_use]
    #[inline]
    pub fn is_done(&self) -> bool {
        self.status.load(Ordering::Acquire) != Status::NONE.0
    }

    /// What it says now.
    #[must_use]
    #[inline]
    pub fn read(&self) -> Completion {
        // Pairs as in `is_done`; the fields below were written before.
        let status = self.status.load(Ordering::Acquire);
        Completion {
            status: Status::of_byte(status),
            result: self.result.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            fault_addr: self.fault_addr.load(Ordering::Relaxed),
        }
    }

    /// Makes it ready for a descriptor. Only while no device knows of it: submitting orders this before the device's work.
    #[inline]
    pub(crate) fn reset(&self) {
        self.status.store(Status::NONE.0, Ordering::Relaxed);
    }

    /// Writes it as a device does, the status last.
    #[cfg(any(all(test, not(loom)), feature = "model"))]
    pub(crate) fn complete(&self, status: u8, completion: &Completion) {
        self.result.store(completion.result, Ordering::Relaxed);
        self.completed
            .store(completion.completed, Ordering::Relaxed);
        self.fault_addr
            .store(completion.fault_addr, Ordering::Relaxed);
        // Pairs with the Acquire in `is_done` and `read`.
        self.status.store(status, Ordering::Release);
    }
}

/// The completion record of an IAA.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct IaxRecord {
    first: Record,
    // `output_size` is in the first half of the record of a DSA's length, which does not know it.
    crc: AtomicU32,
    rest: [AtomicU32; 7],
}

impl IaxRecord {
    /// What IAA and DSA have in common.
    #[must_use]
    pub fn common(&self) -> &Record {
        &self.first
    }

    /// What it says now.
    #[must_use]
    pub fn read(&self) -> IaxCompletion {
        // The status is in it, and read first: Acquire.
        let common = self.first.read();
        // The low half of the eight bytes at 24, after which come output_bits and xor_csum.
        let word = self.first.rest[1].load(Ordering::Relaxed);
        IaxCompletion {
            common,
            output_size: u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0),
            crc: self.crc.load(Ordering::Relaxed),
        }
    }

    /// Writes it as a device does, the status last.
    #[cfg(any(all(test, not(loom)), feature = "model"))]
    pub(crate) fn complete(&self, status: u8, completion: &IaxCompletion) {
        let size = u64::from(completion.output_size);
        self.first.rest[1].store(size, Ordering::Relaxed);
        self.crc.store(completion.crc, Ordering::Relaxed);
        self.first.complete(status, &completion.common);
    }
}

/// Where fields are, for the comparison with the kernel's header.
#[cfg(all(test, not(loom)))]
pub(crate) fn layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("dsa_completion_record", size_of::<Record>()),
        ("dsa_completion_record.status", offset_of!(Record, status)),
        ("dsa_completion_record.result", offset_of!(Record, result)),
        (
            "dsa_completion_record.bytes_completed",
            offset_of!(Record, completed),
        ),
        (
            "dsa_completion_record.fault_addr",
            offset_of!(Record, fault_addr),
        ),
        (
            "dsa_completion_record.op_specific",
            offset_of!(Record, rest),
        ),
        ("iax_completion_record", size_of::<IaxRecord>()),
        ("iax_completion_record.status", offset_of!(Record, status)),
        (
            "iax_completion_record.error_code",
            offset_of!(Record, result),
        ),
        (
            "iax_completion_record.bytes_completed",
            offset_of!(Record, completed),
        ),
        (
            "iax_completion_record.fault_addr",
            offset_of!(Record, fault_addr),
        ),
        (
            "iax_completion_record.output_size",
            offset_of!(Record, rest) + size_of::<u64>(),
        ),
        ("iax_completion_record.crc", offset_of!(IaxRecord, crc)),
    ]
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_nothing_until_its_status_is_there() {
        let record = Record::default();
        assert!(!record.is_done());
        let said = Completion {
            status: Status::PAGE_FAULT_NOBOF,
            result: 0,
            completed: 512,
            fault_addr: 0x7000,
        };
        // Bit 7: the access that faulted was a write.
        record.complete(0x83, &said);
        assert!(record.is_done());
        assert_eq!(record.read(), said);
        record.reset();
        assert!(!record.is_done());
    }

    #[test]
    fn the_record_of_an_iaa_says_how_much_it_wrote() {
        let record = IaxRecord::default();
        let said = IaxCompletion {
            common: Completion {
                status: Status::ANALYTICS_ERROR,
                result: 25,
                completed: 4096,
                fault_addr: 0,
            },
            output_size: 4095,
            crc: 0xffff_fffe,
        };
        record.complete(Status::ANALYTICS_ERROR.code(), &said);
        assert_eq!(record.read(), said);
        assert_eq!(said.error_code().code(), 25);
    }

    #[test]
    fn every_status_has_a_name_and_a_number() {
        assert_eq!(
            Status::DESC_CNT_ERANGE.to_string(),
            "0x14 (descriptor count out of range)"
        );
        assert_eq!(Status::of_byte(0x7e).to_string(), "0x7e (unknown status)");
        assert_eq!(Status::of_byte(0x83), Status::PAGE_FAULT_NOBOF);
        assert_eq!(Status::of_byte(0xa4).to_string(), "0x24 (watchdog expired)");
        assert_eq!(Status::of_byte(0x81).to_string(), "0x81 (unknown status)");
        assert_ne!(Status::of_byte(0x80), Status::NONE);
    }
}
