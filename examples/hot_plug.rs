// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that comes and goes while a guest runs: added in small blocks, removed in part, and refused.
//!
//! ```text
//!  0            1 GiB                           2 GiB
//!  boot memory  virtio-mem: blocks of 2 MiB     a DIMM that cannot be added: something else is mapped there
//! ```
//!
//! Each step prints how many map entries parapin has spent, and what the kernel counts as pinned. At each step the
//! device, QEMU's `edu`, copies something within the guest's memory, since that is what all of it is for.
//!
//! ```text
//! hot_plug --target type1|iommufd --device 0000:00:02.0
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use std::{
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{MIB, Result};
use iommufd_ioctls::IommuFd;
use parapin::{Iommufd, Iova, PinErrorKind, Pinned, Pinner, Region, Regions, Target, Type1};
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion};

const BLOCK: u64 = 2 * MIB;
const VIRTIO_MEM: u64 = 1 << 30;
const DIMM: u64 = 2 << 30;

fn main() -> ExitCode {
    common::exit(run())
}

fn run() -> Result<()> {
    let device = common::device()?;
    match common::value("--target").as_deref() {
        Some("type1") => {
            let container = Arc::new(VfioContainer::new(None)?);
            let device = VfioDevice::new(&device, container.clone(), true)?;
            let target = Type1::of_container(container.clone())?;
            Guest::boot(target, container, device)?.run()
        }
        Some("iommufd") => {
            let iommufd = Arc::new(VfioIommufd::new(Arc::new(IommuFd::new()?), None, None)?);
            let device = VfioDevice::new(&device, iommufd.clone(), true)?;
            let target = Iommufd::of_vfio_iommufd(iommufd.clone())?;
            Guest::boot(target, iommufd, device)?.run()
        }
        _ => Err("say how to pin: --target type1 or --target iommufd".into()),
    }
}

/// A guest without CPUs: what counts here is its memory and its device.
struct Guest<T: Target> {
    /// Before the memory, because fields are dropped in this order.
    boot: Pinned<T>,
    target: T,
    ops: Arc<dyn VfioOps>,
    device: VfioDevice,
    memory: GuestMemoryMmap,
}

