// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Can the IOMMU keep a device from raising interrupts that are not its own?
//!
//! Without that, VFIO refuses the device with `EPERM`, unless it was told that it may be unsafe.
//!
//! # Gotchas
//!
//! No file says so directly. With interrupt remapping on, the chips in `/proc/interrupts` are called `IR-PCI-MSI`
//! and `IR-IO-APIC` (drivers/iommu/{intel,amd}); on Arm it depends on the interrupt controller, and is not looked at.

use super::{
    host::{Found, Host, Unreadable},
    iommu::{self, Iommu},
    row::Row,
};

const INTERRUPTS: &str = "/proc/interrupts";
const PARAMETER: &str = "parameters/allow_unsafe_interrupts";
const MODULES: [&str; 2] = ["vfio_iommu_type1", "iommufd"];

const REMAPPING_NEEDED: &str =
    "without it VFIO refuses the device, which could raise any interrupt of the host (EPERM)";
const UNSAFE_NEEDED: &str = "a guest must not raise interrupts of the host";

pub(super) fn rows(host: &Host<'_>, iommu: &Iommu, asked: bool) -> Vec<Row> {
    let unsafe_modules: Vec<(&str, Found<bool>)> = MODULES
        .into_iter()
        .map(|module| (module, host.flag(&parameter(module))))
        .collect();
    let tolerated = unsafe_modules
        .iter()
        .any(|(_, flag)| matches!(flag, Ok(Some(true))));
    vec![
        remapping(host, iommu, asked, tolerated),
        unsafe_interrupts(&unsafe_modules),
    ]
}

fn parameter(module: &str) -> String {
    format!("/sys/module/{module}/{PARAMETER}")
}

fn remapping(host: &Host<'_>, iommu: &Iommu, asked: bool, tolerated: bool) -> Row {
    let id = "interrupt-remapping";
    if iommu.is_off() {
        return Row::absent(id, "none, as no IOMMU is in use", REMAPPING_NEEDED);
    }
    if !iommu::is_x86(host) {
        return Row::absent(id, "not told by files on this CPU", REMAPPING_NEEDED);
    }
    match is_remapped(host) {
        Err(why) => Row::unreadable(id, &why, REMAPPING_NEEDED),
        Ok(true) => Row::ok(id, "on (IR- chips in /proc/interrupts)", REMAPPING_NEEDED),
        Ok(false) if asked && !tolerated => Row::fail(
            id,
            "off (no IR- chip in /proc/interrupts)",
            REMAPPING_NEEDED,
            format!(
                "switch it on in the firmware (in QEMU: intel-iommu,intremap=on); if the guest is trusted with the host: `echo Y > {}`",
                parameter(MODULES[0])
            ),
        ),
        Ok(false) => Row::warn(
            id,
            "off (no IR- chip in /proc/interrupts)",
            REMAPPING_NEEDED,
            "switch it on in the firmware (in QEMU: intel-iommu,intremap=on)",
        ),
    }
}

fn is_remapped(host: &Host<'_>) -> Result<bool, Unreadable> {
    let text = host.text(INTERRUPTS)?.unwrap_or_default();
    let chips: Vec<&str> = text
        .split_whitespace()
        .filter(|word| word.contains("IO-APIC") || word.contains("PCI-MSI"))
        .collect();
    if chips.is_empty() {
        let first = text.lines().next().unwrap_or_default();
        return Err(Unreadable::garbled(INTERRUPTS, first));
    }
    Ok(chips
        .iter()
        .any(|chip| chip.trim_start_matches('v').starts_with("IR-")))
}

fn unsafe_interrupts(modules: &[(&str, Found<bool>)]) -> Row {
    let id = "unsafe-interrupts";
    let allowing = modules
        .iter()
        .find(|(_, flag)| matches!(flag, Ok(Some(true))));
    if let Some((module, _)) = allowing {
        return Row::warn(
            id,
            format!("allowed by {module}"),
            UNSAFE_NEEDED,
            format!("`echo N > {}`", parameter(module)),
        );
    }
    if let Some(why) = modules.iter().find_map(|(_, flag)| flag.as_ref().err()) {
        return Row::unreadable(id, why, UNSAFE_NEEDED);
    }
    let loaded: Vec<&str> = modules
        .iter()
        .filter(|(_, flag)| matches!(flag, Ok(Some(false))))
        .map(|(module, _)| *module)
        .collect();
    if loaded.is_empty() {
        return Row::absent(
            id,
            "neither vfio_iommu_type1 nor iommufd is loaded",
            UNSAFE_NEEDED,
        );
    }
    Row::ok(
        id,
        format!("not allowed by {}", loaded.join(" and ")),
        UNSAFE_NEEDED,
    )
}
