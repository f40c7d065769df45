// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: a program that has the device copy memory by DMA, compares the bytes, and says `ok` or `bad`.
//!
//! ```text
//!  SOURCE, RAM below 4 GiB ──DMA──► the device's buffer ──DMA──► DESTINATION, RAM above 4 GiB
//!       └─────────────────────────── the same bytes? ──────────────────┘
//! ```
//!
//! It knows QEMU's `edu` device (docs/specs/edu.rst): BAR 0 + 0x80 source, + 0x88 destination, + 0x90 count,
//! + 0x98 command (1 start, 2 towards memory), where bit 0 stays set until the transfer is done.
#![expect(
    unsafe_code,
    reason = "a program in another machine's memory is written in assembly"
)]

use std::arch::global_asm;

/// Where the program is put, and where it begins.
pub(crate) const PROGRAM: u64 = 0x10_0000;
/// Where the device's BAR 0 appears: in the hole below 4 GiB, as on a PC.
pub(crate) const BAR: u64 = 0xc000_0000;
/// What it says goes to this port.
pub(crate) const PORT: u16 = 0x3f8;
/// RAM above 4 GiB that the device writes to, in the region that is a memfd.
pub(crate) const DESTINATION: u64 = (4 << 30) + (96 << 20);

const SOURCE: u64 = 0x20_0000;
/// Address of the device's buffer, as the device sees it.
const BUFFER: u64 = 0x4_0000;
/// A transfer of the whole buffer is too much for some versions of QEMU.
const BYTES: u64 = 2048;

/// The program's code: it may lie anywhere.
pub(crate) fn program() -> &'static [u8] {
    &small_vmm_guest
}

// The assembly below defines it, with as many bytes, and nothing writes to them.
unsafe extern "C" {
    safe static small_vmm_guest: [u8; 256];
}

global_asm!(
    "    .pushsection .rodata",
    "    .global small_vmm_guest",
    "small_vmm_guest:",
    // A pattern: every 8 bytes hold the inverse of their own address.
    "    mov rdi, {source}",
    "    mov ecx, {bytes} / 8",
    "2:  mov rax, rdi",
    "    not rax",
    "    mov [rdi], rax",
    "    add rdi, 8",
    "    dec ecx",
    "    jnz 2b",
    // From memory into the device, and from the device into memory of another region.
    "    mov rbx, {bar}",
    "    mov rsi, {source}",
    "    mov rdi, {buffer}",
    "    mov eax, 1",
    "    call 5f",
    "    mov rsi, {buffer}",
    "    mov rdi, {destination}",
    "    mov eax, 1 | 2",
    "    call 5f",
    // Did it arrive?
    "    mov rsi, {source}",
    "    mov rdi, {destination}",
    "    mov ecx, {bytes} / 8",
    "    repe cmpsq",
    "    lea rsi, [rip + 8f]",
    "    jne 3f",
    "    lea rsi, [rip + 7f]",
    // Says what rsi points to, and halts.
    "3:  mov dx, {port}",
    "4:  lodsb",
    "    out dx, al",
    "    test al, al",
    "    jnz 4b",
    "    hlt",
    // A transfer from rsi to rdi by the command eax.
    "5:  mov [rbx + 0x80], rsi",
    "    mov [rbx + 0x88], rdi",
    "    mov qword ptr [rbx + 0x90], {bytes}",
    "    mov [rbx + 0x98], rax",
    "6:  pause",
    "    test dword ptr [rbx + 0x98], 1",
    "    jnz 6b",
    "    ret",
    "7:  .asciz \"ok\"",
    "8:  .asciz \"bad\"",
    "    .org small_vmm_guest + 256",
    "    .popsection",
    source = const SOURCE,
    destination = const DESTINATION,
    buffer = const BUFFER,
    bytes = const BYTES,
    bar = const BAR,
    port = const PORT,
);
