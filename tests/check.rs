// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin check` on trees of files that stand for hosts, on files made to break it, and on this machine.
//!
//! ```text
//!  TYPE1 and changes to it ─► Tree in a temporary directory ─► Check::run_with ─► lines that are compared whole
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "check/hosts.rs"]
mod hosts;
mod machine;

use std::{collections::BTreeSet, fs};

use hosts::{BARE, BASE, DEVICE, File, IOMMUFD, Kernel, QUEUES, TYPE1, Tree};
use machine::{describe, json, parapin};
use parapin::check::{Check, CheckRequest, Row, Verdict};

const GIB: u64 = 1 << 30;
fn for_device(bytes: u64) -> CheckRequest {
    CheckRequest {
        device: Some(DEVICE.parse().unwrap()),
        bytes: Some(bytes),
    }
}

fn without_device(bytes: u64) -> CheckRequest {
    CheckRequest {
        device: None,
        bytes: Some(bytes),
    }
}

/// One line for each row, and below it its remedy.
fn lines(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        lines.push(format!("{} {}: {}", row.verdict.name(), row.id, row.found));
        lines.extend(row.remedy.iter().map(|remedy| format!("  {remedy}")));
    }
    lines
}

/// What is to be said of the rows of interest, on a ready host with changes.
fn assert_rows(changes: &[File], kernel: &Kernel, ids: &[&str], expected: &[&str]) {
    let tree = Tree::new(&[BASE, TYPE1, changes]);
    let check = tree.check(&for_device(4 * GIB), kernel);
    sound(&check);
    let rows: Vec<Row> = check
        .rows()
        .iter()
        .filter(|row| ids.contains(&row.id.as_str()))
        .cloned()
        .collect();
    assert_eq!(lines(&rows), expected, "{changes:?}");
    let fails = rows.iter().any(|row| row.verdict == Verdict::Fail);
    assert_eq!(check.verdict() == Verdict::Fail, fails, "{changes:?}");
}

/// What holds for every check, whatever the host is like.
fn sound(check: &Check) {
    let mut ids = BTreeSet::new();
    for row in check.rows() {
        assert!(ids.insert(&row.id), "{} is there twice", row.id);
        let needs_remedy = matches!(row.verdict, Verdict::Warn | Verdict::Fail);
        assert!(row.remedy.is_some() || !needs_remedy, "{row:?}");
        assert!(
            row.remedy.is_none() || row.verdict != Verdict::Ok,
            "{row:?}"
        );
        let texts = [&row.id, &row.found, &row.needed];
        for text in texts.into_iter().chain(&row.remedy) {
            assert!(!text.is_empty() && text.len() < 700, "{row:?}");
            assert!(!text.contains(char::is_control), "{row:?}");
        }
    }
}

#[test]
fn a_host_with_type1_is_ready() {
    let tree = Tree::new(&[BASE, TYPE1]);
    let check = tree.check(&for_device(4 * GIB), &Kernel::default());
    sound(&check);
    let expected = [
        "ok iommu: dmar0, dmar1 (Intel VT-d)",
        "ok iommu-groups: 1 group",
        "ok interrupt-remapping: on (IR- chips in /proc/interrupts)",
        "ok unsafe-interrupts: not allowed by vfio_iommu_type1",
        "ok device: 0000:01:00.0 10de:2330, display, NUMA node 1",
        "ok device-driver: vfio-pci",
        "ok device-group: 12 (the host's own domain: DMA-FQ)",
        "ok group-viability: viable beside 0000:00:01.0 (pcieport), 0000:01:00.1 (vfio-pci)",
        "ok reserved-regions: 0xfee00000-0xfeefffff msi",
        "ok vfio-container: /dev/vfio/vfio, provided by VFIO (vfio_iommu_type1)",
        "absent iommufd: /dev/iommu does not exist",
        "  `modprobe iommufd`, of a kernel 6.2 or later with CONFIG_IOMMUFD (in a container: `--device /dev/iommu`)",
        "ok device-node: /dev/vfio/12",
        "ok dma-entry-limit: 65535 maps for each container",
        "ok type1-huge-pages: used by the IOMMU",
        "ok memlock: unlimited (RLIMIT_MEMLOCK)",
        "ok memory-cgroup: no limit",
        "ok memory: 64 GiB (MemAvailable)",
        "ok memory-nodes: 2 nodes (0-1)",
        "absent hugetlb-2m: an empty pool",
        "  `echo 2048 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`",
        "ok thp: madvise, advise for shared memory",
        "ok cpu-affinity: 8 CPUs (0-7)",
        "ok cpu-quota: none",
        "ok cpu-weight: 100 (usual: 100)",
        "absent cpu-neighbours: niceness counts only inside this group (weight 100; /sys/fs/cgroup/vmm/cpu.weight)",
        "  `echo 10 > /sys/fs/cgroup/vmm/cpu.weight` or `echo 1 > /sys/fs/cgroup/vmm/cpu.idle` while it pins: \
         it counts for all of the group, vCPUs too, and against its siblings; \
         against others, the same in the group above",
        "ok io-uring: can be set up",
        "absent dsa: no such device",
        "absent iaa: no such device",
    ];
    assert_eq!(lines(check.rows()), expected);
    assert_eq!(check.verdict(), Verdict::Ok);
}

#[test]
fn a_host_with_iommufd_alone_is_ready() {
    let ids = [
        "unsafe-interrupts",
        "vfio-container",
        "iommufd",
        "device-node",
        "dma-entry-limit",
        "type1-huge-pages",
    ];
    let mut expected = [
        "ok unsafe-interrupts: not allowed by iommufd",
        "ok vfio-container: /dev/vfio/vfio, provided by iommufd (it is /dev/iommu)",
        "ok iommufd: /dev/iommu",
        "ok device-node: /dev/vfio/12 does not exist, /dev/vfio/devices/vfio0",
        "absent dma-entry-limit: no limit: iommufd has none",
        "absent type1-huge-pages: vfio_iommu_type1 is not loaded",
    ];
    assert_rows(IOMMUFD, &Kernel::default(), &ids, &expected);
    // A kernel built for it has a node of its own, with the number that VFIO's would have.
    let compatible: &[File] = &[
        ("sys/class/misc/vfio/", "/"),
        ("dev/vfio/vfio", ""),
        ("dev/vfio/12", ""),
    ];
    expected[1] =
        "ok vfio-container: /dev/vfio/vfio, provided by iommufd (there is no vfio_iommu_type1)";
    expected[3] = "ok device-node: /dev/vfio/12, /dev/vfio/devices/vfio0";
    assert_rows(
        &[IOMMUFD, compatible].concat(),
        &Kernel::default(),
        &ids,
        &expected,
    );
}

