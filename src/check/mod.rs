// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Can this host pin guest memory for a device, and if not, what has to be changed?
//!
//! ```text
//!  /proc, /sys below a Root ──┐                             ┌─► id      iommu, device-driver, memlock, …
//!  access(2), io_uring_setup ─┼─► Check ─► one Row a thing ─┼─► found   what there is
//!     (Probe)                 │                             ├─► needed  what has to be there, or why it matters
//!  device and size wanted ────┘                             ├─► verdict ok, absent, warn, fail
//!                                                           └─► remedy  one command or setting
//! ```
//!
//! ```
//! use cgroup::Root;
//! use parapin::check::{Check, CheckRequest, Verdict};
//!
//! let check = Check::run(&CheckRequest::default(), &Root::live());
//! for row in check.rows().iter().filter(|row| row.verdict == Verdict::Fail) {
//!     let advice = format!("{}: {}; try {:?}", row.id, row.found, row.remedy);
//! }
//! ```
//!
//! With a device, a row fails if pinning through VFIO for it cannot work; without one, if pinning through io_uring
//! cannot. What is not there and not needed is absent. What could not be read is a warning, never a failure.
//!
//! Nothing is changed, and no device is opened: that could load a module, or claim a group.
//!
//! # Things this does not do
//!
//! It sees neither device cgroups nor security modules (SELinux, AppArmor), which can forbid what the mode of a node
//! allows; nor who else has a group open; nor how wide the addresses of the IOMMU are.

mod accelerators;
mod address;
mod cpu;
mod device;
mod group;
mod host;
mod interrupts;
mod iommu;
mod memory;
mod neighbours;
mod nodes;
mod numa;
mod pages;
mod probe;
mod row;
mod type1;
mod uring;

use cgroup::{CpuBudget, LockRule, MemoryBudget, MemoryNodes, Root};

use device::Device;
use host::Host;
use iommu::Iommu;
use nodes::Nodes;

pub use address::{PciAddress, PciAddressError};
pub use probe::{Live, Node, Probe};
pub use row::{Row, Verdict};

/// What is to be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckRequest {
    /// The device that memory is to be pinned for; none for pins through io_uring.
    pub device: Option<PciAddress>,
    /// Bytes to be pinned; without them limits on memory are shown, and none is too low.
    pub bytes: Option<u64>,
}

/// What was looked at, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    rows: Vec<Row>,
}

impl Check {
    /// Looks at the host below `root`, for this process.
    #[must_use]
    pub fn run(request: &CheckRequest, root: &Root) -> Self {
        Self::run_with(request, root, &Live)
    }

    /// The same, with somebody else to answer what no file tells.
    #[must_use]
    pub fn run_with(request: &CheckRequest, root: &Root, probe: &dyn Probe) -> Self {
        let host = Host { root, probe };
        let asked = request.device.is_some();
        let iommu = Iommu::read(&host);
        let mut rows = iommu.rows(&host, asked);
        rows.extend(interrupts::rows(&host, &iommu, asked));

        let device = match request.device.map(|address| Device::read(&host, address)) {
            Some(Ok(device)) => device,
            _ => None,
        };
        let nodes = Nodes::read(&host, device.is_some(), device.as_ref());
        rows.extend(device_rows(&host, request, &iommu, device.as_ref()));
        rows.extend(nodes.rows());
        rows.extend(type1::rows(&host, &nodes, request.bytes));

        let memory = MemoryBudget::read(root);
        let ask = memory::Ask {
            bytes: request.bytes,
            rule: if asked && !nodes.counts_by_user() {
                LockRule::Process
            } else {
                LockRule::User
            },
        };
        rows.extend(memory::rows(&memory, ask));
        let cpus = CpuBudget::read(root);
        rows.push(numa::row(&MemoryNodes::read(root), cpus.cpus()));
        rows.extend(pages::rows(&host, &memory, request.bytes));
        rows.extend(cpu::rows(root, &cpus));
        rows.push(uring::row(&host, asked));
        rows.extend(accelerators::rows(&host));
        Self { rows }
    }

    /// Everything that was looked at: the IOMMU, the device, its nodes, memory, CPUs, what else helps.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The worst verdict of all rows; what is absent is no worse than what is in order.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.rows.iter().map(|row| row.verdict);
        let worst = verdicts.filter(|verdict| *verdict != Verdict::Absent).max();
        worst.unwrap_or(Verdict::Ok)
    }
}

fn device_rows(
    host: &Host<'_>,
    request: &CheckRequest,
    iommu: &Iommu,
    device: Option<&Device>,
) -> Vec<Row> {
    match (request.device, device) {
        (None, _) => Vec::new(),
        (Some(_), Some(device)) => {
            let mut rows = device.rows(host);
            rows.extend(group::rows(host, iommu, device));
            rows
        }
        (Some(address), None) => {
            let why = Device::read(host, address).err();
            vec![device::gone(address, why.as_ref())]
        }
    }
}
