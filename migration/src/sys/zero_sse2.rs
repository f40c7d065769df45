// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SSE2, which every x86-64 has: blocks of 128 bytes.

use std::arch::asm;

/// Bytes of a block: eight loads, one test.
pub(super) const BLOCK: usize = 128;

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
    let end = start.addr() + len;
    let differs: u8;
    // SAFETY: loads lie in `[start, end)`: each begins at most at `end - BLOCK`, which is not below `start` (2), and is
    // readable (1). All registers written are named; memory and stack are not written.
    unsafe {
        asm!(
            "pxor xmm8, xmm8",
            "2:",
            "cmp {at}, {last}",
            "cmova {at}, {last}",
            "movdqu xmm0, [{at}]",
            "movdqu xmm1, [{at} + 16]",
            "movdqu xmm2, [{at} + 32]",
            "movdqu xmm3, [{at} + 48]",
            "movdqu xmm4, [{at} + 64]",
            "movdqu xmm5, [{at} + 80]",
            "movdqu xmm6, [{at} + 96]",
            "movdqu xmm7, [{at} + 112]",
            "prefetcht0 [{at} + {ahead}]",
            "prefetcht0 [{at} + {ahead} + 64]",
            "por xmm0, xmm1",
            "por xmm2, xmm3",
            "por xmm4, xmm5",
            "por xmm6, xmm7",
            "por xmm0, xmm2",
            "por xmm4, xmm6",
            "por xmm0, xmm4",
            "pcmpeqb xmm0, xmm8",
            "pmovmskb {mask:e}, xmm0",
            "cmp {mask:e}, 0xffff",
            "jne 3f",
            "add {at}, 128",
            "cmp {at}, {end}",
            "jb 2b",
            "3:",
            "setnz {differs}",
            at = inout(reg) start => _,
            last = in(reg) end - BLOCK,
            ahead = in(reg) ahead,
            end = in(reg) end,
            mask = out(reg) _,
            differs = out(reg_byte) differs,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _,
            options(nostack, readonly)
        );
    }
    differs == 0
}

/// Loads the same bytes in the same steps and tests nothing: the limit that [`is_zero`] is held against.
///
/// # Safety
///
/// As for [`is_zero`].
pub(super) unsafe fn read(start: *const u8, len: usize) {
    let end = start.addr() + len;
    // SAFETY: as in `is_zero`.
    unsafe {
        asm!(
            "2:",
            "cmp {at}, {last}",
            "cmova {at}, {last}",
            "movdqu xmm0, [{at}]",
            "movdqu xmm1, [{at} + 16]",
            "movdqu xmm2, [{at} + 32]",
            "movdqu xmm3, [{at} + 48]",
            "movdqu xmm4, [{at} + 64]",
            "movdqu xmm5, [{at} + 80]",
            "movdqu xmm6, [{at} + 96]",
            "movdqu xmm7, [{at} + 112]",
            "add {at}, 128",
            "cmp {at}, {end}",
            "jb 2b",
            at = inout(reg) start => _,
            last = in(reg) end - BLOCK,
            end = in(reg) end,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            options(nostack, readonly)
        );
    }
}
