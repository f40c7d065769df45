// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Hosts as trees of files: one that is ready for VFIO, what turns it into others, and who answers for their kernels.
//!
//! ```text
//!  BASE + TYPE1            ready, with VFIO's own container
//!  BASE + TYPE1 + IOMMUFD  ready, with iommufd alone
//!  BASE + TYPE1 + BARE     no IOMMU, and no module of VFIO
//! ```

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use cgroup::Root;
use parapin::check::{Check, CheckRequest, Node, Probe};

/// A path and what is there: text, `-> target` for a link, `/` for a directory, `gone` for nothing.
pub(crate) type File = (&'static str, &'static str);

pub(crate) const DEVICE: &str = "0000:01:00.0";

/// What every host has: a process without privileges, on 8 CPUs of 2 nodes, in a cgroup of version 2 without limits.
pub(crate) const BASE: &[File] = &[
    (
        "proc/self/status",
        "VmLck:\t0 kB\nVmPin:\t0 kB\nVmRSS:\t9 kB\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-7\n\
         Mems_allowed_list:\t0-1\nTHP_enabled:\t1\nSeccomp:\t0\n",
    ),
    (
        "proc/self/limits",
        "Max locked memory  unlimited unlimited bytes\n",
    ),
    ("proc/self/ns/user", "-> user:[4026531837]"),
    ("proc/self/ns/cgroup", "-> cgroup:[4026531835]"),
    ("proc/self/cgroup", "0::/vmm\n"),
    (
        "proc/self/mountinfo",
        "30 1 0:2 / /sys/fs/cgroup rw - cgroup2 c rw\n",
    ),
    ("proc/meminfo", "MemAvailable: 67108864 kB\n"),
    (
        "proc/cpuinfo",
        "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse2\n",
    ),
    ("proc/cmdline", "root=/dev/sda1 intel_iommu=on\n"),
    ("proc/interrupts", "  CPU0\n 4: 1 IR-IO-APIC 4-edge ttyS0\n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/node/online", "0-1\n"),
    ("sys/devices/system/node/has_memory", "0-1\n"),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/devices/system/node/node1/cpulist", "4-7\n"),
    ("proc/sys/kernel/sched_autogroup_enabled", "1\n"),
    ("sys/fs/cgroup/vmm/cpu.weight", "100\n"),
    ("sys/fs/cgroup/vmm/cpu.idle", "0\n"),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size [advise] never\n",
    ),
    ("sys/class/misc/", "/"),
    ("sys/class/iommu/", "/"),
    ("sys/kernel/iommu_groups/", "/"),
];

/// A host that is ready: the device and its sibling are held by vfio-pci, the bridge above them by pcieport.
pub(crate) const TYPE1: &[File] = &[
    ("sys/class/iommu/dmar0/", "/"),
    ("sys/class/iommu/dmar1/", "/"),
    ("sys/class/iommu/iommufd_selftest_iommu.0/", "/"),
    ("sys/class/misc/vfio/", "/"),
    ("sys/bus/pci/drivers/vfio-pci/", "/"),
    ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
    ("sys/bus/pci/devices/0000:01:00.0/device", "0x2330\n"),
    ("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n"),
    ("sys/bus/pci/devices/0000:01:00.0/numa_node", "1\n"),
    (
        "sys/bus/pci/devices/0000:01:00.0/driver",
        "-> ../../../bus/pci/drivers/vfio-pci",
    ),
    (
        "sys/bus/pci/devices/0000:01:00.0/iommu_group",
        "-> ../../../kernel/iommu_groups/12",
    ),
    ("sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/", "/"),
    (
        "sys/bus/pci/devices/0000:01:00.1/driver",
        "-> ../../../bus/pci/drivers/vfio-pci",
    ),
    (
        "sys/bus/pci/devices/0000:00:01.0/driver",
        "-> ../../../bus/pci/drivers/pcieport",
    ),
    ("sys/bus/pci/devices/0000:00:01.0/class", "0x060400\n"),
    (
        "sys/kernel/iommu_groups/12/devices/0000:00:01.0",
        "-> ../../../../bus/pci/devices/0000:00:01.0",
    ),
    (
        "sys/kernel/iommu_groups/12/devices/0000:01:00.0",
        "-> ../../../../bus/pci/devices/0000:01:00.0",
    ),
    (
        "sys/kernel/iommu_groups/12/devices/0000:01:00.1",
        "-> ../../../../bus/pci/devices/0000:01:00.1",
    ),
    (
        "sys/kernel/iommu_groups/12/reserved_regions",
        "0x00000000fee00000 0x00000000feefffff msi\n",
    ),
    ("sys/kernel/iommu_groups/12/type", "DMA-FQ\n"),
    (
        "sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
        "65535\n",
    ),
    (
        "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        "N\n",
    ),
    (
        "sys/module/vfio_iommu_type1/parameters/disable_hugepages",
        "N\n",
    ),
    ("dev/vfio/vfio", ""),
    ("dev/vfio/12", ""),
];

