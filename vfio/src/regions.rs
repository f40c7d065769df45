// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Regions`]: the memory of one guest, checked and in IOVA order.

use std::{io, sync::Arc};

use pinning::{Chunk, Job, JobError, Range};
use thiserror::Error;

use crate::{
    Backing, Hva, Iova, MemoryPolicy, PageSize, Region, Survey, SurveyError, policy, survey,
};

/// Which of its two addresses a target works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// Addresses of this process: nothing but the host's page tables is touched.
    Hva,
    /// Addresses of the device: cuts fall where both its page tables and the host's can hold whole pages.
    Iova,
}

/// Regions that do not overlap, in IOVA order; clones share them.
#[derive(Debug, Clone)]
pub struct Regions(Arc<[Region]>);

impl Regions {
    /// Takes `regions` in any order.
    ///
    /// # Errors
    /// [`RegionsError`] where there are none, or two share an IOVA.
    pub fn new(regions: impl IntoIterator<Item = Region>) -> Result<Self, RegionsError> {
        let mut regions: Vec<Region> = regions.into_iter().collect();
        regions.sort_by_key(Region::iova);
        if regions.is_empty() {
            return Err(RegionsError::None);
        }
        for pair in regions.windows(2) {
            let end = pair[0].iova().0 + (pair[0].size() - 1);
            if end >= pair[1].iova().0 {
                return Err(RegionsError::Overlap {
                    first: pair[0].iova(),
                    first_size: pair[0].size(),
                    second: pair[1].iova(),
                    second_size: pair[1].size(),
                });
            }
        }
        Ok(Self(regions.into()))
    }