#[test]
fn a_device_that_the_host_uses_names_its_driver() {
    let held: &[File] = &[
        (
            "sys/bus/pci/devices/0000:01:00.0/driver",
            "-> ../drivers/nvme",
        ),
        ("sys/bus/pci/devices/0000:01:00.0/vfio-dev", "gone"),
        ("dev/vfio/12", "gone"),
    ];
    let ids = ["device-driver", "device-node", "vfio-container"];
    let container = "ok vfio-container: /dev/vfio/vfio, provided by VFIO (vfio_iommu_type1)";
    let node = "absent device-node: none before a VFIO driver holds the device";
    assert_rows(
        held,
        &Kernel::default(),
        &ids,
        &[
            "fail device-driver: nvme: the host uses the device itself",
            "  `cd /sys/bus/pci && echo vfio-pci > devices/0000:01:00.0/driver_override \
             && echo 0000:01:00.0 > devices/0000:01:00.0/driver/unbind \
             && echo 0000:01:00.0 > drivers_probe` (the host loses it)",
            container,
            node,
        ],
    );
    let free: &[File] = &[
        ("sys/bus/pci/devices/0000:01:00.0/driver", "gone"),
        ("sys/bus/pci/drivers/vfio-pci", "gone"),
    ];
    assert_rows(
        free,
        &Kernel::default(),
        &ids,
        &[
            "fail device-driver: no driver holds it",
            "  `modprobe vfio-pci; cd /sys/bus/pci && echo vfio-pci > devices/0000:01:00.0/driver_override \
             && echo 0000:01:00.0 > drivers_probe`",
            container,
            node,
        ],
    );
    let variant: &[File] = &[(
        "sys/bus/pci/devices/0000:01:00.0/driver",
        "-> ../drivers/nvgrace_gpu_vfio_pci",
    )];
    assert_rows(
        variant,
        &Kernel::default(),
        &ids,
        &[
            "ok device-driver: nvgrace_gpu_vfio_pci",
            container,
            "ok device-node: /dev/vfio/12",
        ],
    );
}

#[test]
fn a_group_is_viable_if_the_host_uses_no_other_device_of_it() {
    let sibling = "sys/bus/pci/devices/0000:01:00.1/driver";
    let bridge = "sys/bus/pci/devices/0000:00:01.0/driver";
    let viability = |changes: &[File], expected: &[&str]| {
        assert_rows(changes, &Kernel::default(), &["group-viability"], expected);
    };
    viability(
        &[(sibling, "-> ../drivers/snd_hda_intel")],
        &[
            "fail group-viability: not viable: the host uses 0000:01:00.1 (snd_hda_intel)",
            "  `echo 0000:01:00.1 > /sys/bus/pci/devices/0000:01:00.1/driver/unbind` (the host loses it), \
             or move the device to a slot with a group of its own",
        ],
    );
    viability(
        &[(sibling, "-> ../drivers/pci-stub"), (bridge, "gone")],
        &["ok group-viability: viable beside 0000:00:01.0 (no driver), 0000:01:00.1 (pci-stub)"],
    );
    // The kernel has counted this one since 5.19, bridge or not.
    viability(
        &[(bridge, "-> ../drivers/shpchp")],
        &[
            "fail group-viability: not viable: the host uses 0000:00:01.0 (shpchp)",
            "  `echo 0000:00:01.0 > /sys/bus/pci/devices/0000:00:01.0/driver/unbind` (the host loses it), \
             or move the device to a slot with a group of its own",
        ],
    );
    viability(
        &[
            ("sys/kernel/iommu_groups/12/devices/0000:01:00.1", "gone"),
            ("sys/kernel/iommu_groups/12/devices/0000:00:01.0", "gone"),
        ],
        &["ok group-viability: the device is alone in its group"],
    );
}

#[test]
fn without_an_iommu_it_says_where_to_switch_one_on() {
    let iommu = |changes: &[File], expected: &[&str]| {
        let tree = Tree::new(&[BASE, TYPE1, BARE, changes]);
        let check = tree.check(&for_device(GIB), &Kernel::default());
        sound(&check);
        assert_eq!(lines(&check.rows()[..1]), expected, "{changes:?}");
        assert_eq!(check.verdict(), Verdict::Fail);
    };
    let amd = (
        "proc/cpuinfo",
        "vendor_id\t: AuthenticAMD\nflags\t\t: fpu\n",
    );
    let other_table = ("sys/firmware/acpi/tables/FACP", "");
    iommu(
        &[("sys/firmware/acpi/tables/DMAR", "")],
        &[
            "fail iommu: none in use, though the firmware offers one (table DMAR)",
            "  add `intel_iommu=on` to the kernel command line, and reboot",
        ],
    );
    iommu(
        &[other_table],
        &[
            "fail iommu: none: the firmware offers none (no table DMAR)",
            "  switch VT-d on in the firmware, and add `intel_iommu=on` to the kernel command line",
        ],
    );
    iommu(
        &[],
        &[
            "fail iommu: none in use",
            "  switch VT-d on in the firmware, add `intel_iommu=on` to the kernel command line, and reboot",
        ],
    );
    iommu(
        &[amd, other_table],
        &[
            "fail iommu: none: the firmware offers none (no table IVRS)",
            "  switch IOMMU (AMD-Vi) on in the firmware; AMD needs no kernel parameter for it",
        ],
    );
    iommu(
        &[("proc/cmdline", "quiet intel_iommu=off\n")],
        &[
            "fail iommu: none: the kernel command line has intel_iommu=off",
            "  take `intel_iommu=off` off the kernel command line, and reboot",
        ],
    );
    iommu(
        &[(
            "proc/cpuinfo",
            "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\n",
        )],
        &[
            "fail iommu: none: this virtual machine has no virtual IOMMU",
            "  give the machine one; QEMU: `-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on`",
        ],
    );
}

#[test]
fn a_bare_host_fails_for_a_device_and_does_without() {
    let tree = Tree::new(&[BASE, TYPE1, BARE]);
    let check = tree.check(&for_device(GIB), &Kernel::default());
    let failed: Vec<&str> = check
        .rows()
        .iter()
        .filter(|row| row.verdict == Verdict::Fail)
        .map(|row| row.id.as_str())
        .collect();
    assert_eq!(failed, ["iommu", "device-driver", "vfio-container"]);

    let check = tree.check(&without_device(GIB), &Kernel::default());
    sound(&check);
    let expected = [
        "absent iommu: none in use",
        "  switch VT-d on in the firmware, add `intel_iommu=on` to the kernel command line, and reboot",
        "absent iommu-groups: none, as no IOMMU is in use",
        "absent interrupt-remapping: none, as no IOMMU is in use",
        "absent unsafe-interrupts: neither vfio_iommu_type1 nor iommufd is loaded",
        "absent vfio-container: /dev/vfio/vfio does not exist",
        "  `modprobe vfio-pci` (in a container: `--device /dev/vfio/vfio`)",
    ];
    assert_eq!(lines(check.rows())[..expected.len()], expected);
    assert_eq!(check.verdict(), Verdict::Ok);
}

