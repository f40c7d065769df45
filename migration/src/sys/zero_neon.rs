// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! NEON, which every aarch64 with an operating system has: blocks of 256 bytes, in `zero_neon.s`.
//!
//! The assembly is tried under qemu-user; that this file builds is not, nor has it run on hardware.

use std::arch::global_asm;

global_asm!(include_str!("zero_neon.s"));

/// Bytes of a block: sixteen loads, one test.
pub(super) const BLOCK: usize = 256;

unsafe extern "C" {
    fn parapin_zero_neon(start: *const u8, len: usize, ahead: usize) -> u64;
    fn parapin_read_neon(start: *const u8, len: usize);
}

/// Whether `len` bytes from `start` on are all zero; returns at the first block that is not.
///
/// The last block ends with the range and overlaps the one before it, so that nothing outside is read. `ahead` bytes in front,
/// which may be anything, lines are fetched: nothing faults there.
///
/// # Safety
///
/// 1. The bytes are mapped and readable; others may write to them meanwhile.
/// 2. `len` is at least [`BLOCK`].
pub(super) unsafe fn is_zero(start: *const u8, len: usize, ahead: usize) -> bool {
    // SAFETY: loads lie in the range: each begins at most a block before its end, which is not below `start` (2), and
    // is readable (1). Only registers are written that a callee may write.
    unsafe { parapin_zero_neon(start, len, ahead) == 0 }
}

/// Loads the same bytes in the same steps and tests nothing: the limit that [`is_zero`] is held against.
///
/// # Safety
///
/// As for [`is_zero`].
pub(super) unsafe fn read(start: *const u8, len: usize) {
    // SAFETY: as in `is_zero`.
    unsafe { parapin_read_neon(start, len) }
}
