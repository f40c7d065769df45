// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Blocks of 256 bytes, as `zero_neon.rs` says. Assembly of its own, so that it can be tried under qemu-user where no
// Rust for aarch64 is (`tests/neon.rs`).
//
//     x0: start   x1: length, at least 256   x2: how far in front lines are fetched   →   x0: 0 if all bytes are zero
//
// Writes x0 to x6 and v0 to v7, v16 to v23, which a callee may; neither memory nor stack.

    .text
    .p2align 4
    .global parapin_zero_neon
    .type parapin_zero_neon, %function
parapin_zero_neon:
    add x5, x0, x1
    sub x3, x5, #256
1:
    cmp x0, x3
    csel x0, x0, x3, ls
    add x6, x0, x2
    prfm pldl1keep, [x6]
    prfm pldl1keep, [x6, #64]
    prfm pldl1keep, [x6, #128]
    prfm pldl1keep, [x6, #192]
    ldp q0, q1, [x0]
    ldp q2, q3, [x0, #32]
    ldp q4, q5, [x0, #64]
    ldp q6, q7, [x0, #96]
    ldp q16, q17, [x0, #128]
    ldp q18, q19, [x0, #160]
    ldp q20, q21, [x0, #192]
    ldp q22, q23, [x0, #224]
    orr v0.16b, v0.16b, v1.16b
    orr v2.16b, v2.16b, v3.16b
    orr v4.16b, v4.16b, v5.16b
    orr v6.16b, v6.16b, v7.16b
    orr v16.16b, v16.16b, v17.16b
    orr v18.16b, v18.16b, v19.16b
    orr v20.16b, v20.16b, v21.16b
    orr v22.16b, v22.16b, v23.16b
    orr v0.16b, v0.16b, v2.16b
    orr v4.16b, v4.16b, v6.16b
    orr v16.16b, v16.16b, v18.16b
    orr v20.16b, v20.16b, v22.16b
    orr v0.16b, v0.16b, v4.16b
    orr v16.16b, v16.16b, v20.16b
    orr v0.16b, v0.16b, v16.16b
    umaxp v0.4s, v0.4s, v0.4s
    fmov x4, d0
    cbnz x4, 2f
    add x0, x0, #256
    cmp x0, x5
    b.lo 1b
2:
    mov x0, x4
    ret
    .size parapin_zero_neon, . - parapin_zero_neon

// Loads the same bytes in the same steps and tests nothing.
    .p2align 4
    .global parapin_read_neon
    .type parapin_read_neon, %function
parapin_read_neon:
    add x2, x0, x1
    sub x3, x2, #256
1:
    cmp x0, x3
    csel x0, x0, x3, ls
    ldp q0, q1, [x0]
    ldp q2, q3, [x0, #32]
    ldp q4, q5, [x0, #64]
    ldp q6, q7, [x0, #96]
    ldp q16, q17, [x0, #128]
    ldp q18, q19, [x0, #160]
    ldp q20, q21, [x0, #192]
    ldp q22, q23, [x0, #224]
    add x0, x0, #256
    cmp x0, x2
    b.lo 1b
    ret
    .size parapin_read_neon, . - parapin_read_neon
