// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Descriptor`]: the 64 bytes that tell a device what to do.
//!
//! ```text
//!        0        4               8                16          24              32          36          38    40         64
//!  DSA   │ pasid  │ flags, opcode │ completion_addr│ src_addr  │ dst_addr      │ xfer_size │ int_handle│ –   │ op_specific
//!  fill  │        │               │                │ pattern   │ dst_addr      │ xfer_size │
//!  compare value  │               │                │ src_addr  │ comp_pattern  │ xfer_size │
//!  batch │        │               │                │ list addr │               │ desc_count│
//!  IAA   │ pasid  │ flags, opcode │ completion_addr│ src1_addr │ dst_addr      │ src1_size │ int_handle│ (de)compr_flags
//!        40 src2_addr   48 max_dst_size   52 src2_size   56 filter_flags   60 num_inputs
//! ```
//!
//! The layout is that of `struct dsa_hw_desc` and `struct iax_hw_desc` in the kernel's `include/uapi/linux/idxd.h`, with
//! which a test compares it. A descriptor is data: building one does nothing, and only `unsafe` code can give one to a device.

use bitflags::bitflags;

#[cfg(target_endian = "big")]
compile_error!("descriptors are little endian, and written as they are");

/// What a descriptor asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Opcode {
    /// Nothing; only the completion record is written.
    Noop = 0x00,
    /// Do what the descriptors of a list say (DSA).
    Batch = 0x01,
    /// Complete when everything submitted before it is complete.
    Drain = 0x02,
    /// Fill memory with a pattern of 8 bytes (DSA).
    Memfill = 0x04,
    /// Compare memory with a pattern of 8 bytes (DSA).
    Compval = 0x06,
    /// Inflate (IAA).
    Decompress = 0x42,
    /// Deflate (IAA).
    Compress = 0x43,
}

impl Opcode {
    /// The one with that number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        [
            Self::Noop,
            Self::Batch,
            Self::Drain,
            Self::Memfill,
            Self::Compval,
            Self::Decompress,
            Self::Compress,
        ]
        .into_iter()
        .find(|opcode| *opcode as u8 == number)
    }
}

bitflags! {
    /// The flags of a descriptor: 24 bits, of which those above 15 belong to IAA.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Flags: u32 {
        /// `FENCE`: begin after the descriptors before it in the batch have completed.
        const FENCE = 0x0001;
        /// `BOF`: wait for the kernel to resolve page faults.
        const BLOCK_ON_FAULT = 0x0002;
        /// `CRAV`: the completion address is valid.
        const COMPLETION_ADDRESS_VALID = 0x0004;
        /// `RCR`: write a completion record also if there is nothing to complain of.
        const REQUEST_COMPLETION_RECORD = 0x0008;
        /// `RCI`: raise an interrupt; for the kernel only.
        const REQUEST_COMPLETION_INTERRUPT = 0x0010;
        /// `CRSTS`: steer the completion record.
        const STEER_COMPLETION_RECORD = 0x0020;
        /// `CR`: compare the result with the one that is expected.
        const CHECK_RESULT = 0x0080;
        /// `CC`: leave what is written in the cache.
        const CACHE_CONTROL = 0x0100;
        /// `RD_SRC2_AECS`: the second source is an AECS (IAA).
        const READ_SOURCE_2_AECS = 0x01_0000;
    }
}

const RECORD: Flags = Flags::COMPLETION_ADDRESS_VALID.union(Flags::REQUEST_COMPLETION_RECORD);

/// What an IAA is told about a stream to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compress {
    /// The uncompressed bytes.
    pub src1_addr: u64,
    /// How many.
    pub src1_size: u32,
    /// Where the stream goes.
    pub dst_addr: u64,
    /// Most bytes of it; more is an error of the operation.
    pub max_dst_size: u32,
    /// The AECS, 32-byte aligned, or 0 where the device makes the header.
    pub src2_addr: u64,
    /// Its size, a multiple of 32.
    pub src2_size: u32,
    /// `compr_flags`: bit 1 flushes, bits 3:2 say how the stream ends, bits 14:12 who makes the header.
    pub compr_flags: u16,
}

/// What an IAA is told about a stream to be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decompress {
    /// The stream.
    pub src1_addr: u64,
    /// Its length in bytes.
    pub src1_size: u32,
    /// Where the bytes go.
    pub dst_addr: u64,
    /// Most of them.
    pub max_dst_size: u32,
    /// `decompr_flags`.
    pub decompr_flags: u16,
}

