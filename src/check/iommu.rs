// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Is there an IOMMU, does Linux use it, and if not, where is it switched off?
//!
//! ```text
//!  /sys/class/iommu ─────────────┐ units: dmar0, ivhd0, smmu3.…
//!  /sys/kernel/iommu_groups ─────┼─► iommu, iommu-groups
//!  /sys/firmware/acpi/tables ────┤ DMAR, IVRS: the firmware offers one that Linux does not use
//!  /proc/cmdline, /proc/cpuinfo ─┘ intel_iommu=off; whose CPU, and whether it is a virtual one
//! ```

use super::{
    host::{Found, Host, count, some_of},
    row::Row,
};

const UNITS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";
const TABLES: &str = "/sys/firmware/acpi/tables";

const NEEDED: &str = "an IOMMU in use: VFIO pins guest memory for what is behind it";
const GROUPS_NEEDED: &str = "groups: a device is assigned together with its own";

/// The IOMMU of a host, as far as it can be seen.
#[derive(Debug)]
pub(super) struct Iommu {
    units: Found<Vec<String>>,
    groups: Found<Vec<String>>,
}

impl Iommu {
    pub(super) fn read(host: &Host<'_>) -> Self {
        let units = host.list(UNITS).map(|units| {
            // The mock of the kernel's own tests is no hardware.
            units.map(|units| {
                let real = |unit: &String| !unit.starts_with("iommufd_selftest");
                units.into_iter().filter(real).collect()
            })
        });
        Self {
            units,
            groups: host
                .list(GROUPS)
                .map(|groups| groups.map(|g| real(host, g))),
        }
    }

    /// Whether Linux uses none: what cannot be read is not taken for an answer.
    pub(super) fn is_off(&self) -> bool {
        let none = |names: &Found<Vec<String>>| match names {
            Ok(names) => names.as_ref().is_none_or(Vec::is_empty),
            Err(_) => false,
        };
        none(&self.units) && none(&self.groups)
    }

    pub(super) fn rows(&self, host: &Host<'_>, asked: bool) -> Vec<Row> {
        vec![self.units_row(host, asked), self.groups_row(asked)]
    }

    fn units_row(&self, host: &Host<'_>, asked: bool) -> Row {
        let id = "iommu";
        match &self.units {
            Err(why) => Row::unreadable(id, why, NEEDED),
            Ok(_) if self.is_off() => {
                let (found, remedy) = switched_off(host);
                Row::missing(id, asked, found, NEEDED, remedy)
            }
            Ok(Some(units)) if !units.is_empty() => {
                Row::ok(id, format!("{}{}", some_of(units), kind(units)), NEEDED)
            }
            // Groups tell that there is one, unless they could not be read either.
            Ok(_) => match &self.groups {
                Err(why) => Row::unreadable(id, why, NEEDED),
                Ok(_) => Row::ok(id, "in use (its units are not listed)", NEEDED),
            },
        }
    }

    fn groups_row(&self, asked: bool) -> Row {
        let id = "iommu-groups";
        match &self.groups {
            Err(why) => Row::unreadable(id, why, GROUPS_NEEDED),
            Ok(Some(groups)) if !groups.is_empty() => {
                Row::ok(id, count(groups.len() as u64, "group"), GROUPS_NEEDED)
            }
            Ok(_) if self.is_off() => Row::absent(id, "none, as no IOMMU is in use", GROUPS_NEEDED),
            Ok(_) => Row::missing(
                id,
                asked,
                "none, though there is an IOMMU",
                GROUPS_NEEDED,
                "see what `dmesg | grep -i -e iommu -e dmar` says about the IOMMU",
            ),
        }
    }
}

/// Groups with an IOMMU behind them; VFIO makes others for its mode without one.
fn real(host: &Host<'_>, groups: Vec<String>) -> Vec<String> {
    let fake = |group: &String| {
        let name = host.line(&format!("{GROUPS}/{group}/name"));
        name.is_ok_and(|name| name.as_deref() == Some("vfio-noiommu"))
    };
    groups.into_iter().filter(|group| !fake(group)).collect()
}

fn kind(units: &[String]) -> &'static str {
    let kinds = [
        ("dmar", " (Intel VT-d)"),
        ("ivhd", " (AMD-Vi)"),
        ("smmu", " (Arm SMMU)"),
        ("arm-smmu", " (Arm SMMU)"),
    ];
    let first = units.first().map_or("", String::as_str);
    let kind = kinds.iter().find(|(prefix, _)| first.starts_with(prefix));
    kind.map_or("", |(_, kind)| kind)
}