#[test]
fn one_complete_way_to_the_device_is_enough() {
    let ids = ["vfio-container", "iommufd", "device-node"];
    let both: &[File] = &[
        ("sys/class/misc/iommu/", "/"),
        (
            "sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev",
            "511:0\n",
        ),
        ("dev/iommu", ""),
        ("dev/vfio/devices/vfio0", ""),
    ];
    let container = "ok vfio-container: /dev/vfio/vfio, provided by VFIO (vfio_iommu_type1)";
    let denied = |denied: &'static [&'static str], expected: &[&str]| {
        let kernel = Kernel {
            denied,
            io_uring: None,
        };
        assert_rows(both, &kernel, &ids, expected);
    };
    let chown = "  `chown USER /dev/iommu`, or a udev rule: KERNEL==\"iommu\", OWNER=\"USER\"";
    denied(
        &["dev/vfio/12"],
        &[
            container,
            "ok iommufd: /dev/iommu",
            "ok device-node: /dev/vfio/12 may not be opened by this user, /dev/vfio/devices/vfio0",
        ],
    );
    denied(
        &["dev/iommu", "dev/vfio/devices/vfio0"],
        &[
            container,
            "warn iommufd: /dev/iommu may not be opened by this user",
            chown,
            "ok device-node: /dev/vfio/12, /dev/vfio/devices/vfio0 may not be opened by this user",
        ],
    );
    denied(
        &["dev/iommu", "dev/vfio/12", "dev/vfio/devices/vfio0"],
        &[
            container,
            "warn iommufd: /dev/iommu may not be opened by this user",
            chown,
            "fail device-node: /dev/vfio/12 may not be opened by this user, \
             /dev/vfio/devices/vfio0 may not be opened by this user",
            "  `chown USER /dev/vfio/12`; to keep it so, a udev rule: SUBSYSTEM==\"vfio\", OWNER=\"USER\"",
        ],
    );
    denied(
        &["dev/vfio/vfio", "dev/vfio/12", "dev/iommu"],
        &[
            "warn vfio-container: /dev/vfio/vfio may not be opened by this user",
            "  `chmod 666 /dev/vfio/vfio`, which is its usual mode",
            "fail iommufd: /dev/iommu may not be opened by this user",
            chown,
            "ok device-node: /dev/vfio/12 may not be opened by this user, /dev/vfio/devices/vfio0",
        ],
    );
}

#[test]
fn nodes_that_lead_nowhere_are_told_apart() {
    let ids = ["vfio-container", "iommufd", "device-node"];
    let iommufd = [
        "absent iommufd: /dev/iommu does not exist",
        "  `modprobe iommufd`, of a kernel 6.2 or later with CONFIG_IOMMUFD (in a container: `--device /dev/iommu`)",
    ];
    let node = "ok device-node: /dev/vfio/12";
    let container = |changes: &[File], found: &str, remedy: &str| {
        let expected = [found, remedy, iommufd[0], iommufd[1], node];
        assert_rows(changes, &Kernel::default(), &ids, &expected);
    };
    container(
        &[("sys/class/misc/vfio", "gone")],
        "fail vfio-container: /dev/vfio/vfio exists, but its module is not loaded",
        "  `modprobe vfio_iommu_type1`",
    );
    container(
        &[("sys/module/vfio_iommu_type1", "gone")],
        "fail vfio-container: /dev/vfio/vfio exists, but its module is not loaded",
        "  `modprobe vfio_iommu_type1`",
    );
    // What `docker run -v /dev/vfio/vfio` makes where there is none.
    container(
        &[("dev/vfio/vfio", "gone"), ("dev/vfio/vfio/", "/")],
        "fail vfio-container: /dev/vfio/vfio is not a device node",
        "  pass the device node into the container: `--device /dev/vfio/vfio`",
    );
    assert_rows(
        &[("dev/vfio/12", "gone")],
        &Kernel::default(),
        &["device-node"],
        &[
            "fail device-node: /dev/vfio/12 does not exist",
            "  have udev or devtmpfs make the node; in a container: `--device /dev/vfio/12`",
        ],
    );
}

#[test]
fn what_the_kernel_would_refuse_is_said_before() {
    let row = |changes: &[File], id: &str, expected: &[&str]| {
        assert_rows(changes, &Kernel::default(), &[id], expected);
    };
    row(
        &[("sys/bus/pci/devices/0000:01:00.0/class", "0x060400\n")],
        "device",
        &[
            "fail device: 0000:01:00.0 10de:2330, bridge, NUMA node 1",
            "  name the device behind the bridge; `lspci -t` shows it",
        ],
    );
    row(
        &[("sys/bus/pci/devices/0000:01:00.0/iommu_group", "gone")],
        "device-group",
        &[
            "fail device-group: none: the IOMMU does not cover this device",
            "  choose another device; `ls /sys/kernel/iommu_groups/*/devices` has those that the IOMMU covers",
        ],
    );
    row(
        &[(
            "sys/kernel/iommu_groups/12/reserved_regions",
            "0x000000008d800000 0x000000008fffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n",
        )],
        "reserved-regions",
        &[
            "fail reserved-regions: the firmware wants 0x8d800000-0x8fffffff direct mapped 1:1",
            "  switch off in the firmware what shares memory with this device (RMRR, such as remote management), \
             or choose another one",
        ],
    );
    row(
        &[("proc/interrupts", " 4: 1 IO-APIC 4-edge ttyS0\n")],
        "interrupt-remapping",
        &[
            "fail interrupt-remapping: off (no IR- chip in /proc/interrupts)",
            "  switch it on in the firmware (in QEMU: intel-iommu,intremap=on); if the guest is trusted with the host: \
             `echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`",
        ],
    );
    assert_rows(
        &[
            ("proc/interrupts", " 4: 1 IO-APIC 4-edge ttyS0\n"),
            (
                "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                "Y\n",
            ),
        ],
        &Kernel::default(),
        &["interrupt-remapping", "unsafe-interrupts"],
        &[
            "warn interrupt-remapping: off (no IR- chip in /proc/interrupts)",
            "  switch it on in the firmware (in QEMU: intel-iommu,intremap=on)",
            "warn unsafe-interrupts: allowed by vfio_iommu_type1",
            "  `echo N > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`",
        ],
    );
}

#[test]
fn groups_tell_of_an_iommu_whose_units_are_not_listed() {
    let unlisted: &[File] = &[("sys/class/iommu", "gone")];
    let found = "ok iommu: in use (its units are not listed)";
    assert_rows(unlisted, &Kernel::default(), &["iommu"], &[found]);
    let unknown: &[File] = &[("sys/kernel/iommu_groups", "a file")];
    let tree = Tree::new(&[BASE, unlisted, unknown]);
    let check = tree.check(&without_device(GIB), &Kernel::default());
    sound(&check);
    assert_eq!(check.rows()[0].verdict, Verdict::Warn);
}

