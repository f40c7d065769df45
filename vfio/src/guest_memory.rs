// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Regions out of a `vm-memory` guest (feature `vm-memory`).

use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::{Iova, Region, RegionError};

/// The regions of `memory`, each at the IOVA that is its guest-physical address, with the files behind them.
///
/// Page sizes are not in the traits of `vm-memory`: they are found when the regions are pinned, or given by
/// [`Region::with_backing`].
///
/// # Safety
/// For each region the contract of [`Region::new`] must hold. Memory that is accessed only through `vm-memory` fulfils
/// clause 2; that it stays mapped (clause 1) until it is unpinned is the caller's part, usually by keeping the
/// guest memory alive as long as the pins. It covers the files behind the memory as well.
///
/// # Errors
/// [`GuestMemoryError`] where a region is not in this process's memory or is not aligned to pages.
#[expect(
    unsafe_code,
    reason = "passes the promise of `Region::new` on to its caller"
)]
pub unsafe fn regions_of<M: GuestMemoryBackend>(
    memory: &M,
) -> Result<Vec<Region>, GuestMemoryError> {
    memory
        .iter()
        .map(|region| {
            let iova = Iova(region.start_addr().raw_value());
            let start = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|source| GuestMemoryError::NoHostAddress {
                    iova,
                    source: Box::new(source),
                })?;
            // SAFETY: the caller of this function gives the same promise.
            let made = unsafe { Region::new(iova, start, region.len()) }?;
            Ok(match region.file_offset() {
                // SAFETY: `vm-memory` mapped the region from this place of this file; the caller's promise covers it.
                Some(file) => unsafe { made.with_file(file.arc().clone(), file.start()) },
                None => made,
            })
        })
        .collect()
}

/// Why a guest's memory cannot be pinned.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestMemoryError {
    /// The region has no address in this process.
    #[error("guest memory at {iova} has no host address")]
    NoHostAddress {
        /// Its guest-physical address.
        iova: Iova,
        /// What `vm-memory` says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The region's numbers are wrong.
    #[error(transparent)]
    Region(#[from] RegionError),
}