/// What makes it a host with nothing but iommufd; `/dev/vfio/vfio` is a link to `/dev/iommu`.
pub(crate) const IOMMUFD: &[File] = &[
    ("sys/module/vfio_iommu_type1", "gone"),
    (
        "sys/module/iommufd/parameters/allow_unsafe_interrupts",
        "N\n",
    ),
    ("sys/class/misc/vfio", "gone"),
    ("sys/class/misc/iommu/", "/"),
    (
        "sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev",
        "511:0\n",
    ),
    ("dev/vfio/12", "gone"),
    ("dev/vfio/vfio", "-> ../iommu"),
    ("dev/iommu", ""),
    ("dev/vfio/devices/vfio0", ""),
];

/// A host without an IOMMU and without VFIO.
pub(crate) const BARE: &[File] = &[
    ("sys/class/iommu", "gone"),
    ("sys/kernel/iommu_groups", "gone"),
    ("sys/kernel/iommu_groups/", "/"),
    ("sys/bus/pci/devices/0000:01:00.0/iommu_group", "gone"),
    ("sys/bus/pci/devices/0000:01:00.0/vfio-dev", "gone"),
    (
        "sys/bus/pci/devices/0000:01:00.0/driver",
        "-> ../../../bus/pci/drivers/nvidia",
    ),
    ("sys/bus/pci/drivers/vfio-pci", "gone"),
    ("sys/module/vfio_iommu_type1", "gone"),
    ("sys/class/misc/vfio", "gone"),
    ("dev/vfio", "gone"),
    ("proc/interrupts", " 4: 1 IO-APIC 4-edge ttyS0\n"),
    ("proc/cmdline", "root=/dev/sda1\n"),
];

pub(crate) const QUEUES: &[File] = &[
    ("sys/bus/dsa/devices/dsa0/state", "enabled\n"),
    ("sys/bus/dsa/devices/iax1/state", "enabled\n"),
    ("sys/bus/dsa/devices/engine0.0/", "/"),
    ("sys/bus/dsa/devices/wq0.0/state", "enabled\n"),
    ("sys/bus/dsa/devices/wq0.0/type", "user\n"),
    ("sys/bus/dsa/devices/wq0.0/mode", "shared\n"),
    ("sys/bus/dsa/devices/wq0.1/state", "disabled\n"),
    ("sys/bus/dsa/devices/wq0.1/type", "none\n"),
    ("sys/bus/dsa/devices/wq1.0/state", "enabled\n"),
    ("sys/bus/dsa/devices/wq1.0/type", "kernel\n"),
    ("dev/dsa/wq0.0", ""),
];

/// A tree of files in a directory that goes away with it.
pub(crate) struct Tree(PathBuf);

impl Tree {
    pub(crate) fn new(parts: &[&[File]]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("parapin-check-{}-{number}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        fs::create_dir(&tree.0).unwrap();
        for (path, content) in parts.iter().copied().flatten() {
            tree.put(path, content);
        }
        tree
    }

    pub(crate) fn put(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        let remove = |path: &Path| match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        };
        match content {
            "gone" => remove(&path),
            "/" => fs::create_dir_all(&path).unwrap(),
            _ => {
                remove(&path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match content.strip_prefix("-> ") {
                    Some(target) => symlink(target, &path).unwrap(),
                    None => fs::write(&path, content).unwrap(),
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn check(&self, request: &CheckRequest, kernel: &Kernel) -> Check {
        Check::run_with(request, &Root::at(&self.0), kernel)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Answers for a tree: its plain files are devices, and the denied ones may not be opened.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) denied: &'static [&'static str],
    pub(crate) io_uring: Option<i32>,
}

impl Probe for Kernel {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let metadata = fs::metadata(path)?;
        Ok(Node {
            is_device: metadata.is_file(),
            number: metadata.ino(),
            may_open: !self.denied.iter().any(|denied| path.ends_with(denied)),
        })
    }

    fn io_uring(&self) -> io::Result<()> {
        self.io_uring
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}