#[test]
fn groups_that_vfio_makes_up_are_no_iommu() {
    let changes: &[File] = &[
        ("sys/class/iommu/", "/"),
        ("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n"),
        (
            "sys/bus/pci/devices/0000:01:00.0/iommu_group",
            "-> ../iommu_groups/0",
        ),
        ("sys/bus/pci/devices/0000:01:00.0/driver", "-> ../vfio-pci"),
        ("dev/vfio/noiommu-0", ""),
    ];
    let tree = Tree::new(&[BASE, TYPE1, BARE, changes]);
    let check = tree.check(&for_device(GIB), &Kernel::default());
    sound(&check);
    let found = |id: &str| {
        let row = check.rows().iter().find(|row| row.id == id).unwrap();
        format!("{} {}", row.verdict.name(), row.found)
    };
    assert_eq!(found("iommu"), "fail none in use");
    assert_eq!(
        found("device-group"),
        "fail 0, made up by VFIO: 0000:01:00.0 has no IOMMU"
    );
    assert_eq!(check.verdict(), Verdict::Fail, "{:?}", lines(check.rows()));
}

#[test]
fn parameters_of_type1_that_are_in_the_way_are_warned_of() {
    assert_rows(
        &[
            (
                "sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
                "8\n",
            ),
            (
                "sys/module/vfio_iommu_type1/parameters/disable_hugepages",
                "Y\n",
            ),
        ],
        &Kernel::default(),
        &["dma-entry-limit", "type1-huge-pages"],
        &[
            "warn dma-entry-limit: only 8 maps for each container",
            "  `echo 65535 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit`, before the container is opened",
            "warn type1-huge-pages: not used: disable_hugepages is set",
            "  `echo N > /sys/module/vfio_iommu_type1/parameters/disable_hugepages`",
        ],
    );
}

#[test]
fn limits_on_memory_fail_and_say_how_to_raise_them() {
    let limited: &[File] = &[
        (
            "proc/self/limits",
            "Max locked memory  8388608 8388608 bytes\n",
        ),
        ("sys/fs/cgroup/vmm/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/vmm/memory.current", "1073741824\n"),
        (
            "sys/fs/cgroup/vmm/memory.stat",
            "inactive_file 0\nactive_file 0\n",
        ),
        ("proc/meminfo", "MemAvailable: 1048576 kB\n"),
    ];
    let ids = ["memlock", "memory-cgroup", "memory"];
    assert_rows(
        limited,
        &Kernel::default(),
        &ids,
        &[
            "fail memlock: only 8 MiB (RLIMIT_MEMLOCK), 0 B of it in use",
            "  `ulimit -l 4194304` in the shell that starts it, `LimitMEMLOCK=4294967296` in its systemd unit, \
             or `prlimit --memlock=4294967296:4294967296 --pid PID`",
            "fail memory-cgroup: only 2 GiB (/sys/fs/cgroup/vmm/memory.max), 1 GiB of it in use",
            "  `echo 5393874944 > /sys/fs/cgroup/vmm/memory.max`, `MemoryMax=5393874944` in the systemd unit, \
             or a higher memory limit for the container",
            "fail memory: only 1 GiB (MemAvailable)",
            "  free 3096 MiB on this machine, or give the guest less memory",
        ],
    );
    assert_rows(
        &[("sys/fs/cgroup/vmm/memory.high", "1073741824\n")],
        &Kernel::default(),
        &ids,
        &[
            "ok memlock: unlimited (RLIMIT_MEMLOCK)",
            "warn memory-cgroup: throttled above 1 GiB (memory.high)",
            "  `echo max > /sys/fs/cgroup/vmm/memory.high`: pinned memory cannot be given back, so the group stays slow",
            "ok memory: 64 GiB (MemAvailable)",
        ],
    );
    // Without an amount nothing is too low.
    let tree = Tree::new(&[BASE, limited]);
    let check = tree.check(&CheckRequest::default(), &Kernel::default());
    sound(&check);
    assert_eq!(check.verdict(), Verdict::Ok, "{:?}", lines(check.rows()));
}

#[test]
fn what_slows_a_pin_is_warned_of() {
    let slow: &[File] = &[
        (
            "proc/self/status",
            "VmLck:\t0 kB\nVmPin:\t0 kB\nVmRSS:\t9 kB\nCapEff:\t0000000000000000\nCpus_allowed_list:\t3\n",
        ),
        ("sys/fs/cgroup/vmm/cpu.max", "150000 100000\n"),
        ("sys/fs/cgroup/vmm/cpu.weight", "39\n"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "100\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "10\n",
        ),
    ];
    assert_rows(
        slow,
        &Kernel::default(),
        &[
            "hugetlb-2m",
            "thp",
            "cpu-affinity",
            "cpu-quota",
            "cpu-weight",
        ],
        &[
            "warn hugetlb-2m: 10 of 100 free, 0 reserved, 0 on demand",
            "  `echo 2138 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`",
            "warn thp: never, advise for shared memory",
            "  `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
            "warn cpu-affinity: 1 CPU of 8 (3)",
            "  `taskset -pc 0-N PID`, or more CPUs in the cpuset (AllowedCPUs= of the systemd unit)",
            "warn cpu-quota: 1 CPU: 150000 100000 (/sys/fs/cgroup/vmm/cpu.max)",
            "  `echo max > /sys/fs/cgroup/vmm/cpu.max`, CPUQuota= of the systemd unit, or the CPU limit of the container",
            "warn cpu-weight: 39 (usual: 100), /sys/fs/cgroup/vmm/cpu.weight",
            "  `echo 100 > /sys/fs/cgroup/vmm/cpu.weight`, CPUWeight= of the systemd unit, \
             or a higher CPU request of the container",
        ],
    );
    assert_rows(
        &[
            ("sys/fs/cgroup/vmm/cpu.weight", "0\n"),
            ("sys/fs/cgroup/vmm/cpu.idle", "1\n"),
        ],
        &Kernel::default(),
        &["cpu-weight"],
        &[
            "warn cpu-weight: idle: runs only where nobody else wants to",
            "  `echo 0 > /sys/fs/cgroup/vmm/cpu.idle`",
        ],
    );
}

/// The status file of a process with these CPUs and memory nodes.
fn bound_to(cpus: &str, mems: &str) -> String {
    format!(
        "VmLck:\t0 kB\nVmPin:\t0 kB\nVmRSS:\t9 kB\nCapEff:\t0000000000000000\n\
         Cpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{mems}\n"
    )
}

