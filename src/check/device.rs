// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device that is to be assigned: what it is, and which driver holds it.
//!
//! ```text
//!  /sys/bus/pci/devices/0000:01:00.0/{vendor,device,class,numa_node} ─► device
//!                                    driver ──────────────────────────► device-driver
//!                                    iommu_group ─► group.rs    vfio-dev/vfioN ─► nodes.rs
//! ```

use super::{
    PciAddress,
    host::{Found, Host, Unreadable},
    row::Row,
};

const NEEDED: &str = "the device that is to be assigned";
const DRIVER_NEEDED: &str = "a VFIO driver (vfio-pci, or a variant such as mlx5_vfio_pci) holds it";

/// Top bytes of class codes, of the kinds of device that are assigned to guests.
const CLASSES: [(u64, &str); 9] = [
    (0x01, "mass storage"),
    (0x02, "network"),
    (0x03, "display"),
    (0x04, "multimedia"),
    (0x06, "bridge"),
    (0x08, "system peripheral"),
    (0x0b, "processor"),
    (0x0c, "serial bus"),
    (0x12, "accelerator"),
];

/// PCI-to-PCI bridges, in the upper two bytes of the class.
const PCI_BRIDGE: u64 = 0x0604;

/// A device that exists, as sysfs describes it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) address: PciAddress,
    pub(super) driver: Found<String>,
    pub(super) group: Found<u32>,
    /// The name of its VFIO character device, such as `vfio0`.
    pub(super) cdev: Found<String>,
    class: Found<u64>,
}

impl Device {
    /// Looks for the device; none if this host does not have it.
    pub(super) fn read(host: &Host<'_>, address: PciAddress) -> Found<Self> {
        let directory = directory(address);
        if host.list(&directory)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            address,
            driver: host.link(&format!("{directory}/driver")),
            group: group(host, &format!("{directory}/iommu_group")),
            cdev: cdev(host, &format!("{directory}/vfio-dev")),
            class: host.number(&format!("{directory}/class")),
        }))
    }

    /// Whether a VFIO driver holds it.
    pub(super) fn is_held_by_vfio(&self) -> bool {
        matches!(&self.driver, Ok(Some(driver)) if is_vfio_driver(driver))
    }

    pub(super) fn rows(&self, host: &Host<'_>) -> Vec<Row> {
        vec![self.device_row(host), self.driver_row(host)]
    }

    fn device_row(&self, host: &Host<'_>) -> Row {
        let id = "device";
        let class = match &self.class {
            Ok(class) => *class,
            Err(why) => return Row::unreadable(id, why, NEEDED),
        };
        let directory = directory(self.address);
        let kind = match class {
            Some(class) => match CLASSES.iter().find(|(top, _)| *top == class >> 16) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("class {class:#08x}"),
            },
            None => "of unknown class".to_owned(),
        };
        let code = |file: &str| {
            let number = host.number(&format!("{directory}/{file}"));
            number.ok().flatten().map(|number| format!("{number:04x}"))
        };
        let ids = match (code("vendor"), code("device")) {
            (Some(vendor), Some(device)) => format!(" {vendor}:{device}"),
            _ => String::new(),
        };
        // A host that does not know the node of a device says -1.
        let node = match host.number(&format!("{directory}/numa_node")) {
            Ok(Some(node)) => format!(", NUMA node {node}"),
            _ => String::new(),
        };
        let found = format!("{}{ids}, {kind}{node}", self.address);
        if class.is_some_and(|class| class >> 8 == PCI_BRIDGE) {
            return Row::fail(
                id,
                found,
                "VFIO assigns devices, not PCI bridges",
                "name the device behind the bridge; `lspci -t` shows it",
            );
        }
        Row::ok(id, found, NEEDED)
    }

    fn driver_row(&self, host: &Host<'_>) -> Row {
        let id = "device-driver";
        let load = if host.has("/sys/bus/pci/drivers/vfio-pci") {
            ""
        } else {
            "modprobe vfio-pci; "
        };
        let address = self.address;
        let at = format!("devices/{address}");
        let claim = format!("{load}cd /sys/bus/pci && echo vfio-pci > {at}/driver_override");
        let probe = format!("echo {address} > drivers_probe");
        match &self.driver {
            Err(why) => Row::unreadable(id, why, DRIVER_NEEDED),
            Ok(Some(driver)) if is_vfio_driver(driver) => Row::ok(id, driver, DRIVER_NEEDED),
            Ok(Some(driver)) => Row::fail(
                id,
                format!("{driver}: the host uses the device itself"),
                DRIVER_NEEDED,
                format!(
                    "`{claim} && echo {address} > {at}/driver/unbind && {probe}` (the host loses it)"
                ),
            ),
            Ok(None) => Row::fail(
                id,
                "no driver holds it",
                DRIVER_NEEDED,
                format!("`{claim} && {probe}`"),
            ),
        }
    }
}

/// The row of a device that is not there, or that cannot be looked at.
pub(super) fn gone(address: PciAddress, why: Option<&Unreadable>) -> Row {
    match why {
        Some(why) => Row::unreadable("device", why, NEEDED),
        None => Row::fail(
            "device",
            format!("{address}: there is no such device"),
            NEEDED,
            "name one that `lspci -D` lists",
        ),
    }
}

/// Whether a driver gives its devices to VFIO: vfio-pci and its variants all have it in their names.
pub(super) fn is_vfio_driver(driver: &str) -> bool {
    driver.contains("vfio")
}

/// Where sysfs describes a device.
pub(super) fn directory(address: PciAddress) -> String {
    format!("/sys/bus/pci/devices/{address}")
}

fn group(host: &Host<'_>, path: &str) -> Found<u32> {
    match host.link(path)? {
        None => Ok(None),
        Some(name) => match name.parse() {
            Ok(group) => Ok(Some(group)),
            Err(_) => Err(Unreadable::garbled(path, &name)),
        },
    }
}

/// The device's entry below `vfio-dev`, if the kernel has a character device for it (CONFIG_VFIO_DEVICE_CDEV).
fn cdev(host: &Host<'_>, path: &str) -> Found<String> {
    let names = host.list(path)?.unwrap_or_default();
    let has_node = |name: &String| host.has(&format!("{path}/{name}/dev"));
    Ok(names.into_iter().find(has_node))
}
