// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What an IAA does: the checks that come first, and the two operations.
//!
//! ```text
//!  descriptor ─► check ─► prepared? ────────────────────────┐
//!                           └► read source, AECS ─► compute ┴► write destination ─► size, CRC
//! ```
//!
//! An operation that fails half-way leaves in the destination what it had made by then, as a device may. One that meets a missing page
//! has no partial progress: it is to be done again as a whole, which is what Intel's library does.

#![expect(
    unsafe_code,
    reason = "a device reads and writes by address, and so does its model"
)]

use std::ops::Range;

use super::{
    Device,
    bus::{self, Residency},
    crc::crc32,
    deflate,
    said::Said,
};
use crate::{
    Decompress, Descriptor, Flags, Opcode, Status,
    iaa::{Aecs, ErrorCode, InflateError, inflate_part},
};

/// Most bytes that a device makes codes for.
const GENERATES_UP_TO: u32 = 4096;

/// `compr_flags`: with the codes of an AECS, and with codes of the device.
const BY_TABLES: u16 = 0x0006;
const BY_COUNTS: u16 = 0x3006;

/// Bit 7 of the status byte: the access that faulted was a write.
const WRITE: u8 = 0x80;

/// What a device refuses before it begins.
pub(super) fn check(device: &Device, descriptor: &Descriptor) -> Result<(), Status> {
    let bytes = descriptor.to_bytes();
    let is_zero = |field: Range<usize>| bytes[field].iter().all(|byte| *byte == 0);
    let plain = Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD;
    let cached = plain | Flags::CACHE_CONTROL;
    let flags = match Opcode::of(descriptor.opcode()) {
        Some(Opcode::Noop | Opcode::Drain) => plain,
        Some(Opcode::Decompress) => cached,
        Some(Opcode::Compress) => cached | Flags::READ_SOURCE_2_AECS,
        _ => return Err(Status::BAD_OPCODE),
    };
    if !flags.contains(descriptor.flags()) {
        return Err(Status::INVALID_FLAGS);
    }
    let by_tables = descriptor.flags().contains(Flags::READ_SOURCE_2_AECS);
    let reserved = is_zero(0..4) && is_zero(36..38) && is_zero(56..64);
    let second_source = is_zero(40..48) && is_zero(52..56);
    if !reserved || !(by_tables || second_source) {
        return Err(Status::NOZERO_RESERVE);
    }
    if flags == plain {
        return match is_zero(16..64) {
            true => Ok(()),
            false => Err(Status::NOZERO_RESERVE),
        };
    }
    check_operation(device, descriptor, by_tables)
}

fn check_operation(
    device: &Device,
    descriptor: &Descriptor,
    by_tables: bool,
) -> Result<(), Status> {
    let (size, room) = (descriptor.xfer_size(), descriptor.max_dst_size());
    let fits = |size: u32| size > 0 && u64::from(size) <= device.limits.max_transfer;
    if !fits(size) || !fits(room) {
        return Err(Status::XFER_ERANGE);
    }
    let aecs = descriptor.src2_size();
    if by_tables {
        if descriptor.src2_addr() % 32 != 0 || aecs % 32 != 0 {
            return Err(Status::ADDR_ALIGN);
        }
        if aecs as usize != Aecs::SIZE {
            return Err(Status::XFER_ERANGE);
        }
    }
    let generates = device.generates_headers && size <= GENERATES_UP_TO;
    let known = match descriptor.compr_flags() {
        flags if is_decompress(descriptor) => flags == Decompress::WHOLE_STREAM,
        BY_TABLES => by_tables,
        BY_COUNTS => generates && !by_tables,
        _ => false,
    };
    if !known {
        return Err(Status::INVALID_COMP_FLAG);
    }
    let written = span(descriptor.dst_addr(), room);
    let meets = |address, size| {
        let read: Range<u64> = span(address, size);
        read.start < written.end && written.start < read.end
    };
    if meets(descriptor.src_addr(), size) || by_tables && meets(descriptor.src2_addr(), aecs) {
        return Err(Status::OVERLAP_BUFFERS);
    }
    Ok(())
}

fn span(address: u64, size: u32) -> Range<u64> {
    address..address.saturating_add(u64::from(size))
}

fn is_decompress(descriptor: &Descriptor) -> bool {
    descriptor.opcode() == Opcode::Decompress as u8
}

/// What is said where a page is missing. Of a compression, bytes of the source come first, and those of the destination
/// after them; of a decompression only the destination's are meant.
pub(super) fn fault(descriptor: &Descriptor, at: u32) -> Said {
    let size = match is_decompress(descriptor) {
        true => 0,
        false => descriptor.xfer_size(),
    };
    if at < size {
        return missing(descriptor.src_addr(), at, 0);
    }
    let last = descriptor.max_dst_size().saturating_sub(1);
    missing(descriptor.dst_addr(), (at - size).min(last), WRITE)
}

fn missing(address: u64, at: u32, write: u8) -> Said {
    Said {
        fault_addr: address.wrapping_add(u64::from(at)),
        ..Said::byte(Status::PAGE_FAULT_NOBOF.code() | write)
    }
}

/// An analytics error.
pub(super) fn analytics(code: u8) -> Said {
    Said {
        result: code,
        ..Said::only(Status::ANALYTICS_ERROR)
    }
}