impl Decompress {
    /// `decompr_flags` for a whole stream: enable, flush, stop at the end-of-block code of the final block, and check that the stream
    /// ends with one.
    ///
    /// The kernel's own driver uses 0x0f, by which the first end of a block ends the stream, also one of several blocks.
    pub const WHOLE_STREAM: u16 = 0x1f;
}

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Descriptor {
    /// ENQCMD fills it in; a process leaves it 0.
    pasid: u32,
    flags_opcode: u32,
    completion_addr: u64,
    src_addr: u64,
    dst_addr: u64,
    xfer_size: u32,
    int_handle: u16,
    compr_flags: u16,
    src2_addr: u64,
    max_dst_size: u32,
    src2_size: u32,
    filter_flags: u32,
    num_inputs: u32,
}

impl Descriptor {
    /// Its size in bytes, and its alignment.
    pub const SIZE: usize = 64;

    const fn new(opcode: Opcode, flags: Flags) -> Self {
        Self {
            pasid: 0,
            flags_opcode: flags.bits() | (opcode as u32) << 24,
            completion_addr: 0,
            src_addr: 0,
            dst_addr: 0,
            xfer_size: 0,
            int_handle: 0,
            compr_flags: 0,
            src2_addr: 0,
            max_dst_size: 0,
            src2_size: 0,
            filter_flags: 0,
            num_inputs: 0,
        }
    }

    /// Does nothing and writes a completion record.
    #[must_use]
    pub const fn noop() -> Self {
        Self::new(Opcode::Noop, RECORD)
    }

    /// Completes when everything that this process submitted to the queue before is complete.
    #[must_use]
    pub const fn drain() -> Self {
        Self::new(Opcode::Drain, RECORD)
    }

    /// Does what the `count` descriptors at `list` say; `list` is 64-byte aligned and `count` at least 2.
    #[must_use]
    pub const fn batch(list: u64, count: u32) -> Self {
        let mut this = Self::new(Opcode::Batch, RECORD);
        this.src_addr = list;
        this.xfer_size = count;
        this
    }

    /// Compares `size` bytes at `src_addr` with `pattern`, repeated. Any alignment.
    ///
    /// The result is 0 where they are equal, and 1 where they differ.
    #[must_use]
    pub const fn compval(src_addr: u64, size: u32, pattern: u64) -> Self {
        let mut this = Self::new(Opcode::Compval, RECORD);
        this.src_addr = src_addr;
        this.dst_addr = pattern;
        this.xfer_size = size;
        this
    }

    /// Writes `pattern`, repeated, to the `size` bytes at `dst_addr`.
    #[must_use]
    pub const fn memfill(dst_addr: u64, size: u32, pattern: u64) -> Self {
        let mut this = Self::new(Opcode::Memfill, RECORD);
        this.src_addr = pattern;
        this.dst_addr = dst_addr;
        this.xfer_size = size;
        this
    }

    /// Compresses (IAA).
    #[must_use]
    pub const fn compress(what: &Compress) -> Self {
        let mut flags = RECORD.union(Flags::CACHE_CONTROL);
        if what.src2_size > 0 {
            flags = flags.union(Flags::READ_SOURCE_2_AECS);
        }
        let mut this = Self::new(Opcode::Compress, flags);
        this.src_addr = what.src1_addr;
        this.xfer_size = what.src1_size;
        this.dst_addr = what.dst_addr;
        this.max_dst_size = what.max_dst_size;
        this.src2_addr = what.src2_addr;
        this.src2_size = what.src2_size;
        this.compr_flags = what.compr_flags;
        this
    }

    /// Inflates (IAA).
    #[must_use]
    pub const fn decompress(what: &Decompress) -> Self {
        let mut this = Self::new(Opcode::Decompress, RECORD.union(Flags::CACHE_CONTROL));
        this.src_addr = what.src1_addr;
        this.xfer_size = what.src1_size;
        this.dst_addr = what.dst_addr;
        this.max_dst_size = what.max_dst_size;
        this.compr_flags = what.decompr_flags;
        this
    }

    /// The same with its completion record at `address`: 32-byte aligned for DSA, 64 for IAA.
    #[must_use]
    pub const fn completing_at(mut self, address: u64) -> Self {
        self.completion_addr = address;
        self
    }

    /// The same with other flags.
    #[must_use]
    pub const fn with_flags(mut self, flags: Flags) -> Self {
        self.flags_opcode = self.flags_opcode & 0xff00_0000 | flags.bits();
        self
    }

