// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's `edu` device, driven through VFIO: a device that really reads and writes guest memory.
//!
//! Its DMA engine copies between a buffer of its own and bus addresses (QEMU, docs/specs/edu.rst):
//!
//! ```text
//!  BAR 0 + 0x80 source, + 0x88 destination, + 0x90 count, + 0x98 command (1 start | 2 towards memory; 1 while busy)
//!  device's buffer: 4 KiB at 0x40000 of its own addresses
//! ```
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use iommufd_ioctls::IommuFd;
use parapin::{Iova, Mapping, OpsTarget};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};

use crate::machine::{status_bytes, vm::DEVICES};

/// QEMU 7.2 aborts at transfers of the whole buffer.
pub(crate) const MOST: u64 = 2048;

const BUFFER: u64 = 0x40000;

/// By which of the two interfaces a device is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Type1,
    Iommufd,
}

impl Via {
    pub(crate) const BOTH: [Self; 2] = [Self::Type1, Self::Iommufd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Type1 => "type1",
            Self::Iommufd => "iommufd",
        }
    }

    /// The counter that shows what is pinned by it, in bytes.
    pub(crate) fn counter(self) -> u64 {
        status_bytes(match self {
            Self::Type1 => "VmLck:",
            Self::Iommufd => "VmPin:",
        })
    }

    /// A container or an IOAS of its own, without a device.
    pub(crate) fn ops(self) -> Arc<dyn VfioOps> {
        match self {
            Self::Type1 => Arc::new(VfioContainer::new(None).unwrap()),
            Self::Iommufd => {
                let iommufd = Arc::new(IommuFd::new().unwrap());
                Arc::new(VfioIommufd::new(iommufd, None, None).unwrap())
            }
        }
    }
}

/// A device that is open and attached, and what memory is mapped with for it.
pub(crate) struct Edu {
    pub(crate) ops: Arc<dyn VfioOps>,
    device: VfioDevice,
}

impl Edu {
    /// The first of the machine's devices.
    pub(crate) fn open(via: Via) -> Self {
        Self::attach(via.ops(), DEVICES[0])
    }

    /// The device at `address`, attached to `ops`.
    pub(crate) fn attach(ops: Arc<dyn VfioOps>, address: &str) -> Self {
        let sysfs = Path::new("/sys/bus/pci/devices").join(address);
        let device = VfioDevice::new(&sysfs, Arc::clone(&ops), true).unwrap();
        let edu = Self { ops, device };
        edu.allow_dma();
        edu
    }

    pub(crate) fn target(&self) -> OpsTarget {
        OpsTarget::new(Arc::clone(&self.ops)).unwrap()
    }

    /// Memory space and bus master, in the command register of the configuration space.
    fn allow_dma(&self) {
        const CONFIGURATION: u32 = 7;
        const COMMAND: u64 = 4;
        let mut command = [0; 2];
        self.device
            .region_read(CONFIGURATION, &mut command, COMMAND);
        command[0] |= 6;
        self.device.region_write(CONFIGURATION, &command, COMMAND);
    }

    fn read(&self, register: u64) -> u64 {
        let mut value = [0; 8];
        self.device.region_read(0, &mut value, register);
        u64::from_le_bytes(value)
    }

    fn write(&self, register: u64, value: u64) {
        self.device.region_write(0, &value.to_le_bytes(), register);
    }

    fn transfer(&self, source: u64, destination: u64, size: u64, direction: u64) {
        assert!(size <= MOST);
        self.write(0x80, source);
        self.write(0x88, destination);
        self.write(0x90, size);
        self.write(0x98, 1 | direction);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.read(0x98) & 1 != 0 {
            assert!(Instant::now() < deadline, "the transfer never ends");
            // The device takes 100 ms.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has the device copy `size` bytes of memory, at most [`MOST`], into its buffer and from there to another place.
    pub(crate) fn copy(&self, from: Iova, to: Iova, size: u64) {
        self.transfer(from.0, BUFFER, size, 0);
        self.transfer(BUFFER, to.0, size, 2);
    }
}

/// Writes a pattern that `seed` makes different from all others.
pub(crate) fn put(memory: &Mapping, offset: u64, size: u64, seed: u64) {
    for at in 0..size {
        assert!(memory.store(offset + at, pattern(at, seed)));
    }
}

/// Whether the pattern is there.
pub(crate) fn holds(memory: &Mapping, offset: u64, size: u64, seed: u64) -> bool {
    (0..size).all(|at| memory.load(offset + at) == Some(pattern(at, seed)))
}

fn pattern(at: u64, seed: u64) -> u8 {
    u8::try_from((at.wrapping_mul(31) ^ seed.wrapping_mul(167) ^ (at >> 8)) % 251).unwrap()
}
