// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Device`]: one DSA or IAA device, as sysfs describes it.

use std::fmt;

use crate::{Kind, attribute::Attributes};

/// Largest number of a NUMA node of Linux.
const LAST_NODE: u32 = 1023;
/// Largest batch that the capability register of a device can express.
pub(crate) const LARGEST_BATCH: u32 = 1 << 15;
/// Largest transfer that the capability register of a device can express, in bytes.
pub(crate) const LARGEST_TRANSFER: u64 = 1 << 31;

/// A device of the idxd driver.
///
/// What the kernel did not tell, or told in a way that makes no sense, is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// What it can do.
    pub kind: Kind,
    /// Its number; DSA and IAA devices are numbered together.
    pub id: u32,
    /// Whether it takes work.
    pub state: Option<DeviceState>,
    /// The NUMA node that it is near to.
    pub numa_node: Option<u32>,
    /// Version of its interface: 0x100 is 1.0, 0x200 is 2.0.
    pub version: Option<u64>,
    /// Its register GENCAP.
    pub gen_cap: Option<u64>,
    /// Operations it knows, as the kernel prints them: groups of 32 bits, highest first. The kernel hides batches here
    /// where a process needs a privilege for them, so this does not tell whether they work.
    pub op_cap: Option<String>,
    /// Its register IAACAP, of version 2.0 on.
    pub iaa_cap: Option<u64>,
    /// Most descriptors that any batch of it may have.
    pub max_batch_size: Option<u32>,
    /// Most bytes that any descriptor of it may name.
    pub max_transfer_size: Option<u64>,
    /// Entries that its queues share.
    pub max_work_queues_size: Option<u32>,
    /// Engines it has.
    pub max_engines: Option<u32>,
    /// Whether it works on addresses of processes. Queues for processes cannot be enabled without.
    pub pasid_enabled: Option<bool>,
    /// Whether its queues can be configured here; those of a virtual machine may be given.
    pub configurable: Option<bool>,
    /// Major number of its nodes.
    pub cdev_major: Option<u32>,
}

/// `iaa_cap`: the device makes codes for inputs of up to 4 KiB in one pass (as Intel's Query Processing Library reads it).
const HEADER_GENERATION: u64 = 1 << 8;

impl Device {
    /// Whether it is an IAA that makes codes by itself, as it says.
    #[must_use]
    pub fn generates_headers(&self) -> bool {
        let has = self.iaa_cap.is_some_and(|cap| cap & HEADER_GENERATION != 0);
        self.kind == Kind::Iax && has
    }

    pub(crate) fn read(kind: Kind, id: u32, attributes: &Attributes) -> Self {
        Self {
            kind,
            id,
            state: attributes.word("state", &DeviceState::WORDS),
            numa_node: attributes.small("numa_node", 0..=LAST_NODE),
            version: attributes.hexadecimal("version"),
            gen_cap: attributes.hexadecimal("gen_cap"),
            op_cap: attributes.line("op_cap").filter(|line| is_bitmap(line)),
            iaa_cap: attributes.hexadecimal("iaa_cap"),
            max_batch_size: attributes.small("max_batch_size", 1..=LARGEST_BATCH),
            max_transfer_size: attributes.number("max_transfer_size", 1..=LARGEST_TRANSFER),
            max_work_queues_size: attributes.small("max_work_queues_size", 1..=0xffff),
            max_engines: attributes.small("max_engines", 1..=0xff),
            pasid_enabled: attributes.flag("pasid_enabled"),
            configurable: attributes.flag("configurable"),
            cdev_major: attributes.small("cdev_major", 0..=0xfff),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, self.id)
    }
}

/// Whether a device takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// Nobody has enabled it.
    Disabled,
    /// It takes work.
    Enabled,
    /// It stopped by an error, and what was in flight never completes. Only a reset helps.
    Halted,
}

impl DeviceState {
    const WORDS: [(&'static str, Self); 3] = [
        ("disabled", Self::Disabled),
        ("enabled", Self::Enabled),
        ("halted", Self::Halted),
    ];
}

/// Whether text is a bitmap of 256 bits as the kernel prints it: `00000000,…,003f03ff`.
fn is_bitmap(text: &str) -> bool {
    let group = |group: &str| group.len() == 8 && group.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(',').count() == 8 && text.split(',').all(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps() {
        let full = ["003f03ff"; 8].join(",");
        assert!(is_bitmap(&full));
        for text in ["", "003f03ff", &full[1..], &full.replace('f', "g")] {
            assert!(!is_bitmap(text), "{text}");
        }
    }
}