    /// The number of its opcode.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        (self.flags_opcode >> 24) as u8
    }

    /// Its flags, also those that have no name here.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.flags_opcode & 0x00ff_ffff)
    }

    /// Where its completion record goes.
    #[must_use]
    pub const fn completion_addr(&self) -> u64 {
        self.completion_addr
    }

    /// `src_addr`, `src1_addr`, `pattern` of a fill, or `desc_list_addr` of a batch.
    #[must_use]
    pub const fn src_addr(&self) -> u64 {
        self.src_addr
    }

    /// `dst_addr`, or `comp_pattern`.
    #[must_use]
    pub const fn dst_addr(&self) -> u64 {
        self.dst_addr
    }

    /// `xfer_size`, `src1_size`, or `desc_count`.
    #[must_use]
    pub const fn xfer_size(&self) -> u32 {
        self.xfer_size
    }

    /// `compr_flags` or `decompr_flags` (IAA).
    #[must_use]
    pub const fn compr_flags(&self) -> u16 {
        self.compr_flags
    }

    /// `src2_addr`: the AECS (IAA).
    #[must_use]
    pub const fn src2_addr(&self) -> u64 {
        self.src2_addr
    }

    /// `src2_size`: that of the AECS (IAA).
    #[must_use]
    pub const fn src2_size(&self) -> u32 {
        self.src2_size
    }

    /// `max_dst_size`: most bytes that are written (IAA).
    #[must_use]
    pub const fn max_dst_size(&self) -> u32 {
        self.max_dst_size
    }

    /// Bytes that it takes the device to work through: those that are read, or, of an inflation, those that come out.
    #[must_use]
    pub const fn work(&self) -> u32 {
        if self.opcode() == Opcode::Decompress as u8 {
            self.max_dst_size
        } else {
            self.xfer_size
        }
    }

    /// Whether every field is 0 that a COMPVAL, MEMFILL, NOOP, DRAIN or BATCH of a process has to leave 0.
    #[must_use]
    pub const fn is_reserved_zero(&self) -> bool {
        self.pasid == 0
            && self.int_handle == 0
            && self.compr_flags == 0
            && self.src2_addr == 0
            && self.max_dst_size == 0
            && self.src2_size == 0
            && self.filter_flags == 0
            && self.num_inputs == 0
    }

    /// Itself, as the bytes that `write` takes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.pasid.to_le_bytes());
        put(4, &self.flags_opcode.to_le_bytes());
        put(8, &self.completion_addr.to_le_bytes());
        put(16, &self.src_addr.to_le_bytes());
        put(24, &self.dst_addr.to_le_bytes());
        put(32, &self.xfer_size.to_le_bytes());
        put(36, &self.int_handle.to_le_bytes());
        put(38, &self.compr_flags.to_le_bytes());
        put(40, &self.src2_addr.to_le_bytes());
        put(48, &self.max_dst_size.to_le_bytes());
        put(52, &self.src2_size.to_le_bytes());
        put(56, &self.filter_flags.to_le_bytes());
        put(60, &self.num_inputs.to_le_bytes());
        bytes
    }

    /// The one that has these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            pasid: u32_at(0),
            flags_opcode: u32_at(4),
            completion_addr: u64_at(8),
            src_addr: u64_at(16),
            dst_addr: u64_at(24),
            xfer_size: u32_at(32),
            int_handle: u16_at(36),
            compr_flags: u16_at(38),
            src2_addr: u64_at(40),
            max_dst_size: u32_at(48),
            src2_size: u32_at(52),
            filter_flags: u32_at(56),
            num_inputs: u32_at(60),
        }
    }
}