/// What is said of the nodes to a process that is bound, on a ready host with changes.
fn nodes_row(changes: &[File], cpus: &str, mems: &str) -> Vec<String> {
    let tree = Tree::new(&[BASE, TYPE1, changes]);
    tree.put("proc/self/status", &bound_to(cpus, mems));
    let check = tree.check(&for_device(GIB), &Kernel::default());
    sound(&check);
    let row = check.rows().iter().find(|row| row.id == "memory-nodes");
    lines(row.map(std::slice::from_ref).unwrap())
}

#[test]
fn memory_that_is_far_from_the_cpus_is_warned_of() {
    let allow = |nodes, cpus| {
        format!(
            "  `AllowedMemoryNodes={nodes}` of the systemd unit (cpuset.mems of the group), \
             or start it with `numactl --cpunodebind={cpus}`"
        )
    };
    let warn = |found: &str, remedy: String| vec![format!("warn memory-nodes: {found}"), remedy];
    let ok = |found: &str| vec![format!("ok memory-nodes: {found}")];
    let not_near = "1 node of 2 allowed (1), none of them near a CPU of the mask";
    let cases: [(&str, &str, Vec<String>); 6] = [
        ("0-7", "0-1", ok("2 nodes (0-1)")),
        ("4-7", "0-1", ok("2 nodes (0-1)")),
        ("4-7", "1", ok("1 node of 2 allowed (1)")),
        (
            "0-7",
            "0",
            warn(
                "1 node of 2 allowed (0), though CPUs of 1 are in the mask",
                allow("0-1", "0"),
            ),
        ),
        ("0-3", "1", warn(not_near, allow("0-1", "1"))),
        ("2", "1", warn(not_near, allow("0-1", "1"))),
    ];
    for (cpus, mems, expected) in cases {
        assert_eq!(nodes_row(&[], cpus, mems), expected, "{cpus} {mems}");
    }

    let bare: &[File] = &[("sys/devices/system/node/has_memory", "0\n")];
    assert_eq!(nodes_row(bare, "0-7", "0"), ok("1 node (0)"));
    let none: &[File] = &[("sys/devices/system/node", "gone")];
    assert_eq!(nodes_row(none, "0-7", "0"), ok("1 node (0)"));
}

#[test]
fn nodes_without_memory_or_without_cpus_are_told_apart() {
    // Node 2 has memory and no CPU, node 3 CPUs and no memory.
    let odd: &[File] = &[
        ("sys/devices/system/node/online", "0-3\n"),
        ("sys/devices/system/node/has_memory", "0-2\n"),
        ("sys/devices/system/node/node2/cpulist", "\n"),
        ("sys/devices/system/node/node3/cpulist", "8-11\n"),
        ("sys/devices/system/cpu/online", "0-11\n"),
    ];
    let far =
        |nodes: &str| format!("warn memory-nodes: {nodes}, none of them near a CPU of the mask");
    assert_eq!(
        nodes_row(odd, "0-11", "0-2"),
        ["ok memory-nodes: 3 nodes (0-2)"]
    );
    assert_eq!(
        nodes_row(odd, "8-11", "0-2"),
        [
            far("3 nodes (0-2)"),
            "  start it with `numactl --cpunodebind=0-1`".to_owned(),
        ]
    );
    assert_eq!(
        nodes_row(odd, "0-3", "2"),
        [
            far("1 node of 3 allowed (2)"),
            "  `AllowedMemoryNodes=0,2` of the systemd unit (cpuset.mems of the group)".to_owned(),
        ]
    );
    // No other CPU would be nearer.
    assert_eq!(
        nodes_row(odd, "8-11", "2"),
        ["ok memory-nodes: 1 node of 3 allowed (2)"]
    );
}

#[test]
fn where_niceness_does_not_help_a_weight_is_recommended() {
    let row = |changes: &[File], expected: &[&str]| {
        assert_rows(changes, &Kernel::default(), &["cpu-neighbours"], expected);
    };
    let found = "niceness counts only inside this group";
    row(
        &[("sys/fs/cgroup/vmm/cpu.weight", "39\n")],
        &[&format!(
            "ok cpu-neighbours: {found}, but it yields (weight 39, usual: 100; /sys/fs/cgroup/vmm/cpu.weight)"
        )],
    );
    row(
        &[("sys/fs/cgroup/vmm/cpu.idle", "1\n")],
        &[&format!(
            "ok cpu-neighbours: {found}, but it yields (idle; /sys/fs/cgroup/vmm/cpu.weight)"
        )],
    );
    // Before 5.15.
    let tail = "while it pins: it counts for all of the group, vCPUs too, and against its siblings; \
                against others, the same in the group above";
    row(
        &[("sys/fs/cgroup/vmm/cpu.idle", "gone")],
        &[
            &format!("absent cpu-neighbours: {found} (weight 100; /sys/fs/cgroup/vmm/cpu.weight)"),
            &format!("  `echo 10 > /sys/fs/cgroup/vmm/cpu.weight` {tail}"),
        ],
    );
    let version_1: &[File] = &[
        ("proc/self/cgroup", "4:cpu:/vmm\n3:memory:/vmm\n"),
        (
            "proc/self/mountinfo",
            "30 1 0:2 / /cpu rw - cgroup c rw,cpu\n31 1 0:3 / /memory rw - cgroup c rw,memory\n",
        ),
        ("cpu/vmm/cpu.shares", "1024\n"),
        ("cpu/cpu.shares", "1024\n"),
    ];
    row(
        version_1,
        &[
            &format!("absent cpu-neighbours: {found} (weight 1024; /cpu/vmm/cpu.shares)"),
            &format!("  `echo 102 > /cpu/vmm/cpu.shares` {tail}"),
        ],
    );
}

#[test]
fn in_the_root_group_niceness_counts_unless_sessions_divide_it() {
    const AUTOGROUP: &str = "proc/sys/kernel/sched_autogroup_enabled";
    let row = |autogroup: &'static str, expected: &[&str]| {
        let changes: &[File] = &[("proc/self/cgroup", "0::/\n"), (AUTOGROUP, autogroup)];
        assert_rows(changes, &Kernel::default(), &["cpu-neighbours"], expected);
    };
    row(
        "1\n",
        &[
            "absent cpu-neighbours: niceness counts only inside this session (autogroup)",
            "  `echo 19 > /proc/PID/autogroup` while it pins, or `sysctl kernel.sched_autogroup_enabled=0`",
        ],
    );
    let everybody = "ok cpu-neighbours: niceness counts against everybody (root group of the CPUs)";
    row("0\n", &[everybody]);
    row("gone", &[everybody]);
    row(
        "\x1b\n",
        &[
            "warn cpu-neighbours: could not be read: /proc/sys/kernel/sched_autogroup_enabled: no number: `\\u{1b}`",
            "  let this user read `/proc/sys/kernel/sched_autogroup_enabled`, or look into it",
        ],
    );
}

