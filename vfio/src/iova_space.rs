// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`IovaSpace`] of a container or IOAS: what its devices can address, checked before anything is touched.

use std::ops::RangeInclusive;

use crate::{FaultKind, Iova, PinFault, Region, Regions, fault::Meaning};

/// Addresses that can be mapped, and the pages of the IOMMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IovaSpace {
    ranges: Box<[RangeInclusive<u64>]>,
    alignment: u64,
}

/// A window that platforms keep for themselves.
struct Window {
    range: RangeInclusive<u64>,
    name: &'static str,
    remedy: &'static str,
}

/// Sources: drivers/iommu/{intel/iommu.c,amd/iommu.c,arm/arm-smmu/arm-smmu.c}, reserved regions, Linux 6.12.
const WINDOWS: [Window; 3] = [
    Window {
        range: 0xfee0_0000..=0xfeef_ffff,
        name: "the interrupt window of x86 (MSI)",
        remedy: "leave a hole for it in the guest's memory layout, as PCs do below 4 GiB",
    },
    Window {
        range: 0xfd_0000_0000..=0xff_ffff_ffff,
        name: "the HyperTransport window of AMD hosts",
        remedy: "place memory that would reach 1012 GiB above 1 TiB in the guest's layout",
    },
    Window {
        range: 0x0800_0000..=0x080f_ffff,
        name: "the interrupt window of Arm hosts (MSI)",
        remedy: "leave a hole for it in the guest's memory layout",
    },
];

const CHECK: &str = "the check of IOVA ranges";

impl IovaSpace {
    /// A space of `ranges`, and an alignment in bytes (a power of two).
    pub(crate) fn new(ranges: Vec<RangeInclusive<u64>>, alignment: u64) -> Self {
        Self {
            ranges: ranges.into(),
            alignment: alignment.max(1),
        }
    }

    /// What can be mapped: ranges of IOVAs, ends included. Empty where the kernel names none, and then all can.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInclusive<u64>] {
        &self.ranges
    }

    /// IOVAs, addresses and lengths must be multiples of this many bytes.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Whether each region lies in one range and is aligned.
    pub(crate) fn check(&self, regions: &Regions) -> Result<(), PinFault> {
        for region in regions {
            self.check_region(region)
                .map_err(|meaning| meaning.refused(CHECK, Some(region.into())))?;
        }
        Ok(())
    }

    fn check_region(&self, region: &Region) -> Result<(), Meaning> {
        let (first, last) = (region.iova().0, region.iova().0 + (region.size() - 1));
        if (first | region.hva().0 | region.size()) % self.alignment != 0 {
            return Err(Meaning::new(
                FaultKind::Misaligned,
                format!("the IOMMU maps pages of {:#x} bytes", self.alignment),
                "align iova, address and size of the region to that",
            ));
        }
        let inside = |range: &RangeInclusive<u64>| range.contains(&first) && range.contains(&last);
        if self.ranges.is_empty() || self.ranges.iter().any(inside) {
            return Ok(());
        }
        Err(self.outside(first, last))
    }

    /// Why nothing can be mapped at some address of `first..=last`.
    fn outside(&self, first: u64, last: u64) -> Meaning {
        let highest = self.ranges.iter().map(|range| *range.end()).max();
        let highest = highest.unwrap_or(0);
        if last > highest {
            let bits = u64::BITS - highest.leading_zeros();
            return Meaning::new(
                FaultKind::IovaRange,
                format!(
                    "the IOMMU's addresses end at {} ({bits} bits), the region at {}",
                    Iova(highest),
                    Iova(last)
                ),
                "place the memory lower, or use a device behind an IOMMU with wider addresses",
            );
        }
        let window = WINDOWS
            .iter()
            .find(|window| first <= *window.range.end() && *window.range.start() <= last);
        match window {
            Some(window) => Meaning::new(
                FaultKind::IovaRange,
                format!(
                    "it overlaps {}, {}..={}",
                    window.name,
                    Iova(*window.range.start()),
                    Iova(*window.range.end())
                ),
                window.remedy,
            ),
            None => Meaning::new(
                FaultKind::IovaRange,
                format!("it lies in none of the IOVA ranges {}", self.listed()),
                "place each region inside of one of these ranges",
            ),
        }
    }

    fn listed(&self) -> String {
        let ranges = self.ranges.iter();
        let listed: Vec<String> = ranges
            .map(|range| format!("{}..={}", Iova(*range.start()), Iova(*range.end())))
            .collect();
        listed.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn refusal(ranges: &[RangeInclusive<u64>], iova: u64, size: u64) -> Option<String> {
        let region = Region::for_tests(iova, size);
        let regions = Regions::new([region]).unwrap();
        let space = IovaSpace::new(ranges.to_vec(), 0x1000);
        let fault = space.check(&regions).err()?;
        assert_eq!(fault.kind, FaultKind::IovaRange);
        Some(format!("{} | {}", fault.cause, fault.remedy))
    }

    #[test]
    fn what_lies_in_one_range_passes() {
        let x86 = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 48) - 1];
        assert_eq!(refusal(&x86, 0x1000, 3 * GIB), None);
        assert_eq!(refusal(&x86, 4 * GIB, 1 << 40), None);
        assert_eq!(refusal(&x86, (1 << 48) - 0x1000, 0x1000), None);
        assert_eq!(
            refusal(&[], 1 << 60, 0x1000),
            None,
            "no ranges named: all can be mapped"
        );
    }

    #[test]
    fn reserved_windows_are_named() {
        let x86 = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 48) - 1];
        assert_eq!(
            refusal(&x86, 0x1000, 5 * GIB).unwrap(),
            "it overlaps the interrupt window of x86 (MSI), 0xfee00000..=0xfeefffff | leave a hole for it in the \
             guest's memory layout, as PCs do below 4 GiB"
        );
        let amd = [0..=0xfc_ffff_ffff, 0x100_0000_0000..=(1 << 48) - 1];
        let hole = refusal(&amd, 4 * GIB, 1 << 40).unwrap();
        assert!(
            hole.starts_with("it overlaps the HyperTransport window of AMD hosts"),
            "{hole}"
        );
        let other = refusal(&[0..=0xffff, 0x20_0000..=u64::MAX], 0x1_0000, 0x1000).unwrap();
        assert!(
            other.starts_with(
                "it lies in none of the IOVA ranges 0x0..=0xffff, 0x200000..=0xffffffffffffffff"
            ),
            "{other}"
        );
    }

    #[test]
    fn narrow_iommus_are_named() {
        let narrow = refusal(&[0..=(1 << 39) - 1], 4 * GIB, 1 << 39).unwrap();
        assert!(
            narrow.starts_with(
                "the IOMMU's addresses end at 0x7fffffffff (39 bits), the region at 0x80ffffffff"
            ),
            "{narrow}"
        );
    }

    #[test]
    fn the_iommus_pages_are_asked_for() {
        let region = Region::for_tests(0x1_1000, 0x1000);
        let regions = Regions::new([region]).unwrap();
        let fault = IovaSpace::new(vec![0..=u64::MAX], 0x1_0000)
            .check(&regions)
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Misaligned);
        assert_eq!(
            fault.to_string(),
            "the check of IOVA ranges failed at iova 0x11000, hva 0x11000, 0x1000 bytes: the IOMMU maps pages of \
             0x10000 bytes"
        );
    }
}