/// Where fields are, for the comparison with the kernel's header.
#[cfg(all(test, not(loom)))]
pub(crate) fn layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("dsa_hw_desc", size_of::<Descriptor>()),
        (
            "dsa_hw_desc.completion_addr",
            offset_of!(Descriptor, completion_addr),
        ),
        ("dsa_hw_desc.src_addr", offset_of!(Descriptor, src_addr)),
        ("dsa_hw_desc.pattern", offset_of!(Descriptor, src_addr)),
        (
            "dsa_hw_desc.desc_list_addr",
            offset_of!(Descriptor, src_addr),
        ),
        ("dsa_hw_desc.dst_addr", offset_of!(Descriptor, dst_addr)),
        ("dsa_hw_desc.comp_pattern", offset_of!(Descriptor, dst_addr)),
        ("dsa_hw_desc.xfer_size", offset_of!(Descriptor, xfer_size)),
        ("dsa_hw_desc.desc_count", offset_of!(Descriptor, xfer_size)),
        ("dsa_hw_desc.int_handle", offset_of!(Descriptor, int_handle)),
        ("dsa_hw_desc.op_specific", offset_of!(Descriptor, src2_addr)),
        ("iax_hw_desc", size_of::<Descriptor>()),
        (
            "iax_hw_desc.completion_addr",
            offset_of!(Descriptor, completion_addr),
        ),
        ("iax_hw_desc.src1_addr", offset_of!(Descriptor, src_addr)),
        ("iax_hw_desc.dst_addr", offset_of!(Descriptor, dst_addr)),
        ("iax_hw_desc.src1_size", offset_of!(Descriptor, xfer_size)),
        ("iax_hw_desc.int_handle", offset_of!(Descriptor, int_handle)),
        (
            "iax_hw_desc.compr_flags",
            offset_of!(Descriptor, compr_flags),
        ),
        ("iax_hw_desc.src2_addr", offset_of!(Descriptor, src2_addr)),
        (
            "iax_hw_desc.max_dst_size",
            offset_of!(Descriptor, max_dst_size),
        ),
        ("iax_hw_desc.src2_size", offset_of!(Descriptor, src2_size)),
        (
            "iax_hw_desc.filter_flags",
            offset_of!(Descriptor, filter_flags),
        ),
        ("iax_hw_desc.num_inputs", offset_of!(Descriptor, num_inputs)),
    ]
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The second word of descriptors, as other programs for the same devices have it.
    #[test]
    fn the_second_words_are_the_known_ones() {
        let word = |descriptor: Descriptor| {
            u32::from_le_bytes(descriptor.to_bytes()[4..8].try_into().unwrap())
        };
        assert_eq!(word(Descriptor::compval(1, 2, 3)), 0x0600_000c);
        assert_eq!(word(Descriptor::batch(64, 2)), 0x0100_000c);
        assert_eq!(word(Descriptor::noop()), 0x0000_000c);
        assert_eq!(word(Descriptor::drain()), 0x0200_000c);
        assert_eq!(word(Descriptor::memfill(1, 2, 3)), 0x0400_000c);
        let compress = Compress {
            src1_addr: 0x1000,
            src1_size: 4096,
            dst_addr: 0x2000,
            max_dst_size: 4095,
            src2_addr: 0x3000,
            src2_size: 1568,
            compr_flags: 6,
        };
        assert_eq!(word(Descriptor::compress(&compress)), 0x4301_010c);
        let decompress = Decompress {
            src1_addr: 0x1000,
            src1_size: 100,
            dst_addr: 0x2000,
            max_dst_size: 4096,
            decompr_flags: 0x1f,
        };
        assert_eq!(word(Descriptor::decompress(&decompress)), 0x4200_010c);
    }

    #[test]
    fn bytes_are_where_the_kernel_looks_for_them() {
        let compress = Compress {
            src1_addr: 0x1111_2222_3333_4444,
            src1_size: 0x5555_6666,
            dst_addr: 0x7777_8888_9999_aaaa,
            max_dst_size: 0xbbbb_cccc,
            src2_addr: 0xdddd_eeee_ffff_0001,
            src2_size: 0x0002_0003,
            compr_flags: 0x3006,
        };
        let descriptor = Descriptor::compress(&compress).completing_at(0x1234_5678_9abc_def0);
        let bytes = descriptor.to_bytes();
        assert_eq!(bytes[8..16], 0x1234_5678_9abc_def0_u64.to_le_bytes());
        assert_eq!(bytes[16..24], compress.src1_addr.to_le_bytes());
        assert_eq!(bytes[24..32], compress.dst_addr.to_le_bytes());
        assert_eq!(bytes[32..36], compress.src1_size.to_le_bytes());
        assert_eq!(bytes[38..40], compress.compr_flags.to_le_bytes());
        assert_eq!(bytes[40..48], compress.src2_addr.to_le_bytes());
        assert_eq!(bytes[48..52], compress.max_dst_size.to_le_bytes());
        assert_eq!(bytes[52..56], compress.src2_size.to_le_bytes());
        assert_eq!(Descriptor::from_bytes(&bytes), descriptor);
        let mut odd = [0; 64];
        for (index, byte) in odd.iter_mut().enumerate() {
            *byte = u8::try_from(index).unwrap() ^ 0xa5;
        }
        assert_eq!(Descriptor::from_bytes(&odd).to_bytes(), odd);
    }

    #[test]
    fn flags_take_no_bit_of_the_opcode() {
        let descriptor = Descriptor::compval(0, 1, 0).with_flags(Flags::BLOCK_ON_FAULT);
        assert_eq!(descriptor.opcode(), Opcode::Compval as u8);
        assert_eq!(descriptor.flags(), Flags::BLOCK_ON_FAULT);
        assert_eq!(Opcode::of(6), Some(Opcode::Compval));
        assert_eq!(Opcode::of(5), None);
    }
}
