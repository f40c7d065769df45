// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The virtual CPU: begins in 64-bit mode, runs on a thread of its own, and is stopped at a deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::libc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::{common::Result, guest};

const TABLES: u64 = 0x1000;
const STACK: u64 = 0x9000;

/// A CPU that will begin at [`guest::PROGRAM`], with all memory up to 8 GiB at its physical address.
pub(crate) fn new(kvm: &Kvm, vm: &VmFd, memory: &GuestMemoryMmap) -> Result<VcpuFd> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const UNCACHED: u64 = 0b11 << 3;
    const LARGE: u64 = 1 << 7;
    let directory = TABLES + 0x1000;
    memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(TABLES))?;
    for gib in 0..8 {
        let device = if gib == guest::BAR >> 30 { UNCACHED } else { 0 };
        let entry = gib << 30 | LARGE | PRESENT_WRITABLE | device;
        memory.write_obj(entry, GuestAddress(directory + 8 * gib))?;
    }

    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut special = vcpu.get_sregs()?;
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    special.cs = kvm_segment {
        selector: 8,
        type_: 11,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        db: 1,
        ..flat
    };
    (special.ds, special.es, special.ss) = (data, data, data);
    special.cr3 = TABLES;
    special.cr4 |= 1 << 5; // PAE
    special.cr0 |= 1 << 31 | 1; // PG, PE
    special.efer |= 1 << 10 | 1 << 8; // LMA, LME
    vcpu.set_sregs(&special)?;
    let mut general = vcpu.get_regs()?;
    (general.rip, general.rsp, general.rflags) = (guest::PROGRAM, STACK, 2);
    vcpu.set_regs(&general)?;
    Ok(vcpu)
}

/// Runs it until it halts, and returns what it said.
pub(crate) fn run(mut vcpu: VcpuFd, deadline: Duration) -> Result<String> {
    register_signal_handler(SIGRTMIN(), kicked)?;
    let (sender, receiver) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::Builder::new()
        .name("vcpu0".to_owned())
        .spawn(move || sender.send(until_halt(&mut vcpu, &stopped)))?;
    let said = receiver.recv_timeout(deadline);
    // Relaxed: nothing else is told by it.
    stop.store(true, Ordering::Relaxed);
    // Again and again, since a signal that comes before the ioctl is lost.
    while !thread.is_finished() {
        thread.kill(SIGRTMIN())?;
        thread::sleep(Duration::from_millis(10));
    }
    let said =
        said.map_err(|_| format!("the guest did not halt within {} s", deadline.as_secs()))?;
    Ok(said?)
}

fn until_halt(vcpu: &mut VcpuFd, stop: &AtomicBool) -> std::result::Result<String, String> {
    let mut said = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(guest::PORT, bytes)) => said.extend_from_slice(bytes),
            Ok(VcpuExit::Hlt) => {
                let text = String::from_utf8_lossy(&said);
                return Ok(text.trim_end_matches('\0').to_owned());
            }
            Ok(other) => return Err(format!("the guest did something unexpected: {other:?}")),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(format!("the guest cannot run: {error}")),
        }
    }
    Err("stopped".to_owned())
}

/// There only to interrupt the ioctl that runs the CPU.
extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
