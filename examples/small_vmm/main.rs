// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small VMM on KVM, whose guest drives an assigned device by itself: how parapin is used.
//!
//! ```text
//!  guest memory (vm-memory) ──► KVM slots
//!         │                                    VfioDevice::new: attached
//!         └──► regions_of ──► Pinner::pin ◄── OpsTarget ◄─┘
//!                                 │
//!                              Pinned ── guest runs, device reads and writes its memory ── unpin
//! ```
//!
//! The device is QEMU's `edu`, given to vfio-pci; the machine of `cargo xtask vm` has two. The guest is for x86-64.
//!
//! ```text
//! small_vmm --target type1|iommufd --device 0000:00:02.0 [--layout pc|flat]
//! ```
//!
//! The layout `flat` has no hole below 4 GiB, so that memory runs through the addresses that x86 keeps for interrupts.
//! The device could not reach it: the pin fails and says what to change. So it does under `ulimit -l` without
//! CAP_IPC_LOCK.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "../common/mod.rs"]
mod common;
mod guest;
mod vcpu;

use std::{
    fs::File,
    os::fd::{AsRawFd, BorrowedFd},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use common::{MIB, Result};
use iommufd_ioctls::IommuFd;
use kvm_bindings::{
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use parapin::{OpsTarget, Pinned, Pinner, Regions, regions_of};
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioDeviceFd, VfioIommufd, VfioOps};
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

/// How long the guest may take: its two transfers take 0.1 s each.
const DEADLINE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    common::exit(boot())
}

fn boot() -> Result<()> {
    let before = common::pinned_by_kernel()?;
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;

    // Dropped in reverse order: BAR and pins go before the device, and all of them before the memory.
    let memory = guest_memory()?;
    let ops = open_iommu(&vm)?;
    // From here on a device is attached. Before, the kernel would pin nothing when memory is mapped, and everything
    // on one thread later.
    let device = VfioDevice::new(&common::device()?, Arc::clone(&ops), true)?;
    let pinned = pin(ops, &memory)?;

    let bar = map_bar(&device)?;
    give_to_guest(&vm, &memory, &bar)?;
    set_command(&device, MEMORY | BUS_MASTER);
    memory.write_slice(guest::program(), GuestAddress(guest::PROGRAM))?;
    let said = vcpu::run(vcpu::new(&kvm, &vm, &memory)?, DEADLINE);
    // However that ended, the device stops before it loses the memory.
    set_command(&device, 0);
    let said = said?;
    println!("the guest says of the device's DMA: {said}");

    let unpinned = pinned.unpin()?;
    println!("unpinned {} MiB", unpinned.bytes / MIB);
    let after = common::pinned_by_kernel()?;
    if after != before {
        return Err(format!("the kernel counts {after}, and {before} at the start").into());
    }
    match said.as_str() {
        "ok" => Ok(()),
        _ => Err("the device did not copy what it should".into()),
    }
}