/// Does what a descriptor says that was checked.
///
/// # Safety
///
/// It was submitted and is not completed: what its addresses name is there.
pub(super) unsafe fn perform(
    device: &Device,
    residency: &Residency,
    descriptor: &Descriptor,
) -> Said {
    if !is_decompress(descriptor) && descriptor.opcode() != Opcode::Compress as u8 {
        return Said::only(Status::SUCCESS);
    }
    if let Some(output) = device.outputs.as_ref().and_then(|known| known(descriptor)) {
        let said = Said {
            crc: output.crc,
            ..Said::only(Status::SUCCESS)
        };
        // SAFETY: by contract.
        return unsafe { deliver(None, descriptor, &output.bytes, said) };
    }
    let residency = device.faults_on_missing_pages.then_some(residency);
    let absent = |address, size| {
        let at = residency?.first_missing(address, size)?;
        Some(missing(address, at, 0))
    };
    let source = (descriptor.src_addr(), descriptor.xfer_size());
    let aecs = (descriptor.src2_addr(), descriptor.src2_size());
    if let Some(said) = absent(source.0, source.1).or_else(|| absent(aecs.0, aecs.1)) {
        return said;
    }
    // SAFETY: by contract.
    let input = unsafe { bus::read(source.0, source.1) };
    let (output, said) = if is_decompress(descriptor) {
        decompressed(&input, descriptor.max_dst_size())
    } else {
        // SAFETY: by contract.
        let aecs = unsafe { bus::read(aecs.0, aecs.1) };
        compressed(&input, &aecs, descriptor.max_dst_size())
    };
    // SAFETY: by contract.
    unsafe { deliver(residency, descriptor, &output, said) }
}

/// Writes as much of the output as the destination takes.
///
/// # Safety
///
/// As for [`perform`].
unsafe fn deliver(
    residency: Option<&Residency>,
    descriptor: &Descriptor,
    output: &[u8],
    said: Said,
) -> Said {
    let room = descriptor.max_dst_size();
    let size = u32::try_from(output.len()).unwrap_or(u32::MAX);
    let written = size.min(room);
    let address = descriptor.dst_addr();
    let absent = residency.and_then(|residency| residency.first_missing(address, written));
    if let Some(at) = absent {
        return missing(address, at, WRITE);
    }
    // SAFETY: by contract.
    unsafe { bus::write(address, &output[..written as usize]) };
    if said.status != Status::SUCCESS.code() {
        return said;
    }
    match size > room {
        true if is_decompress(descriptor) => Said::only(Status::OUTBUF_OVERFLOW),
        true => analytics(ErrorCode::OUTPUT_OVERFLOW.code()),
        false => Said {
            completed: descriptor.xfer_size(),
            output_size: written,
            ..said
        },
    }
}

/// What the input compresses to, and what is said of it. No AECS has the device make the codes.
fn compressed(input: &[u8], aecs: &[u8], room: u32) -> (Vec<u8>, Said) {
    // No symbol has more bits than two bytes, and no header more than an AECS has room for.
    let most = 2 * input.len() + 512;
    let mut output = vec![0; most.min(room as usize)];
    let (written, said) = match aecs.first_chunk() {
        Some(aecs) => deflate::by_tables(input, aecs, &mut output),
        None => deflate::by_counts(input, &mut output),
    };
    output.truncate(written);
    let said = match said {
        Ok(()) => Said {
            crc: crc32(0, input),
            ..Said::only(Status::SUCCESS)
        },
        Err(code) => analytics(code.code()),
    };
    (output, said)
}

/// What the input stands for, and what is said of it.
fn decompressed(input: &[u8], room: u32) -> (Vec<u8>, Said) {
    let mut output = vec![0; room as usize];
    let (written, said) = inflate_part(input, &mut output);
    output.truncate(written);
    let said = match said {
        Ok(_) => Said {
            crc: crc32(0, &output),
            ..Said::only(Status::SUCCESS)
        },
        Err(InflateError::Overflow) => Said::only(Status::OUTBUF_OVERFLOW),
        Err(InflateError::Analytics(code)) => analytics(code.code()),
    };
    (output, said)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Compress;

    #[test]
    fn bit_7_says_that_what_is_missing_was_to_be_written() {
        let compress = Descriptor::compress(&Compress {
            src1_addr: 0x1000,
            src1_size: 4096,
            dst_addr: 0x3000,
            max_dst_size: 100,
            src2_addr: 0,
            src2_size: 0,
            compr_flags: BY_COUNTS,
        });
        let decompress = Descriptor::decompress(&Decompress {
            src1_addr: 0x1000,
            src1_size: 100,
            dst_addr: 0x3000,
            max_dst_size: 4096,
            decompr_flags: Decompress::WHOLE_STREAM,
        });
        for (descriptor, at, status, address) in [
            (compress, 0, 0x03, 0x1000),
            (compress, 4095, 0x03, 0x1fff),
            (compress, 4096, 0x83, 0x3000),
            (compress, u32::MAX, 0x83, 0x3063),
            (decompress, 0, 0x83, 0x3000),
            (decompress, u32::MAX, 0x83, 0x3fff),
        ] {
            let said = fault(&descriptor, at);
            assert_eq!((said.status, said.fault_addr), (status, address), "{at}");
        }
    }
}
