// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The group of a device: all that the IOMMU cannot tell apart, and that can only be assigned as a whole.
//!
//! ```text
//!  group 12 ─┬ 0000:01:00.0   vfio-pci         the device
//!            ├ 0000:01:00.1   snd_hda_intel    does DMA for the host: the group is not viable (EBUSY)
//!            └ 0000:00:01.0   pcieport         never does DMA: no harm
//! ```
//!
//! # Gotchas
//!
//! Since Linux 5.19 a bridge counts like anything else: `pcieport` manages its DMA itself (`driver_managed_dma`) and
//! does no harm, other drivers of bridges (`shpchp`) make the group unusable.

use super::{
    PciAddress,
    device::{Device, is_vfio_driver},
    host::{Found, Host, some_of},
    iommu::Iommu,
    row::Row,
};

/// Drivers beside those of VFIO that leave DMA alone.
const HARMLESS: [&str; 3] = ["pci-stub", "pcieport", "pciback"];

const GROUP_NEEDED: &str = "the IOMMU knows the device by its group";
const VIABLE_NEEDED: &str = "no other device of the group is used by the host (EBUSY)";
const RESERVED_NEEDED: &str =
    "guest memory stays clear of these addresses, and the firmware maps nothing 1:1";

pub(super) fn rows(host: &Host<'_>, iommu: &Iommu, device: &Device) -> Vec<Row> {
    let id = "device-group";
    match &device.group {
        Err(why) => vec![Row::unreadable(id, why, GROUP_NEEDED)],
        Ok(Some(group)) => vec![
            group_row(host, device, *group),
            viability(host, device, *group),
            reserved(host, *group),
        ],
        Ok(None) if iommu.is_off() => {
            vec![Row::absent(id, "none, as no IOMMU is in use", GROUP_NEEDED)]
        }
        Ok(None) => vec![Row::fail(
            id,
            "none: the IOMMU does not cover this device",
            GROUP_NEEDED,
            "choose another device; `ls /sys/kernel/iommu_groups/*/devices` has those that the IOMMU covers",
        )],
    }
}

fn group_row(host: &Host<'_>, device: &Device, group: u32) -> Row {
    let id = "device-group";
    let directory = directory(group);
    match host.line(&format!("{directory}/name")) {
        Err(why) => Row::unreadable(id, &why, GROUP_NEEDED),
        Ok(Some(name)) if name == "vfio-noiommu" => Row::fail(
            id,
            format!("{group}, made up by VFIO: {} has no IOMMU", device.address),
            GROUP_NEEDED,
            "switch the IOMMU on and `echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode`; without an IOMMU nothing is pinned",
        ),
        Ok(_) => {
            let domain = match host.line(&format!("{directory}/type")) {
                Ok(Some(domain)) if !domain.is_empty() => {
                    format!(" (the host's own domain: {domain})")
                }
                _ => String::new(),
            };
            Row::ok(id, format!("{group}{domain}"), GROUP_NEEDED)
        }
    }
}

/// Another device of the group.
struct Sibling {
    name: String,
    driver: Found<String>,
}

impl Sibling {
    fn read(host: &Host<'_>, group: u32, name: String) -> Self {
        let driver = host.link(&format!("{}/devices/{name}/driver", directory(group)));
        Self { name, driver }
    }

    fn holder(&self) -> Option<&str> {
        self.driver.as_ref().ok()?.as_deref()
    }

    fn is_used_by_the_host(&self) -> bool {
        let in_use = |driver: &str| !is_vfio_driver(driver) && !HARMLESS.contains(&driver);
        self.holder().is_some_and(in_use)
    }

    fn shown(&self) -> String {
        format!("{} ({})", self.name, self.holder().unwrap_or("no driver"))
    }
}

