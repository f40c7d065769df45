// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What every other test inside the machine of `cargo xtask vm` relies on, so that a kernel without something is one
//! clear failure, here.

mod machine;

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::Path,
    process::{Command, Stdio},
};

use machine::{
    describe, field, parapin,
    vm::{DEVICES, SHARE, expect_kernel, in_vm, sysfs},
};

fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().to_owned()
}

fn assert_character_device(path: &str) {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(metadata.file_type().is_char_device(), "{path}");
}

#[test]
fn the_kernel_is_the_one_that_was_built() {
    if !in_vm() {
        return;
    }
    let release = read("/proc/sys/kernel/osrelease");
    assert!(release.starts_with("6.12."), "{release}");
    assert!(Path::new("/proc/config.gz").exists());
}

#[test]
fn both_devices_belong_to_vfio_and_to_groups_of_their_own() {
    if !in_vm() {
        return;
    }
    let mut groups = DEVICES.map(|address| {
        let device = sysfs(address);
        let driver = fs::read_link(device.join("driver")).unwrap();
        assert!(
            driver.ends_with("vfio-pci"),
            "{address}: {}",
            driver.display()
        );
        // What `-device edu` is: a vendor of its own.
        assert_eq!(read(device.join("vendor").to_str().unwrap()), "0x1234");
        assert_eq!(read(device.join("device").to_str().unwrap()), "0x11e8");
        let name = fs::read_dir(device.join("vfio-dev"))
            .unwrap()
            .next()
            .unwrap();
        let name = name.unwrap().file_name().into_string().unwrap();
        assert_character_device(&format!("/dev/vfio/devices/{name}"));
        let group = fs::read_link(device.join("iommu_group")).unwrap();
        let members = fs::read_dir(device.join("iommu_group/devices")).unwrap();
        assert_eq!(members.count(), 1, "{address} shares its group");
        group.file_name().unwrap().to_str().unwrap().to_owned()
    });
    for group in &groups {
        assert_character_device(&format!("/dev/vfio/{group}"));
    }
    groups.sort();
    assert_ne!(groups[0], groups[1]);
}

#[test]
fn vfio_iommufd_and_kvm_are_there() {
    if !in_vm() {
        return;
    }
    for path in ["/dev/vfio/vfio", "/dev/iommu", "/dev/kvm", "/dev/cuse"] {
        assert_character_device(path);
    }
}

#[test]
fn interrupts_are_remapped() {
    if !in_vm() {
        return;
    }
    // Without it VFIO refuses every device, or is unsafe.
    let unsafe_interrupts = read("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    assert_eq!(unsafe_interrupts, "N");
    let iommus = fs::read_dir("/sys/class/iommu").unwrap().count();
    assert!(iommus > 0, "no IOMMU");
}

#[test]
fn debugfs_shows_the_page_tables_of_the_iommu() {
    if !in_vm() {
        return;
    }
    let below = Path::new("/sys/kernel/debug/iommu/intel");
    assert!(below.join("domain_translation_struct").exists() || below.join(DEVICES[0]).exists());
    assert!(below.join("iommu_regset").exists());
}

#[test]
fn calls_can_be_made_to_fail() {
    if !in_vm() {
        return;
    }
    assert_eq!(read("/proc/thread-self/fail-nth"), "0");
    for kind in ["failslab", "fail_page_alloc"] {
        let file = format!("/sys/kernel/debug/{kind}/ignore-gfp-wait");
        assert!(Path::new(&file).exists(), "{file}");
    }
}

#[test]
fn mediated_devices_with_migration_can_be_made() {
    if !in_vm() {
        return;
    }
    let kinds = Path::new("/sys/devices/virtual/mtty/mtty/mdev_supported_types");
    assert!(kinds.join("mtty-1/create").exists());
}

#[test]
fn cgroups_of_version_2_have_all_controllers() {
    if !in_vm() {
        return;
    }
    let enabled = read("/sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpu", "cpuset", "memory", "hugetlb", "pids"] {
        assert!(
            enabled.split(' ').any(|one| one == controller),
            "{controller}: {enabled}"
        );
    }
}

#[test]
fn there_are_huge_pages_and_nodes() {
    if !in_vm() {
        return;
    }
    assert_eq!(
        read("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
        "64"
    );
    assert_eq!(read("/sys/devices/system/node/online"), "0-1");
    assert_eq!(read("/sys/devices/system/cpu/online"), "0-3");
    let thp = read("/sys/kernel/mm/transparent_hugepage/enabled");
    assert!(thp.contains("[madvise]"), "{thp}");
}

#[test]
fn parapin_and_tools_run() {
    if !in_vm() {
        return;
    }
    let output = parapin(&["--version"]).output().unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    let script =
        "setpriv --reuid=65534 --clear-groups -- prlimit --memlock=4096 -- taskset -c 0 id -u";
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    assert_eq!(output.stdout, b"65534\n", "{}", describe(&output));
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=exit_group", "true"])
        .output();
    let output = output.unwrap();
    let traced = String::from_utf8_lossy(&output.stderr);
    assert!(traced.contains("exit_group(0)"), "{}", describe(&output));
}

#[test]
fn files_reach_the_host() {
    if !in_vm() {
        return;
    }
    let file = Path::new(SHARE).join("from-vm_machine");
    fs::write(&file, "hello").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
    let mounts = read("/proc/self/mounts");
    assert!(field(&mounts, "out /out 9p").is_some(), "{mounts}");
}

/// Without this nobody would know whether a warning of the kernel makes a test fail, or is never printed.
#[test]
fn the_kernel_can_be_made_to_complain() {
    if !in_vm() {
        return;
    }
    expect_kernel("lkdtm_WARNING");
    fs::write("/sys/kernel/debug/provoke-crash/DIRECT", "WARNING").unwrap();
    let log = Command::new("dmesg")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert!(
        log.contains("WARNING: CPU"),
        "{}",
        &log[log.len().saturating_sub(2000)..]
    );
}