/// Memory of three regions: below the hole for devices, above it, and above it in a memfd that other processes could
/// share.
fn guest_memory() -> Result<GuestMemoryMmap> {
    let high = match common::value("--layout").as_deref() {
        None | Some("pc") => 4 << 30,
        Some("flat") => (4 << 30) - 64 * MIB,
        Some(other) => return Err(format!("no such layout: {other}").into()),
    };
    let size = usize::try_from(64 * MIB)?;
    let file = File::from(memfd_create("guest", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(64 * MIB)?;
    let shared = Some(FileOffset::new(file, 0));
    let regions = [(0, None), (high, None), (high + 64 * MIB, shared)];
    let regions = regions
        .into_iter()
        .map(|(start, file)| GuestRegionMmap::from_range(GuestAddress(start), size, file))
        .collect::<std::result::Result<_, _>>()?;
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

/// A container or an IOAS, which KVM knows of.
fn open_iommu(vm: &VmFd) -> Result<Arc<dyn VfioOps>> {
    let mut kvm_device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
        ..kvm_create_device::default()
    };
    let kvm_device = VfioDeviceFd::new_from_kvm(vm.create_device(&mut kvm_device)?);
    match common::value("--target").as_deref() {
        Some("type1") => Ok(Arc::new(VfioContainer::new(Some(Arc::new(kvm_device)))?)),
        Some("iommufd") => {
            let iommufd = Arc::new(IommuFd::new()?);
            Ok(Arc::new(VfioIommufd::new(
                iommufd,
                None,
                Some(Arc::new(kvm_device)),
            )?))
        }
        _ => Err("say how to pin: --target type1 or --target iommufd".into()),
    }
}

/// Pins all of the guest's memory, in place of the loop over `vfio_dma_map` that a VMM has otherwise.
fn pin(ops: Arc<dyn VfioOps>, memory: &GuestMemoryMmap) -> Result<Pinned<OpsTarget>> {
    #[expect(
        unsafe_code,
        reason = "only the VMM can promise what a device may do to its memory"
    )]
    // SAFETY: `boot` drops the memory after the pins. Until then it stays mapped, and it is accessed only by the guest
    // and through `vm-memory`, that is without references. Nothing of the VMM's own lies in it.
    let regions = Regions::new(unsafe { regions_of(memory) }?)?;
    let pinned = match Pinner::new().pin(&OpsTarget::new(ops)?, &regions) {
        Ok(pinned) => pinned,
        Err(error) => {
            println!(
                "not pinned; the kernel counts {}",
                common::pinned_by_kernel()?
            );
            return Err(error.into());
        }
    };
    let report = pinned.report();
    println!(
        "pinned {} MiB of {} regions by {} ({}) with {} threads in {} ms; the kernel counts {}",
        report.job.bytes / MIB,
        report.regions,
        report.target,
        report.strategy,
        report.job.threads,
        report.job.time.as_millis(),
        common::pinned_by_kernel()?
    );
    Ok(pinned)
}

/// The device's registers, in this process.
fn map_bar(device: &VfioDevice) -> Result<MmapRegion> {
    #[expect(
        unsafe_code,
        reason = "`VfioDevice` lends its descriptor only as a number"
    )]
    // SAFETY: the device keeps it open beyond this call.
    let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    let file = File::from(fd.try_clone_to_owned()?);
    let offset = device.get_region_offset(VFIO_PCI_BAR0_REGION_INDEX);
    let size = device.get_region_size(VFIO_PCI_BAR0_REGION_INDEX);
    Ok(MmapRegion::from_file(
        FileOffset::new(file, offset),
        usize::try_from(size)?,
    )?)
}

/// Makes memory and the BAR appear in the guest.
fn give_to_guest(vm: &VmFd, memory: &GuestMemoryMmap, bar: &MmapRegion) -> Result<()> {
    let ram = memory.iter().map(|region| {
        (
            region.start_addr().raw_value(),
            region.as_ptr(),
            region.size(),
        )
    });
    let all = ram.chain([(guest::BAR, bar.as_ptr(), bar.size())]);
    for (slot, (guest_phys_addr, start, size)) in (0..).zip(all) {
        let slot = kvm_userspace_memory_region {
            slot,
            guest_phys_addr,
            memory_size: u64::try_from(size)?,
            userspace_addr: u64::try_from(start.addr())?,
            flags: 0,
        };
        #[expect(unsafe_code, reason = "the guest can write to this memory from now on")]
        // SAFETY: both stay mapped until the vCPU has ended, and nothing has references to them.
        unsafe { vm.set_user_memory_region(slot) }?;
    }
    Ok(())
}

const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// Writes the command register of the device's PCI configuration space, as its guest's firmware would.
fn set_command(device: &VfioDevice, command: u16) {
    device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, &command.to_le_bytes(), 4);
}
