// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Instructions that talk to a device or wait for one, and whether this CPU has them.
//!
//! | instruction | CPUID.7.0:ECX | does |
//! |---|---|---|
//! | `movdir64b` | bit 28 | writes 64 bytes to a portal at once, and never hears whether they were taken |
//! | `enqcmd` | bit 29 | the same with this process's PASID, and is told whether they were taken |
//! | `umonitor`, `umwait` | bit 5 | sleep until a line of memory is written, or until a time |
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2. The encodings are compared with the
//! manual's in a test. The instructions themselves were never executed: no machine that this was developed on has them.

use std::{ptr::NonNull, sync::OnceLock};

use crate::{Descriptor, Record};

/// Which of the instructions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instructions {
    /// `movdir64b`.
    pub movdir64b: bool,
    /// `enqcmd`.
    pub enqcmd: bool,
    /// `umonitor` and `umwait`.
    pub waitpkg: bool,
}

impl Instructions {
    /// Asks the CPU, once.
    #[must_use]
    pub fn detect() -> Self {
        static FOUND: OnceLock<Instructions> = OnceLock::new();
        *FOUND.get_or_init(|| Self::of_ecx(cpuid_7_0_ecx()))
    }

    fn of_ecx(ecx: u32) -> Self {
        let has = |bit: u32| ecx & 1 << bit != 0;
        Self {
            movdir64b: has(28),
            enqcmd: has(29),
            waitpkg: has(5),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn cpuid_7_0_ecx() -> u32 {
    let (highest, _) = cpuid(0);
    if highest < 7 { 0 } else { cpuid(7).1 }
}

/// EAX and ECX of a leaf, with subleaf 0. (The function of `core::arch` is unsafe or safe by the compiler's version.)
#[cfg(target_arch = "x86_64")]
fn cpuid(leaf: u32) -> (u32, u32) {
    let (eax, ecx);
    // SAFETY: every x86-64 has `cpuid`; RBX, which LLVM keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "mov {keep}, rbx",
            "cpuid",
            "mov rbx, {keep}",
            keep = out(reg) _,
            inout("eax") leaf => eax,
            inout("ecx") 0 => ecx,
            out("edx") _,
            options(nostack, nomem, preserves_flags),
        );
    }
    (eax, ecx)
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid_7_0_ecx() -> u32 {
    0
}

/// Makes what was written before visible to a device before what is submitted after.
pub(super) fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has `sfence`. Without `nomem` the compiler moves no access over it either.
    unsafe {
        std::arch::asm!("sfence", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Offers a descriptor to a shared queue. Returns whether it was taken.
///
/// # Safety
///
/// The CPU has `enqcmd`; `portal` is 64-byte aligned, in a portal of a shared queue that this process opened; and the
/// descriptor's addresses stay valid until the device is done with it.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn enqcmd(portal: NonNull<u8>, descriptor: &Descriptor) -> bool {
    let retry: u8;
    // SAFETY: by contract.
    unsafe {
        std::arch::asm!(
            "enqcmd {portal}, [{descriptor}]",
            "setz {retry}",
            portal = in(reg) portal.as_ptr(),
            descriptor = in(reg) descriptor,
            retry = out(reg_byte) retry,
            options(nostack),
        );
    }
    retry == 0
}

/// Gives a descriptor to a dedicated queue, which drops it if it is full.
///
/// # Safety
///
/// As for [`enqcmd`], with `movdir64b` and a dedicated queue.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn movdir64b(portal: NonNull<u8>, descriptor: &Descriptor) {
    // SAFETY: by contract.
    unsafe {
        std::arch::asm!(
            "movdir64b {portal}, [{descriptor}]",
            portal = in(reg) portal.as_ptr(),
            descriptor = in(reg) descriptor,
            options(nostack, preserves_flags),
        );
    }
}

/// On other architectures there is no such device.
///
/// # Safety
///
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn enqcmd(_: NonNull<u8>, _: &Descriptor) -> bool {
    false
}

/// On other architectures there is no such device, and [`super::Portal`] is never made.
///
/// # Safety
///
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn movdir64b(_: NonNull<u8>, _: &Descriptor) {}

/// Sleeps lightly until the device writes `record`, or for at most about `ticks` of the time stamp counter.
///
/// Returns at once if there is no `umwait`, and may return early for any reason.
pub(crate) fn wait_on(record: &Record, ticks: u64) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::detect().waitpkg {
        // SAFETY: the CPU has `umonitor`, which only watches a line of memory that is there.
        unsafe {
            std::arch::asm!(
                "umonitor {line}",
                line = in(reg) record,
                options(nostack, preserves_flags),
            );
        }
        // A record that was written before the line was watched wakes nobody.
        if record.is_done() {
            return;
        }
        // SAFETY: every x86-64 has `rdtsc`.
        let until = unsafe { std::arch::x86_64::_rdtsc() }.saturating_add(ticks);
        // SAFETY: the CPU has `umwait`; control 1 asks for C0.1, which wakes faster; EDX:EAX is the deadline, of which it
        // looks at the lower halves.
        unsafe {
            std::arch::asm!(
                "umwait {control:e}",
                control = in(reg) 1_u32,
                in("rax") until,
                in("rdx") until >> 32,
                options(nostack),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (record, ticks);
}

#[cfg(all(test, not(loom), target_arch = "x86_64"))]
mod tests {
    use std::arch::global_asm;

    use super::*;

    // Never called: the bytes are looked at.
    global_asm!(
        ".global parapin_test_encodings",
        ".global parapin_test_encodings_end",
        "parapin_test_encodings:",
        "enqcmd rax, [rcx]",
        "movdir64b rax, [rcx]",
        "umonitor rax",
        "umwait ecx",
        "parapin_test_encodings_end:",
    );

    unsafe extern "C" {
        safe static parapin_test_encodings: u8;
        safe static parapin_test_encodings_end: u8;
    }

    #[test]
    fn the_assembler_encodes_them_as_the_manual_says() {
        let start = &raw const parapin_test_encodings;
        let len = (&raw const parapin_test_encodings_end).addr() - start.addr();
        // SAFETY: both are labels in one piece of this program's text.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        let manual = [
            // ENQCMD r64, m512: F2 0F 38 F8 /r
            [0xf2, 0x0f, 0x38, 0xf8, 0x01].as_slice(),
            // MOVDIR64B r64, m512: 66 0F 38 F8 /r
            &[0x66, 0x0f, 0x38, 0xf8, 0x01],
            // UMONITOR r64: F3 0F AE /6
            &[0xf3, 0x0f, 0xae, 0xf0],
            // UMWAIT r32: F2 0F AE /6
            &[0xf2, 0x0f, 0xae, 0xf1],
        ]
        .concat();
        assert_eq!(bytes, manual);
    }

    #[test]
    fn bits_of_cpuid_are_the_manuals() {
        let none = Instructions::default();
        assert_eq!(Instructions::of_ecx(0), none);
        let of = |bit: u32| Instructions::of_ecx(1 << bit);
        assert!(of(28).movdir64b && !of(28).enqcmd && !of(28).waitpkg);
        assert!(of(29).enqcmd && !of(29).movdir64b && !of(29).waitpkg);
        assert!(of(5).waitpkg && !of(5).movdir64b && !of(5).enqcmd);
    }

    #[test]
    fn the_kernel_knows_no_instruction_that_cpuid_does_not() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = text
            .lines()
            .find(|line| line.starts_with("flags"))
            .unwrap_or_default();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let found = Instructions::detect();
        assert!(!has("movdir64b") || found.movdir64b);
        assert!(!has("enqcmd") || found.enqcmd);
        assert!(!has("waitpkg") || found.waitpkg);
    }

    #[test]
    fn waiting_without_the_instruction_returns() {
        wait_on(&Record::default(), 1000);
    }
}
