// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Survey`] of regions: what is behind each, and how much of it is there already.

use std::{fs, io};

use pinning::SystemCallFilters;
use thiserror::Error;

use crate::{
    Backing, BackingKind, Hva, PageSize, Region, Regions, page_map,
    smaps::{self, Vma},
};

/// What was found behind the regions, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey(Box<[Found]>);

/// What was found behind one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is behind it. Where that differs from part to part: anonymous or shared only if all of it is, and the
    /// largest page.
    pub backing: Backing,
    /// Bytes of the region that are resident: in memory, or for a file in the page cache.
    pub resident: u64,
    /// Bytes of ordinary memory that are not resident.
    pub missing: u64,
    /// Bytes that are not resident and will come from hugetlb pools, with the page of the pool.
    pub missing_huge: Vec<(PageSize, u64)>,
}

impl Found {
    /// Adds a part of the region of `size` bytes, of which `resident` are there.
    fn add(&mut self, backing: Backing, size: u64, resident: u64) {
        if self.backing.kind == BackingKind::Anonymous {
            self.backing.kind = backing.kind;
        }
        self.backing.page_size = self.backing.page_size.max(backing.page_size);
        self.backing.shared &= backing.shared;
        self.resident += resident;
        let missing = size.saturating_sub(resident);
        if backing.kind == BackingKind::Hugetlb {
            self.missing_huge.push((backing.page_size, missing));
        } else {
            self.missing += missing;
        }
    }
}