    /// Bytes of all regions.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.iter().map(Region::size).sum()
    }

    /// The regions in IOVA order.
    pub fn iter(&self) -> std::slice::Iter<'_, Region> {
        self.0.iter()
    }

    /// The largest page behind any region.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.iter()
            .map(|region| region.page_size())
            .max()
            .unwrap_or_else(PageSize::base)
    }

    /// Whether every region says what is behind it, so that `/proc/self/smaps` need not be read.
    #[must_use]
    pub fn all_backed(&self) -> bool {
        self.iter().all(|region| region.backing().is_some())
    }

    /// Looks up in `/proc/self/smaps` what is behind each region and how much of it is resident.
    ///
    /// The kernel walks the page tables of the whole process for it: some milliseconds a GiB of 4 KiB pages.
    ///
    /// # Errors
    /// [`SurveyError`] where a region is not completely mapped, or not writable.
    pub fn survey(&self) -> Result<Survey, SurveyError> {
        Survey::new(self)
    }

    /// The same regions; those that do not say what is behind them take it from `survey`.
    #[must_use]
    pub fn with_backings(&self, survey: &Survey) -> Self {
        Self(
            self.iter()
                .zip(survey.found())
                .map(|(region, found)| {
                    let backing = region.backing().unwrap_or(found.backing);
                    region.clone().with_backing(backing)
                })
                .collect(),
        )
    }

    /// The same regions, with what `survey` found behind them, whatever they say themselves.
    #[must_use]
    pub fn as_surveyed(&self, survey: &Survey) -> Self {
        Self(
            self.iter()
                .zip(survey.found())
                .map(|(region, found)| region.clone().with_backing(found.backing))
                .collect(),
        )
    }

    /// The memory policy behind each region; `None` where parts of it have different ones.
    ///
    /// # Errors
    /// The list of mappings and policies cannot be read, as on a kernel without NUMA.
    pub fn policies(&self) -> io::Result<Vec<Option<MemoryPolicy>>> {
        policy::policies(self)
    }

    /// The same regions; those that do not say on which node their pages land take it from `nodes`, in IOVA order.
    #[must_use]
    pub fn with_nodes(&self, nodes: impl IntoIterator<Item = Option<u32>>) -> Self {
        Self(
            self.iter()
                .zip(nodes)
                .map(|(region, node)| match (region.node(), node) {
                    (None, Some(node)) => region.clone().on_node(node),
                    _ => region.clone(),
                })
                .collect(),
        )
    }

    /// The same memory in fewer regions: neighbours that continue each other in both addresses, in their file, and in
    /// all that is known of them, become one.
    ///
    /// For the many small blocks of a virtio-mem device, each of which would spend a map entry. What is one entry can
    /// only be unmapped as one: join what is removed together.
    #[must_use]
    pub fn coalesced(&self) -> Self {
        let mut joined: Vec<Region> = Vec::new();
        for region in self {
            match joined.last_mut().map(|last| (last.joined(region), last)) {
                Some((Some(both), last)) => *last = both,
                _ => joined.push(region.clone()),
            }
        }
        Self(joined.into())
    }

    /// The regions whose two addresses disagree in their place inside a page of the size behind them: chunks can only
    /// be cut by smaller pages there, and the IOMMU cannot use large ones.
    pub fn out_of_step(&self) -> impl Iterator<Item = &Region> {
        self.iter()
            .filter(|region| alignment(region, Addressing::Iova) < region.page_size().bytes())
    }

    /// Whether all of it is private anonymous memory, by the list of this process's mappings.
    ///
    /// # Errors
    /// [`SurveyError`] where a region is not completely mapped, or not writable.
    pub fn all_anonymous(&self) -> Result<bool, SurveyError> {
        survey::all_anonymous(self)
    }

    /// A job over all regions, cut at multiples of each one's page.
    ///
    /// # Errors
    /// [`JobError::Overlap`] where two regions share memory of this process.
    pub fn job(&self, addressing: Addressing) -> Result<Job, JobError> {
        let ranges = self
            .iter()
            .map(|region| {
                let start = start(region, addressing);
                let range = Range::new(start, region.size(), alignment(region, addressing))?;
                Ok(range.on_node(region.node()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Job::new(ranges)
    }

    /// Where a chunk of a job over these regions lies.
    #[must_use]
    pub fn locate(&self, chunk: &Chunk, addressing: Addressing) -> Placed {
        let region = &self.0[chunk.range()];
        let offset = chunk.start() - start(region, addressing);
        Placed {
            region: chunk.range(),
            iova: Iova(region.iova().0 + offset),
            hva: Hva(region.hva().0 + offset),
            offset,
            size: chunk.size(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> &Region {
        &self.0[index]
    }
}

fn start(region: &Region, addressing: Addressing) -> u64 {
    match addressing {
        Addressing::Hva => region.hva().0,
        Addressing::Iova => region.iova().0,
    }
}

/// At multiples of what a region may be cut: its page, or the largest power of two by which its two addresses agree.
fn alignment(region: &Region, addressing: Addressing) -> u64 {
    let page = region.page_size().bytes();
    match addressing {
        Addressing::Hva => page,
        Addressing::Iova => match (region.hva().0 ^ region.iova().0).trailing_zeros() {
            64.. => page,
            agree => page.min(1 << agree),
        },
    }
}

impl<'a> IntoIterator for &'a Regions {
    type Item = &'a Region;
    type IntoIter = std::slice::Iter<'a, Region>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A chunk in all its addresses: a row of the chunk table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which region, counted in IOVA order.
    pub region: usize,
    /// Its address for the device.
    pub iova: Iova,
    /// Its address in this process.
    pub hva: Hva,
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Backing {
    /// What a region without a word about its backing is taken for until a survey says more.
    pub(crate) fn unknown() -> Self {
        Self {
            kind: crate::BackingKind::File,
            page_size: PageSize::base(),
            shared: false,
        }
    }
}

/// Why regions do not make a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegionsError {
    /// There is nothing to pin.
    #[error("no region was given")]
    None,
    /// Two regions share an IOVA.
    #[error(
        "regions at iova {first} of {first_size:#x} bytes and at iova {second} of {second_size:#x} bytes overlap"
    )]
    Overlap {
        /// Start of the lower one.
        first: Iova,
        /// Its length in bytes.
        first_size: u64,
        /// Start of the upper one.
        second: Iova,
        /// Its length in bytes.
        second_size: u64,
    },
}
