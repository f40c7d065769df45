// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin check` for a real VFIO device: the `edu` device of the test VM, which vfio-pci holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::{os::unix::process::CommandExt, process::Command};

use machine::{describe, json, parapin, public_parapin, skip};
use serde_json::Value;

/// The first of the two `edu` devices.
const DEVICE: &str = "0000:00:02.0";

fn outside_of_the_vm() -> bool {
    let outside = std::env::var_os("PARAPIN_VM").is_none();
    if outside {
        skip("needs the VM: cargo xtask vm test");
    }
    outside
}

fn row<'a>(value: &'a Value, id: &str) -> &'a Value {
    let rows = value["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["id"] == id);
    row.unwrap_or_else(|| panic!("no row {id} in {value:#}"))
}

#[test]
fn a_device_that_vfio_holds_is_ready() {
    if outside_of_the_vm() {
        return;
    }
    let value = json(
        &mut parapin(&["check", "--json", "--device", DEVICE, "--size", "64M"]),
        0,
    );
    for (id, found) in [
        ("iommu", "dmar0 (Intel VT-d)"),
        ("iommu-groups", "group"),
        ("interrupt-remapping", "on"),
        ("unsafe-interrupts", "not allowed"),
        ("device", "1234:11e8"),
        ("device-driver", "vfio-pci"),
        ("device-group", "DMA"),
        ("group-viability", "alone"),
        ("reserved-regions", "0xfee00000-0xfeefffff msi"),
        ("vfio-container", "provided by VFIO (vfio_iommu_type1)"),
        ("iommufd", "/dev/iommu"),
        ("device-node", "/dev/vfio/devices/vfio"),
        ("dma-entry-limit", "65535 maps"),
        ("type1-huge-pages", "used"),
        ("memlock", "CAP_IPC_LOCK"),
        ("memory", "MemAvailable"),
        ("thp", "madvise"),
        ("io-uring", "can be set up"),
    ] {
        let row = row(&value, id);
        assert_eq!(row["verdict"], "ok", "{row}");
        let text = row["found"].as_str().unwrap();
        assert!(text.contains(found), "{found:?} is missing from {row}");
        assert!(row["remedy"].is_null(), "{row}");
    }
    for id in ["dsa", "iaa"] {
        assert_eq!(row(&value, id)["verdict"], "absent");
    }
    assert_ne!(value["verdict"], "fail");
}

#[test]
fn a_device_that_nobody_holds_is_not() {
    if outside_of_the_vm() {
        return;
    }
    // The ISA bridge of every q35 machine, which this kernel has no driver for.
    let value = json(
        &mut parapin(&["check", "--json", "--device", "00:1f.0", "--size", "64M"]),
        1,
    );
    let driver = row(&value, "device-driver");
    assert_eq!(driver["verdict"], "fail", "{driver}");
    let remedy = driver["remedy"].as_str().unwrap();
    assert!(
        remedy.contains("echo vfio-pci > devices/0000:00:1f.0/driver_override"),
        "{remedy}"
    );
    assert_eq!(row(&value, "device-node")["verdict"], "absent", "{value:#}");
}

#[test]
fn a_user_without_rights_is_told_which_node_it_needs() {
    if outside_of_the_vm() {
        return;
    }
    let (_dir, parapin) = public_parapin();
    let output = Command::new(parapin)
        .args(["check", "--json", "--device", DEVICE, "--size", "64M"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let node = row(&value, "device-node");
    assert_eq!(node["verdict"], "fail", "{node}");
    let remedy = node["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("`chown USER /dev/vfio/"), "{remedy}");
}
