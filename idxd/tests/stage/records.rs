// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device does to memory, done by a test: reads what is compared, and writes completion records.

use std::{
    ptr::with_exposed_provenance,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use idxd::{Descriptor, Opcode, Status};

/// The first 16 bytes of a completion record.
#[repr(C)]
struct Record {
    status: AtomicU8,
    result: AtomicU8,
    _fault_info: AtomicU8,
    _reserved: AtomicU8,
    completed: AtomicU32,
    fault_addr: AtomicU64,
}

/// Writes a completion record, the status last.
///
/// # Safety
///
/// The descriptor was submitted and not completed: its record is there.
pub(crate) unsafe fn complete(descriptor: &Descriptor, status: u8, result: u8, completed: u32) {
    let address = usize::try_from(descriptor.completion_addr()).unwrap();
    // SAFETY: by contract; a record is made of atomics.
    let record = unsafe { &*with_exposed_provenance::<Record>(address) };
    let fault = descriptor.src_addr().wrapping_add(u64::from(completed));
    record.result.store(result, Ordering::Relaxed);
    record.completed.store(completed, Ordering::Relaxed);
    record.fault_addr.store(fault, Ordering::Relaxed);
    record.status.store(status, Ordering::Release);
}

/// Does what a comparison with a pattern of zeroes, or a batch of them, says.
///
/// # Safety
///
/// The descriptor was submitted and not completed.
pub(crate) unsafe fn execute(descriptor: &Descriptor) {
    let size = descriptor.xfer_size();
    let address = usize::try_from(descriptor.src_addr()).unwrap();
    if descriptor.opcode() == Opcode::Batch as u8 {
        for index in 0..size as usize {
            let member = with_exposed_provenance::<Descriptor>(address).wrapping_add(index);
            // SAFETY: by contract, so many descriptors are there.
            let member = unsafe { &*member };
            // SAFETY: by contract.
            unsafe { execute(member) };
        }
        // SAFETY: by contract.
        unsafe { complete(descriptor, Status::SUCCESS.code(), 0, size) };
        return;
    }
    assert_eq!(descriptor.opcode(), Opcode::Compval as u8);
    assert_eq!(descriptor.dst_addr(), 0);
    let byte = |offset: u32| {
        let place = with_exposed_provenance::<u8>(address + offset as usize);
        // SAFETY: by contract.
        unsafe { place.read_volatile() }
    };
    let differs = (0..size).find(|offset| byte(*offset) != 0);
    let (result, completed) = (u8::from(differs.is_some()), differs.unwrap_or(size));
    // SAFETY: by contract.
    unsafe { complete(descriptor, Status::SUCCESS.code(), result, completed) };
}