#[test]
fn commands_name_groups_as_a_shell_has_to_see_them() {
    let limits = |group: &str| {
        let tree = Tree::new(&[BASE, TYPE1]);
        tree.put("proc/self/cgroup", &format!("0::/{group}\n"));
        for (file, text) in [
            ("cpu.max", "50000 100000\n"),
            ("cpu.weight", "39\n"),
            ("memory.max", "4096\n"),
            ("memory.current", "0\n"),
            ("memory.stat", "inactive_file 0\nactive_file 0\n"),
        ] {
            tree.put(&format!("sys/fs/cgroup/{group}/{file}"), text);
        }
        let check = tree.check(&for_device(GIB), &Kernel::default());
        sound(&check);
        let remedy = |id: &str| {
            let row = check.rows().iter().find(|row| row.id == id).unwrap();
            row.remedy.clone().unwrap()
        };
        ["cpu-quota", "cpu-weight", "memory-cgroup"].map(remedy)
    };
    // As libvirt and systemd name the group of a guest.
    let remedies = limits(r"machine.slice/machine-qemu\x2d1.scope");
    for (remedy, file) in remedies.iter().zip(["cpu.max", "cpu.weight", "memory.max"]) {
        let path = format!(r"'/sys/fs/cgroup/machine.slice/machine-qemu\x2d1.scope/{file}'`");
        assert!(remedy.contains(&path), "{remedy}");
    }
    for remedy in limits("a\x1b[2J $(reboot)") {
        assert!(
            remedy.contains(r"> $'/sys/fs/cgroup/a\x1b[2J $(reboot)/"),
            "{remedy}"
        );
    }
}

#[test]
fn io_uring_is_needed_only_without_a_device() {
    const EPERM: i32 = 1;
    let row = |changes: &[File], request: &CheckRequest| {
        let tree = Tree::new(&[BASE, TYPE1, changes]);
        let kernel = Kernel {
            denied: &[],
            io_uring: Some(EPERM),
        };
        let check = tree.check(request, &kernel);
        sound(&check);
        let row = check.rows().iter().find(|row| row.id == "io-uring");
        lines(row.map(std::slice::from_ref).unwrap())
    };
    let sysctl: &[File] = &[("proc/sys/kernel/io_uring_disabled", "2\n")];
    assert_eq!(
        row(sysctl, &without_device(GIB)),
        [
            "fail io-uring: refused: kernel.io_uring_disabled is 2",
            "  `sysctl kernel.io_uring_disabled=0`"
        ]
    );
    assert_eq!(
        row(sysctl, &for_device(GIB))[0],
        "absent io-uring: refused: kernel.io_uring_disabled is 2"
    );
    let filtered: &[File] = &[(
        "proc/self/status",
        "Seccomp:\t2\nCpus_allowed_list:\t0-7\nCapEff:\t0\nVmLck:\t0 kB\nVmPin:\t0 kB\nVmRSS:\t0 kB\n",
    )];
    assert_eq!(
        row(filtered, &without_device(GIB)),
        [
            "fail io-uring: refused: Operation not permitted (os error 1), by a seccomp filter",
            "  allow io_uring_setup and io_uring_register in the seccomp profile of the container"
        ]
    );
}