fn viability(host: &Host<'_>, device: &Device, group: u32) -> Row {
    let id = "group-viability";
    let path = format!("{}/devices", directory(group));
    let names = match host.list(&path) {
        Ok(names) => names.unwrap_or_default(),
        Err(why) => return Row::unreadable(id, &why, VIABLE_NEEDED),
    };
    let own = device.address.to_string();
    let siblings: Vec<Sibling> = names
        .into_iter()
        .filter(|name| *name != own)
        .map(|name| Sibling::read(host, group, name))
        .collect();
    let used: Vec<&Sibling> = siblings
        .iter()
        .filter(|sibling| sibling.is_used_by_the_host())
        .collect();
    if let Some(first) = used.first() {
        let names: Vec<String> = used.iter().map(|sibling| sibling.shown()).collect();
        let found = format!("not viable: the host uses {}", some_of(&names));
        return Row::fail(id, found, VIABLE_NEEDED, release(first));
    }
    if let Some(why) = siblings.iter().find_map(|s| s.driver.as_ref().err()) {
        return Row::unreadable(id, why, VIABLE_NEEDED);
    }
    if siblings.is_empty() {
        return Row::ok(id, "the device is alone in its group", VIABLE_NEEDED);
    }
    let names: Vec<String> = siblings.iter().map(Sibling::shown).collect();
    Row::ok(
        id,
        format!("viable beside {}", some_of(&names)),
        VIABLE_NEEDED,
    )
}

fn release(sibling: &Sibling) -> String {
    let slot = "or move the device to a slot with a group of its own";
    match sibling.name.parse::<PciAddress>() {
        Ok(address) => format!(
            "`echo {address} > /sys/bus/pci/devices/{address}/driver/unbind` (the host loses it), {slot}"
        ),
        Err(_) => format!("take it from its driver, {slot}"),
    }
}

/// A range of bus addresses that guest memory must not be mapped at.
struct Reserved {
    first: u64,
    last: u64,
    kind: String,
}

impl Reserved {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let mut address = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
        let (first, last) = (address()?, address()?);
        let kind = fields.next()?.to_owned();
        let known = ["direct", "direct-relaxable", "reserved", "msi"].contains(&kind.as_str());
        (known && fields.next().is_none()).then_some(Self { first, last, kind })
    }

    fn shown(&self) -> String {
        format!("{:#x}-{:#x} {}", self.first, self.last, self.kind)
    }
}

fn reserved(host: &Host<'_>, group: u32) -> Row {
    let id = "reserved-regions";
    let path = format!("{}/reserved_regions", directory(group));
    let text = match host.text(&path) {
        Ok(text) => text.unwrap_or_default(),
        Err(why) => return Row::unreadable(id, &why, RESERVED_NEEDED),
    };
    let mut regions = Vec::new();
    for line in text.lines() {
        match Reserved::parse(line) {
            Some(region) => regions.push(region),
            None => {
                let why = super::host::Unreadable::garbled(&path, line);
                return Row::unreadable(id, &why, RESERVED_NEEDED);
            }
        }
    }
    let shown: Vec<String> = regions.iter().map(Reserved::shown).collect();
    if let Some(direct) = regions.iter().find(|region| region.kind == "direct") {
        return Row::fail(
            id,
            format!("the firmware wants {} mapped 1:1", direct.shown()),
            RESERVED_NEEDED,
            "switch off in the firmware what shares memory with this device (RMRR, such as remote management), or choose another one",
        );
    }
    match shown.is_empty() {
        true => Row::ok(id, "none", RESERVED_NEEDED),
        false => Row::ok(id, some_of(&shown), RESERVED_NEEDED),
    }
}

fn directory(group: u32) -> String {
    format!("/sys/kernel/iommu_groups/{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_regions() {
        let line = "0x00000000fee00000 0x00000000feefffff msi";
        let region = Reserved::parse(line).unwrap();
        assert_eq!(region.shown(), "0xfee00000-0xfeefffff msi");
        for line in [
            "",
            "0x1 0x2",
            "0x1 0x2 odd",
            "1 2 msi",
            "0x1 0x2 msi x",
            "0x1 0xg msi",
        ] {
            assert!(Reserved::parse(line).is_none(), "{line}");
        }
    }
}
