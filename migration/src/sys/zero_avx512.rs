// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! AVX-512: blocks of 256 bytes. By assembly, because its intrinsics are younger than the compiler that we support.

use std::arch::asm;

/// Bytes of a block: four loads and as many prefetches, one test. Larger ones lose to their own prefetches.
pub(super) const BLOCK: usize = 256;

/// Whether `len` bytes from `start` on are all zero; returns at the first block that is not.
///
/// The last block ends with the range and overlaps the one before it, so that nothing outside is read. `ahead` bytes in front,
/// which may be anything, lines are fetched: nothing faults there.
///
/// # Safety
///
/// 1. The bytes are mapped and readable; others may write to them meanwhile.
/// 2. `len` is at least [`BLOCK`].
/// 3. The CPU has AVX-512F.
pub(super) unsafe fn is_zero(start: *const u8, len: usize, ahead: usize) -> bool {
    let end = start.addr() + len;
    let differs: u8;
    // SAFETY: loads lie in `[start, end)`: each begins at most at `end - BLOCK`, which is not below `start` (2), and is
    // readable (1). The instructions exist (3). All registers written are named; memory and stack are not written.
    unsafe {
        asm!(
            "2:",
            "cmp {at}, {last}",
            "cmova {at}, {last}",
            "vmovdqu64 zmm0, [{at}]",
            "vmovdqu64 zmm1, [{at} + 64]",
            "vporq zmm0, zmm0, [{at} + 128]",
            "vporq zmm1, zmm1, [{at} + 192]",
            "prefetcht0 [{at} + {ahead}]",
            "prefetcht0 [{at} + {ahead} + 64]",
            "prefetcht0 [{at} + {ahead} + 128]",
            "prefetcht0 [{at} + {ahead} + 192]",
            "vporq zmm0, zmm0, zmm1",
            "vptestmq k1, zmm0, zmm0",
            "kortestw k1, k1",
            "jnz 3f",
            "add {at}, 256",
            "cmp {at}, {end}",
            "jb 2b",
            "3:",
            "setnz {differs}",
            "vzeroupper",
            at = inout(reg) start => _,
            last = in(reg) end - BLOCK,
            ahead = in(reg) ahead,
            end = in(reg) end,
            differs = out(reg_byte) differs,
            out("k1") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
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
            "vmovdqu64 zmm0, [{at}]",
            "vmovdqu64 zmm1, [{at} + 64]",
            "vmovdqu64 zmm2, [{at} + 128]",
            "vmovdqu64 zmm3, [{at} + 192]",
            "add {at}, 256",
            "cmp {at}, {end}",
            "jb 2b",
            "vzeroupper",
            at = inout(reg) start => _,
            last = in(reg) end - BLOCK,
            end = in(reg) end,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack, readonly)
        );
    }
}