#[test]
fn a_container_without_files_of_its_cgroup_is_warned_and_not_refused() {
    let changes: &[File] = &[
        ("proc/self/cgroup", "gone"),
        ("proc/self/mountinfo", "gone"),
        ("sys/fs/cgroup", "gone"),
    ];
    assert_rows(
        changes,
        &Kernel::default(),
        &["memory-cgroup", "cpu-quota", "cpu-weight", "cpu-neighbours"],
        &[
            "warn memory-cgroup: could not be read: /proc/thread-self/cgroup: no such file",
            "  let this user read `/proc/thread-self/cgroup`, or look into it",
            "warn cpu-quota: could not be read: /proc/thread-self/cgroup: no such file",
            "  let this user read `/proc/thread-self/cgroup`, or look into it",
            "warn cpu-weight: could not be read: /proc/thread-self/cgroup: no such file",
            "  let this user read `/proc/thread-self/cgroup`, or look into it",
            "warn cpu-neighbours: could not be read: /proc/thread-self/cgroup: no such file",
            "  let this user read `/proc/thread-self/cgroup`, or look into it",
        ],
    );
    // The usual container: its own group is at the mount point, under a path of the host's.
    assert_rows(
        &[
            ("proc/self/cgroup", "0::/../kubepods/pod1\n"),
            ("proc/self/ns/cgroup", "-> cgroup:[4026532500]"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ],
        &Kernel::default(),
        &["memory-cgroup", "cpu-quota", "cpu-weight", "cpu-neighbours"],
        &[
            "ok memory-cgroup: no limit",
            "ok cpu-quota: none",
            "absent cpu-weight: no cgroup with a weight",
            "absent cpu-neighbours: niceness counts only inside this group, whose weight is not seen here",
            "  a lower CPUWeight= of the systemd unit, or CPU request of the container, while it pins",
        ],
    );
}

/// The rows of both kinds of accelerator, on a ready host with queues and changes.
fn accelerators(changes: &[File], kernel: &Kernel) -> Vec<String> {
    let tree = Tree::new(&[BASE, TYPE1, QUEUES, changes]);
    let check = tree.check(&for_device(GIB), kernel);
    sound(&check);
    assert_ne!(check.verdict(), Verdict::Fail, "{changes:?}");
    let from = check.rows().len() - 2;
    lines(&check.rows()[from..])
}

/// What makes portals, batches and limits good.
const GOOD_QUEUES: &[File] = &[
    (
        "proc/self/status",
        "VmLck:\t0 kB\nVmPin:\t0 kB\nVmRSS:\t9 kB\nCapEff:\t0000000000020000\nCpus_allowed_list:\t0-7\n\
         Mems_allowed_list:\t0-1\nTHP_enabled:\t1\nSeccomp:\t0\n",
    ),
    ("sys/bus/dsa/devices/dsa0/numa_node", "1\n"),
    ("sys/bus/dsa/devices/wq0.0/size", "64\n"),
    ("sys/bus/dsa/devices/wq0.0/max_batch_size", "128\n"),
    (
        "sys/bus/dsa/devices/wq0.0/max_transfer_size",
        "2147483648\n",
    ),
    ("sys/bus/dsa/devices/wq1.0/type", "user\n"),
    ("sys/bus/dsa/devices/wq1.0/mode", "dedicated\n"),
    ("dev/iax/wq1.0", ""),
];

const RAWIO: &str = "`AmbientCapabilities=CAP_SYS_RAWIO` in the systemd unit, `--cap-add SYS_RAWIO` for a container (not in a \
                     user namespace of its own); it can be dropped when the queues are open";

#[test]
fn queues_of_accelerators_are_shown_with_their_limits() {
    assert_eq!(
        accelerators(GOOD_QUEUES, &Kernel::default()),
        [
            "ok dsa: dsa0 with wq0.0 (shared, size 64, batches of 128, 2 GiB at once, node 1)",
            "ok iaa: iax1 with wq1.0 (dedicated, 2 MiB at once)",
        ]
    );
}

#[test]
fn small_batches_and_missing_portals_are_warned_of() {
    let smaller = [
        GOOD_QUEUES,
        &[("sys/bus/dsa/devices/wq0.0/max_batch_size", "32\n")],
    ]
    .concat();
    let larger = "`accel-config disable-wq dsa0/wq0.0; accel-config config-wq dsa0/wq0.0 -g 0 -p 10 -m shared -t 64 \
                  --max-batch-size=128 -y user -n parapin -d user; accel-config enable-wq dsa0/wq0.0`; \
                  then `chown USER /dev/dsa/wq0.0`";
    assert_eq!(
        accelerators(&smaller, &Kernel::default()),
        [
            "warn dsa: dsa0 with wq0.0 (shared, size 64, batches of 32, 2 GiB at once, node 1)"
                .to_owned(),
            format!("  {larger}"),
            "ok iaa: iax1 with wq1.0 (dedicated, 2 MiB at once)".to_owned(),
        ]
    );
    // Of another user namespace it does not count.
    for change in [
        ("proc/self/ns/user", "-> user:[4026532000]"),
        BASE[0],
        ("proc/self/status", "CapEff:\tzzzz\n"),
    ] {
        let changes = [smaller.as_slice(), &[change]].concat();
        assert_eq!(
            accelerators(&changes, &Kernel::default()),
            [
                "warn dsa: dsa0 with wq0.0 (shared, size 64, batches of 32, 2 GiB at once, node 1); through write() only, \
                 without batches, as CAP_SYS_RAWIO is missing"
                    .to_owned(),
                format!("  {RAWIO}; and {larger}"),
                "warn iaa: iax1 with wq1.0 (dedicated, 2 MiB at once); through write() only, as CAP_SYS_RAWIO is missing"
                    .to_owned(),
                format!("  {RAWIO}"),
            ],
            "{change:?}"
        );
    }
}

#[test]
fn queues_that_cannot_be_used_are_told_with_what_helps() {
    let kernel = "`accel-config disable-wq iax1/wq1.0; accel-config disable-device iax1; \
                  accel-config config-wq iax1/wq1.0 -g 0 -s 16 -p 10 -m shared -t 16 -y user -n parapin -d user; \
                  accel-config config-engine iax1/engine1.0 -g 0; accel-config enable-device iax1; \
                  accel-config enable-wq iax1/wq1.0`; then `chown USER /dev/iax/wq1.0`";
    let denied = Kernel {
        denied: &["dev/dsa/wq0.0"],
        io_uring: None,
    };
    assert_eq!(
        accelerators(&[], &denied),
        [
            "warn dsa: dsa0: no queue that this process may use (wq0.0: permission denied)",
            "  `chown USER /dev/dsa/wq0.0`",
            "warn iaa: iax1: no queue that this process may use (wq1.0: set up for the kernel)",
            &format!("  {kernel}"),
        ]
    );
    let changes: &[File] = &[
        ("sys/bus/dsa/devices/dsa0/state", "halted\n"),
        ("sys/bus/dsa/devices/wq1.0", "gone"),
    ];
    assert_eq!(
        accelerators(changes, &Kernel::default()),
        [
            "warn dsa: dsa0: no queue that this process may use (wq0.0: device halted by an error, wq0.1: device halted by \
             an error)",
            "  `echo 1 > /sys/bus/dsa/devices/dsa0/../reset`, then configure the device anew",
            "warn iaa: iax1: no queue that this process may use (none is configured)",
            "  `accel-config list -i` tells what the device has",
        ]
    );
    // No entry is left for another queue, so that the kernel's has to give way.
    let changes: &[File] = &[
        ("sys/bus/dsa/devices/iax1/max_work_queues_size", "128\n"),
        ("sys/bus/dsa/devices/wq1.0/size", "128\n"),
        ("sys/bus/dsa/devices/wq1.0/driver_name", "crypto\n"),
        ("sys/bus/dsa/devices/wq1.1/type", "none\n"),
    ];
    assert_eq!(
        accelerators(changes, &Kernel::default())[2..],
        [
            "warn iaa: iax1: no queue that this process may use (wq1.0: set up for the kernel: crypto)",
            "  `accel-config disable-wq iax1/wq1.0; accel-config config-wq iax1/wq1.0 -g 0 -p 10 -m shared -t 128 -y user \
             -n parapin -d user; accel-config enable-wq iax1/wq1.0`; then `chown USER /dev/iax/wq1.0`",
        ]
    );
    // Another process's dedicated queue, and a node that is not the queue's.
    let changes: &[File] = &[
        ("sys/bus/dsa/devices/wq0.0/mode", "dedicated\n"),
        ("sys/bus/dsa/devices/wq0.0/clients", "1\n"),
        ("sys/bus/dsa/devices/wq1.0/type", "user\n"),
        ("sys/bus/dsa/devices/iax1/cdev_major", "4095\n"),
        ("sys/bus/dsa/devices/wq1.0/cdev_minor", "1048575\n"),
        ("dev/iax/wq1.0", ""),
    ];
    let rows = accelerators(changes, &Kernel::default());
    assert!(
        rows[0].ends_with("(wq0.0: dedicated, and open elsewhere)"),
        "{rows:?}"
    );
    assert!(rows[2].contains("(wq1.0: its node is device "), "{rows:?}");
    assert!(rows[2].ends_with(", it is 4095:1048575)"), "{rows:?}");
}

/// A file, and the row that cannot be made without it.
const GARBAGE: &[(&str, &str)] = &[
    ("sys/class/iommu", "iommu"),
    ("sys/kernel/iommu_groups", "iommu-groups"),
    ("proc/interrupts", "interrupt-remapping"),
    (
        "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        "unsafe-interrupts",
    ),
    ("sys/bus/pci/devices/0000:01:00.0/class", "device"),
    ("sys/bus/pci/devices/0000:01:00.0/driver", "device-driver"),
    (
        "sys/bus/pci/devices/0000:01:00.0/iommu_group",
        "device-group",
    ),
    ("sys/kernel/iommu_groups/12/devices", "group-viability"),
    (
        "sys/kernel/iommu_groups/12/reserved_regions",
        "reserved-regions",
    ),
    (
        "sys/module/vfio_iommu_type1/parameters/dma_entry_limit",
        "dma-entry-limit",
    ),
    (
        "sys/module/vfio_iommu_type1/parameters/disable_hugepages",
        "type1-huge-pages",
    ),
    ("proc/self/limits", "memlock"),
    ("proc/self/cgroup", "memory-cgroup"),
    ("proc/meminfo", "memory"),
    ("sys/devices/system/node/online", "memory-nodes"),
    ("sys/devices/system/node/has_memory", "memory-nodes"),
    ("sys/devices/system/node/node1/cpulist", "memory-nodes"),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        "hugetlb-2m",
    ),
    ("sys/kernel/mm/hugepages", "hugetlb"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "thp"),
    ("proc/self/status", "cpu-affinity"),
    ("proc/self/mountinfo", "cpu-quota"),
    ("sys/fs/cgroup/vmm/cpu.weight", "cpu-weight"),
    ("proc/self/cgroup", "cpu-neighbours"),
    ("sys/bus/dsa/devices", "dsa"),
];