impl Survey {
    pub(crate) fn new(regions: &Regions) -> Result<Self, SurveyError> {
        let text = fs::read("/proc/self/smaps").map_err(|source| SurveyError::Read { source })?;
        // Names of mapped files may be any bytes; they are not looked at.
        let vmas = smaps::parse(&String::from_utf8_lossy(&text), pmd_size());
        // A VMM's filter may kill for mincore.
        let filtered = !SystemCallFilters::of_caller().are_none();
        let count = |region: &Region, offset, size| {
            if filtered {
                page_map::resident(region.hva().0 + offset, size)
            } else {
                region.resident(offset, size)
            }
        };
        regions
            .iter()
            .map(|region| survey(region, &vmas, |offset, size| count(region, offset, size)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// One entry for each region, in IOVA order.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        &self.0
    }
}

/// The size of a transparent huge page, where the kernel has them.
fn pmd_size() -> Option<PageSize> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?;
    PageSize::new(text.trim().parse().ok()?)
}

/// Whether all of `regions` is private anonymous memory.
///
/// From the list of mappings without their pages, which the kernel need not walk for it.
pub(crate) fn all_anonymous(regions: &Regions) -> Result<bool, SurveyError> {
    let text = fs::read("/proc/self/maps").map_err(|source| SurveyError::Read { source })?;
    let vmas = smaps::parse(&String::from_utf8_lossy(&text), None);
    for region in regions {
        let found = survey(region, &vmas, |_, _| None)?;
        if found.backing.kind != BackingKind::Anonymous {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `vmas` say of `region`. The kernel counts residency for each mapping; where one reaches beyond the region (it
/// merges neighbours that look alike), `count` is asked for the part inside.
fn survey(
    region: &Region,
    vmas: &[Vma],
    count: impl Fn(u64, u64) -> Option<u64>,
) -> Result<Found, SurveyError> {
    let (start, end) = (region.hva().0, region.hva().0 + region.size());
    let first = vmas.partition_point(|vma| vma.end <= start);
    let mut at = start;
    let mut found: Option<Found> = None;
    for vma in vmas[first..].iter().take_while(|vma| vma.start < end) {
        if vma.start > at {
            break;
        }
        if !vma.writable && !region.is_read_only() {
            return Err(SurveyError::NotWritable { hva: Hva(at) });
        }
        let (from, to) = (vma.start.max(start), vma.end.min(end));
        let nothing = vma.backing.kind == BackingKind::Anonymous && vma.resident == 0;
        let resident = if nothing || (from, to) == (vma.start, vma.end) {
            vma.resident
        } else {
            // Uncounted means not there: the check then asks for more than is needed rather than for less.
            count(from - start, to - from).unwrap_or(0)
        };
        found
            .get_or_insert_with(|| Found {
                backing: vma.backing,
                resident: 0,
                missing: 0,
                missing_huge: Vec::new(),
            })
            .add(vma.backing, to - from, resident);
        at = vma.end;
    }
    match found {
        Some(found) if at >= end => Ok(found),
        _ => Err(SurveyError::Unmapped { hva: Hva(at) }),
    }
}

/// Why the backing of regions cannot be told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SurveyError {
    /// The kernel's list of mappings cannot be read.
    #[error("/proc/self/smaps or /proc/self/maps cannot be read")]
    Read {
        /// The reason.
        source: io::Error,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {hva}, inside a region")]
    Unmapped {
        /// The first address without a mapping.
        hva: Hva,
    },
    /// The memory is mapped without the right to write.
    #[error("the mapping at {hva}, inside a region, cannot be written to")]
    NotWritable {
        /// The first such address.
        hva: Hva,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x7f00_0000_0000;

    fn vma(from: u64, to: u64, resident: u64, page_size: PageSize) -> Vma {
        Vma {
            start: BASE + from,
            end: BASE + to,
            writable: true,
            resident,
            backing: Backing {
                kind: BackingKind::Anonymous,
                page_size,
                shared: false,
            },
        }
    }

    fn found(from: u64, size: u64, vmas: &[Vma]) -> Result<Found, String> {
        let count = |offset: u64, size: u64| (offset + size <= 0x8_0000).then_some(size / 2);
        survey(&Region::for_tests(BASE + from, size), vmas, count)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_region_over_several_mappings_is_cut_at_the_largest_page_and_anonymous_only_if_all_are() {
        let mut vmas = [
            vma(0, 0x20_0000, 0x10_0000, PageSize::SIZE_2M),
            vma(0x20_0000, 0x40_0000, 0x20_0000, PageSize::SIZE_4K),
        ];
        let all = found(0, 0x40_0000, &vmas).unwrap();
        assert_eq!(all.backing.page_size, PageSize::SIZE_2M);
        assert_eq!(all.backing.kind, BackingKind::Anonymous);
        assert_eq!((all.resident, all.missing), (0x30_0000, 0x10_0000));

        for other in [BackingKind::File, BackingKind::Hugetlb] {
            vmas[1].backing.kind = other;
            vmas[1].backing.shared = true;
            let mixed = found(0, 0x40_0000, &vmas).unwrap();
            assert_eq!(mixed.backing.kind, other);
            assert!(!mixed.backing.shared, "not all of it is");
            vmas.swap(0, 1);
            (vmas[0].start, vmas[0].end) = (BASE, BASE + 0x20_0000);
            (vmas[1].start, vmas[1].end) = (BASE + 0x20_0000, BASE + 0x40_0000);
            assert_eq!(found(0, 0x40_0000, &vmas).unwrap().backing, mixed.backing);
            vmas.swap(0, 1);
            (vmas[0].start, vmas[0].end) = (BASE, BASE + 0x20_0000);
            (vmas[1].start, vmas[1].end) = (BASE + 0x20_0000, BASE + 0x40_0000);
        }
    }

    #[test]
    fn what_is_missing_is_told_by_pool() {
        let mut vmas = [vma(0, 0x40_0000, 0x20_0000, PageSize::SIZE_2M)];
        vmas[0].backing.kind = BackingKind::Hugetlb;
        let found = found(0, 0x40_0000, &vmas).unwrap();
        assert_eq!(found.missing, 0);
        assert_eq!(found.missing_huge, [(PageSize::SIZE_2M, 0x20_0000)]);
    }

    #[test]
    fn residency_of_a_part_of_a_mapping_is_counted() {
        let vmas = [vma(0, 0x10_0000, 0xc_0000, PageSize::SIZE_4K)];
        assert_eq!(found(0, 0x10_0000, &vmas).unwrap().resident, 0xc_0000);
        assert_eq!(found(0x8_0000, 0x8_0000, &vmas).unwrap().resident, 0x4_0000);
        assert_eq!(
            found(0, 0x9_0000, &vmas).unwrap().resident,
            0,
            "cannot be counted"
        );
    }

    #[test]
    fn holes_and_read_only_mappings_are_named() {
        let mut vmas = [
            vma(0, 0x1000, 0, PageSize::SIZE_4K),
            vma(0x2000, 0x3000, 0, PageSize::SIZE_4K),
        ];
        let hole = "nothing is mapped at 0x7f0000001000, inside a region";
        assert_eq!(found(0, 0x3000, &vmas).unwrap_err(), hole);
        assert!(found(0x4000, 0x1000, &vmas).is_err());
        vmas[1].writable = false;
        let read_only = "the mapping at 0x7f0000002000, inside a region, cannot be written to";
        assert_eq!(found(0x2000, 0x1000, &vmas).unwrap_err(), read_only);
    }
}