/// What is found in place of an IOMMU, and how to switch one on.
fn switched_off(host: &Host<'_>) -> (String, String) {
    if !host.has("/sys/kernel") {
        let found = "no /sys/kernel: sysfs is not mounted here";
        return (found.to_owned(), "`mount -t sysfs sysfs /sys`".to_owned());
    }
    let cmdline = host
        .text("/proc/cmdline")
        .ok()
        .flatten()
        .unwrap_or_default();
    let off = ["intel_iommu=off", "amd_iommu=off", "iommu=off"];
    let word = cmdline
        .split_whitespace()
        .find_map(|word| off.into_iter().find(|&off| off == word));
    if let Some(word) = word {
        return (
            format!("none: the kernel command line has {word}"),
            format!("take `{word}` off the kernel command line, and reboot"),
        );
    }
    let (found, remedy) = switch(&Platform::read(host));
    (found.to_owned(), remedy.to_owned())
}

/// What decides where an IOMMU is switched on.
struct Platform {
    cpu: Vendor,
    virtual_machine: bool,
    /// The ACPI table that describes an IOMMU; none also where the tables are hidden.
    table: Option<Vendor>,
    tables_hidden: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Platform {
    fn read(host: &Host<'_>) -> Self {
        let tables = host.list(TABLES).ok().flatten().unwrap_or_default();
        let has = |name: &str| tables.iter().any(|table| table == name);
        let table = match () {
            () if has("DMAR") => Some(Vendor::Intel),
            () if has("IVRS") => Some(Vendor::Amd),
            () if has("VIOT") || has("IORT") => Some(Vendor::Other),
            () => None,
        };
        Self {
            cpu: vendor(host),
            virtual_machine: cpu_has(host, "hypervisor"),
            table,
            tables_hidden: tables.is_empty(),
        }
    }
}

fn switch(platform: &Platform) -> (&'static str, &'static str) {
    let of = platform.table.unwrap_or(platform.cpu);
    match (platform.table, of) {
        (Some(_), Vendor::Intel) => (
            "none in use, though the firmware offers one (table DMAR)",
            "add `intel_iommu=on` to the kernel command line, and reboot",
        ),
        (Some(_), Vendor::Amd) => (
            "none in use, though the firmware offers one (table IVRS)",
            "see what `dmesg | grep AMD-Vi` says; the kernel needs CONFIG_AMD_IOMMU",
        ),
        (Some(_), Vendor::Other) => (
            "none in use, though the firmware describes one",
            "use a kernel with the driver of this IOMMU (CONFIG_ARM_SMMU_V3, CONFIG_VIRTIO_IOMMU)",
        ),
        (None, _) if platform.virtual_machine => (
            "none: this virtual machine has no virtual IOMMU",
            "give the machine one; QEMU: `-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on`",
        ),
        (None, Vendor::Intel) if platform.tables_hidden => (
            "none in use",
            "switch VT-d on in the firmware, add `intel_iommu=on` to the kernel command line, and reboot",
        ),
        (None, Vendor::Intel) => (
            "none: the firmware offers none (no table DMAR)",
            "switch VT-d on in the firmware, and add `intel_iommu=on` to the kernel command line",
        ),
        (None, Vendor::Amd) => (
            "none: the firmware offers none (no table IVRS)",
            "switch IOMMU (AMD-Vi) on in the firmware; AMD needs no kernel parameter for it",
        ),
        (None, Vendor::Other) => (
            "none",
            "switch the IOMMU (SMMU) on in the firmware; the kernel needs its driver",
        ),
    }
}

fn vendor(host: &Host<'_>) -> Vendor {
    let text = host
        .text("/proc/cpuinfo")
        .ok()
        .flatten()
        .unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("vendor_id"));
    match line.and_then(|line| line.split_once(": ")) {
        Some((_, "GenuineIntel")) => Vendor::Intel,
        Some((_, "AuthenticAMD" | "HygonGenuine")) => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// Whether this is a machine whose interrupts can tell whether they are remapped.
pub(super) fn is_x86(host: &Host<'_>) -> bool {
    vendor(host) != Vendor::Other
}

fn cpu_has(host: &Host<'_>, flag: &str) -> bool {
    let text = host
        .text("/proc/cpuinfo")
        .ok()
        .flatten()
        .unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags"));
    line.is_some_and(|line| line.split_whitespace().any(|word| word == flag))
}