#[test]
fn a_file_that_makes_no_sense_is_named() {
    for &(file, id) in GARBAGE {
        let tree = Tree::new(&[BASE, TYPE1, QUEUES]);
        tree.put(file, "gone");
        tree.put(file, "\u{202e}\x1b[2J garbage \0 \u{7}");
        let check = tree.check(&for_device(GIB), &Kernel::default());
        sound(&check);
        let row = check.rows().iter().find(|row| row.id == id).unwrap();
        assert_eq!(row.verdict, Verdict::Warn, "{file}: {row:?}");
        assert!(
            row.found.starts_with("could not be read: /"),
            "{file}: {row:?}"
        );
        assert!(
            row.found.contains(file.rsplit('/').next().unwrap()),
            "{row:?}"
        );
    }
}

#[test]
fn whatever_becomes_of_a_file_nothing_breaks() {
    let files: Vec<&str> = [BASE, TYPE1, QUEUES]
        .concat()
        .iter()
        .map(|(path, _)| path.trim_end_matches('/'))
        .collect();
    let tree = Tree::new(&[BASE, TYPE1, QUEUES]);
    let ask = || {
        for request in [for_device(u64::MAX), without_device(0)] {
            sound(&tree.check(&request, &Kernel::default()));
        }
    };
    for file in files {
        let path = tree.path().join(file);
        let kept = tree.path().join("kept");
        fs::rename(&path, &kept).unwrap();
        ask();
        for text in [
            "",
            "\n\n",
            "18446744073709551616",
            "-> /",
            "-> ..",
            "-> \x1b",
            "/",
        ] {
            tree.put(file, text);
            ask();
            tree.put(file, "gone");
        }
        let huge = fs::File::create(&path).unwrap();
        huge.set_len(3 << 20).unwrap();
        ask();
        tree.put(file, "gone");
        fs::rename(&kept, &path).unwrap();
    }
}

#[test]
fn an_empty_tree_and_odd_names_are_survived() {
    let tree = Tree::new(&[]);
    let check = tree.check(&for_device(GIB), &Kernel::default());
    sound(&check);
    assert_eq!(
        lines(&check.rows()[..1])[0],
        "fail iommu: no /sys/kernel: sysfs is not mounted here"
    );

    let odd: &[File] = &[
        ("sys/kernel/iommu_groups/12/devices/$(reboot)/", "/"),
        ("sys/kernel/iommu_groups/12/devices/a\x1bb/", "/"),
        ("sys/kernel/mm/hugepages/hugepages-02048kB/", "/"),
        ("sys/kernel/mm/hugepages/hugepages-2048\x1bkB/", "/"),
        ("sys/bus/dsa/devices/dsa\n0/", "/"),
    ];
    let tree = Tree::new(&[BASE, TYPE1, odd]);
    let check = tree.check(&for_device(GIB), &Kernel::default());
    sound(&check);
    assert_eq!(check.verdict(), Verdict::Ok, "{:?}", lines(check.rows()));
}

#[test]
fn json_has_what_others_rely_on() {
    let output = parapin(&["check", "--json"]).output().unwrap();
    let exit = output.status.code().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("{\n  \"schema\": 1,\n  \"verdict\": "),
        "{text}"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let words = ["ok", "warn", "fail", "absent"];
    let mut ids = BTreeSet::new();
    let mut failed = false;
    for row in value["rows"].as_array().unwrap() {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["found", "id", "needed", "remedy", "verdict"],
            "{row}"
        );
        assert!(ids.insert(row["id"].as_str().unwrap()), "{row}");
        assert!(
            row["found"].is_string() && row["needed"].is_string(),
            "{row}"
        );
        let verdict = row["verdict"].as_str().unwrap();
        assert!(words.contains(&verdict), "{row}");
        assert!(
            row["remedy"].is_string() || ["ok", "absent"].contains(&verdict),
            "{row}"
        );
        failed |= verdict == "fail";
    }
    assert_eq!(exit, i32::from(failed), "{}", describe(&output));
    assert_eq!(value["verdict"] == "fail", failed);
    for id in [
        "iommu",
        "vfio-container",
        "memlock",
        "thp",
        "cpu-quota",
        "io-uring",
        "dsa",
    ] {
        assert!(ids.contains(id), "{id} is missing from {text}");
    }
}

#[test]
fn a_device_that_does_not_exist_fails() {
    let value = json(
        &mut parapin(&["check", "--json", "--device", "fffe:fe:1e.6"]),
        1,
    );
    let rows = value["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == "device").unwrap();
    assert_eq!(row["verdict"], "fail");
    assert_eq!(row["found"], "fffe:fe:1e.6: there is no such device");
    assert!(rows.iter().all(|row| row["id"] != "device-driver"));
}

#[test]
fn wrong_usage_is_refused_with_a_message() {
    let cases: [(&[&str], &str); 6] = [
        (&["--device", "1:0.0"], "0000:01:00.0"),
        (&["--device", ""], "--device"),
        (&["--device", "../../etc"], "lspci -D"),
        (&["--device"], "--device"),
        (&["--size", "0"], "more than 0"),
        (&["surplus"], "surplus"),
    ];
    for (arguments, needle) in cases {
        let output = parapin(&["check"]).args(arguments).output().unwrap();
        let case = format!("{arguments:?}: {}", describe(&output));
        assert_eq!(output.status.code(), Some(2), "{case}");
        assert!(output.stdout.is_empty(), "{case}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(needle),
            "{case}"
        );
    }
}

#[test]
fn text_has_a_row_a_line_and_remedies_below() {
    let output = parapin(&["check", "--device", "fffe:fe:1e.6"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let row = "fail    device               fffe:fe:1e.6: there is no such device\n          needed: the device";
    assert!(text.contains(row), "{text}");
    assert!(
        text.contains("\n          remedy: name one that `lspci -D` lists\n"),
        "{text}"
    );
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("not ready: before ") && last.contains("device"),
        "{text}"
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = parapin(&["check", "--help"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for needle in [
        "Examples:",
        "--device 0000:01:00.0",
        "Exit codes:",
        "absent",
    ] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
}