impl<T: Target> Guest<T> {
    fn boot(target: T, ops: Arc<dyn VfioOps>, device: VfioDevice) -> Result<Self> {
        let memory = GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 128 << 20),
            (GuestAddress(VIRTIO_MEM), 128 << 20),
            (GuestAddress(DIMM), 64 << 20),
        ])?;
        // Memory and bus mastering: the device may begin.
        device.region_write(VFIO_PCI_CONFIG_REGION_INDEX, &[6, 0], 4);
        let boot = Pinner::new().pin(&target, &regions(&memory, &[(0, 128 * MIB)])?)?;
        Ok(Self {
            boot,
            target,
            ops,
            device,
            memory,
        })
    }

    fn run(self) -> Result<()> {
        self.tell("boot memory is pinned", &[&self.boot])?;
        let mut added = self.add_blocks()?;
        self.remove_part(&mut added)?;
        self.add_what_is_refused(&added)?;
        added.unpin()?;
        self.tell("all blocks are removed", &[&self.boot])?;
        self.check_copy(0, 4 * MIB)
    }

    /// Plugs blocks as virtio-mem does: 32 in a row, and 8 elsewhere.
    fn add_blocks(&self) -> Result<Pinned<T>> {
        let blocks = (0..32).chain(48..56);
        let blocks: Vec<_> = blocks.map(|n| (VIRTIO_MEM + n * BLOCK, BLOCK)).collect();
        let blocks = regions(&self.memory, &blocks)?;
        // One by one they would spend an entry each, and a container has 65,535: 128 GiB, and nothing goes any more.
        let joined = blocks.coalesced();
        println!(
            "{} blocks lie in {} places",
            blocks.iter().len(),
            joined.iter().len()
        );
        // A chunk can only be removed as a whole: not too large, where the guest may give back parts.
        let added = Pinner::new()
            .max_chunk(16 * MIB)
            .pin(&self.target, &joined)?;
        self.tell("they are added", &[&self.boot, &added])?;
        self.check_copy(0, VIRTIO_MEM + 50 * BLOCK)?;
        Ok(added)
    }

    /// Removes one chunk out of the middle, after trying to remove a part of it.
    fn remove_part(&self, added: &mut Pinned<T>) -> Result<()> {
        let table = added.table();
        let chunk = table
            .at(Iova(VIRTIO_MEM + 20 * BLOCK))
            .ok_or("nothing is there")?;
        match added.unpin_range(chunk.iova, chunk.size / 2) {
            Ok(_) => return Err("a chunk was cut".into()),
            Err(error) => println!("half of a chunk is not removed: {error}"),
        }
        self.tell("nothing has changed", &[&self.boot, &*added])?;
        let removed = added.unpin_range(chunk.iova, chunk.size)?;
        // Now that no device can reach it, its pages go back to the host.
        Pinner::new().discard(&regions(&self.memory, &[(chunk.iova.0, chunk.size)])?)?;
        println!("{} MiB at {} are removed", removed.bytes / MIB, chunk.iova);
        self.tell("the rest stays", &[&self.boot, &*added])?;
        self.check_copy(0, VIRTIO_MEM + 50 * BLOCK)
    }

    /// Tries to add a DIMM where the VMM has mapped something for another purpose.
    fn add_what_is_refused(&self, added: &Pinned<T>) -> Result<()> {
        let foreign = MmapRegion::<()>::new(4096)?;
        let place = DIMM + 48 * MIB;
        #[expect(unsafe_code, reason = "as a VMM maps memory without parapin")]
        // SAFETY: it stays mapped until it is unmapped below, and nobody accesses it.
        unsafe {
            self.ops
                .vfio_dma_map(place, foreign.size(), foreign.as_ptr())
        }?;
        let before = common::pinned_by_kernel()?;
        let dimm = regions(&self.memory, &[(DIMM, 64 * MIB)])?;
        match Pinner::new().max_chunk(8 * MIB).pin(&self.target, &dimm) {
            Err(error) if error.kind() == PinErrorKind::Overlap => println!(
                "the DIMM is refused: {error}; {} chunks undone",
                error.chunks_undone()
            ),
            Err(error) => return Err(error.into()),
            Ok(_) => return Err("two mappings are at one place".into()),
        }
        if common::pinned_by_kernel()? != before {
            return Err(format!("{before} was pinned before").into());
        }
        self.tell("the guest has what it had", &[&self.boot, added])?;
        self.check_copy(2 * MIB, VIRTIO_MEM)?;
        // It is still there, whose it was.
        self.ops.vfio_dma_unmap(place, foreign.size())?;
        Ok(())
    }

    fn tell(&self, what: &str, pins: &[&Pinned<T>]) -> Result<()> {
        let entries: usize = pins.iter().map(|pinned| pinned.chunks().len()).sum();
        let kernel = common::pinned_by_kernel()?;
        println!("{what}: {entries} map entries; the kernel counts {kernel}");
        Ok(())
    }

    /// Whether the device still copies within the guest's memory, over its own buffer.
    fn check_copy(&self, from: u64, to: u64) -> Result<()> {
        const BUFFER: u64 = 0x4_0000;
        let pattern: Vec<u8> = (0..=u8::MAX).map(|n| n ^ 0x5a).collect();
        self.memory.write_slice(&pattern, GuestAddress(from))?;
        self.memory.write_slice(&[0; 256], GuestAddress(to))?;
        self.transfer(from, BUFFER, 1)?;
        self.transfer(BUFFER, to, 1 | 2)?;
        let mut copied = vec![0; 256];
        self.memory.read_slice(&mut copied, GuestAddress(to))?;
        match copied == pattern {
            true => Ok(()),
            false => Err(format!("the device did not copy from {from:#x} to {to:#x}").into()),
        }
    }

    /// Lets the device copy 256 bytes (QEMU, docs/specs/edu.rst).
    fn transfer(&self, from: u64, to: u64, command: u64) -> Result<()> {
        for (register, value) in [(0x80, from), (0x88, to), (0x90, 256), (0x98, command)] {
            let value = u32::try_from(value)?.to_le_bytes();
            self.device
                .region_write(VFIO_PCI_BAR0_REGION_INDEX, &value, register);
        }
        let begin = Instant::now();
        let mut busy = [1; 4];
        while busy[0] & 1 == 1 {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err("the device does not finish its transfer".into());
            }
            thread::sleep(Duration::from_millis(1));
            self.device
                .region_read(VFIO_PCI_BAR0_REGION_INDEX, &mut busy, 0x98);
        }
        Ok(())
    }
}

/// Parts of guest memory, by guest-physical address and size.
fn regions(memory: &GuestMemoryMmap, parts: &[(u64, u64)]) -> Result<Regions> {
    let parts = parts.iter().map(|&(start, size)| {
        let host = memory.get_host_address(GuestAddress(start))?;
        #[expect(
            unsafe_code,
            reason = "only the VMM can promise what a device may do to its memory"
        )]
        // SAFETY: the guest's memory outlives its pins, see `Guest`, and is only accessed through `vm-memory`. The
        // parts given here lie inside of one region.
        Ok(unsafe { Region::new(Iova(start), host, size) }?)
    });
    Ok(Regions::new(parts.collect::<Result<Vec<_>>>()?)?)
}
