// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ContainerInfo`]: the answer to VFIO_IOMMU_GET_INFO (include/uapi/linux/vfio.h), parsed without trusting it.
//!
//! ```text
//!  0      4      8             16          20
//!  │argsz │flags │iova_pgsizes │cap_offset │pad │ ... │id u16│version u16│next u32│ body ... │
//!                                    └───────────────►┘               └──► offset of the next one, 0 at the end
//! ```

use std::{io, ops::RangeInclusive};

use crate::IovaSpace;

/// `VFIO_IOMMU_INFO_PGSIZES`, `VFIO_IOMMU_INFO_CAPS`.
const FLAG_PAGE_SIZES: u32 = 1;
const FLAG_CAPS: u32 = 2;

/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`, `…_CAP_MIGRATION`, `VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL`.
const CAP_IOVA_RANGE: u16 = 1;
const CAP_MIGRATION: u16 = 2;
const CAP_DMA_AVAIL: u16 = 3;

/// What a container can do, as of the last time that it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    page_sizes: u64,
    space: IovaSpace,
    dma_avail: Option<u32>,
    migration: Option<MigrationInfo>,
}

/// Dirty page tracking of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationInfo {
    /// Bit n: bitmaps may have one bit for each 2ⁿ bytes.
    pub page_sizes: u64,
    /// Most bytes of one bitmap.
    pub max_bitmap: u64,
}

impl ContainerInfo {
    /// Bit n: the IOMMU has pages of 2ⁿ bytes.
    #[must_use]
    pub fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    /// What devices can address.
    #[must_use]
    pub fn space(&self) -> &IovaSpace {
        &self.space
    }

    /// Map entries that are left; `None` where there is no limit, or the kernel does not say (before Linux 5.10).
    #[must_use]
    pub fn entries_left(&self) -> Option<u32> {
        self.dma_avail.filter(|&avail| avail != u32::MAX)
    }

    /// Whether the container is iommufd's, which maps disjoint ranges in parallel: it alone names 2³² − 1 entries
    /// (iommufd_fill_cap_dma_avail(), drivers/iommu/iommufd/vfio_compat.c).
    #[must_use]
    pub fn maps_in_parallel(&self) -> bool {
        self.dma_avail == Some(u32::MAX)
    }

    /// Dirty page tracking, where the container has it.
    #[must_use]
    pub fn migration(&self) -> Option<MigrationInfo> {
        self.migration
    }

    /// Whether a device with an IOMMU is attached: the list of ranges is empty otherwise, and is then left out.
    pub(crate) fn has_domain(&self) -> bool {
        !self.space.ranges().is_empty()
    }

    /// Reads the bytes of an answer.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let answer = Answer(bytes);
        let flags = answer.u32(4)?;
        let page_sizes = match flags & FLAG_PAGE_SIZES {
            0 => 0x1000,
            _ => answer.u64(8)?,
        };
        let mut ranges = Vec::new();
        let (mut dma_avail, mut migration) = (None, None);
        let mut at = match flags & FLAG_CAPS {
            0 => 0,
            _ => answer.u32(16)? as usize,
        };
        while at != 0 {
            match answer.u16(at)? {
                CAP_IOVA_RANGE => ranges = answer.ranges(at)?,
                CAP_MIGRATION => {
                    migration = Some(MigrationInfo {
                        page_sizes: answer.u64(at + 16)?,
                        max_bitmap: answer.u64(at + 24)?,
                    });
                }
                CAP_DMA_AVAIL => dma_avail = Some(answer.u32(at + 8)?),
                _ => {}
            }
            let next = answer.u32(at + 4)? as usize;
            if next != 0 && next <= at {
                return Err(malformed("its capabilities form a circle"));
            }
            at = next;
        }
        let alignment = 1 << page_sizes.trailing_zeros().min(63);
        Ok(Self {
            page_sizes,
            space: IovaSpace::new(ranges, alignment),
            dma_avail,
            migration,
        })
    }
}

/// The bytes of an answer; nothing is read behind their end.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn array<const N: usize>(&self, at: usize) -> io::Result<[u8; N]> {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or_else(|| malformed("it ends in the middle"))
    }

    fn u16(&self, at: usize) -> io::Result<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> io::Result<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> io::Result<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// `struct vfio_iommu_type1_info_cap_iova_range`: header, number, reserved, pairs of first and last.
    fn ranges(&self, at: usize) -> io::Result<Vec<RangeInclusive<u64>>> {
        let number = self.u32(at + 8)? as usize;
        (0..number)
            .map(|index| {
                let pair = at + 16 + index * 16;
                Ok(self.u64(pair)?..=self.u64(pair + 8)?)
            })
            .collect()
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the answer is malformed: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with capabilities, given as id and body.
    fn answer(caps: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[4..8].copy_from_slice(&(FLAG_PAGE_SIZES | FLAG_CAPS).to_ne_bytes());
        bytes[8..16].copy_from_slice(&0x4020_1000_u64.to_ne_bytes());
        let mut link = 16;
        for (id, body) in caps {
            let at = u32::try_from(bytes.len()).unwrap();
            bytes[link..link + 4].copy_from_slice(&at.to_ne_bytes());
            link = bytes.len() + 4;
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.extend(0u32.to_ne_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn full() -> Vec<u8> {
        answer(&[
            (CAP_MIGRATION, &words(&[0, 0x1000, 1 << 28])),
            (CAP_DMA_AVAIL, &65535u32.to_ne_bytes()),
            (
                CAP_IOVA_RANGE,
                &words(&[2, 0, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff]),
            ),
        ])
    }

    #[test]
    fn a_whole_answer_is_read() {
        let info = ContainerInfo::parse(&full()).unwrap();
        assert_eq!(info.page_sizes(), 0x4020_1000);
        assert_eq!(info.space().alignment(), 0x1000);
        let ranges = [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        assert_eq!(info.space().ranges(), ranges);
        assert_eq!(info.entries_left(), Some(65535));
        assert!(!info.maps_in_parallel());
        let migration = MigrationInfo {
            page_sizes: 0x1000,
            max_bitmap: 1 << 28,
        };
        assert_eq!(info.migration(), Some(migration));
        assert!(info.has_domain());
    }

    #[test]
    fn an_iommufd_behind_the_container_is_recognised() {
        let info = answer(&[(CAP_DMA_AVAIL, &u32::MAX.to_ne_bytes())]);
        let info = ContainerInfo::parse(&info).unwrap();
        assert!(info.maps_in_parallel());
        assert_eq!(info.entries_left(), None);
        assert!(!info.has_domain());
    }

    #[test]
    fn no_cut_and_no_circle_gets_further_than_an_error() {
        let full = full();
        for end in 0..full.len() - 1 {
            // Every capability is looked at, so that each cut meets one.
            assert!(ContainerInfo::parse(&full[..end]).is_err(), "cut at {end}");
        }
        let mut circle = full.clone();
        circle[28..32].copy_from_slice(&24u32.to_ne_bytes());
        let error = ContainerInfo::parse(&circle).unwrap_err();
        assert!(error.to_string().ends_with("form a circle"), "{error}");
        let mut many = full;
        let number = many.len() - 40;
        many[number..number + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(ContainerInfo::parse(&many).is_err());
    }
}
