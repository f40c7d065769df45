// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Calls into `vfio-ioctls` (feature `vfio-ioctls`).

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
};

use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd, VfioOps};

use crate::{Placed, Region};

/// The descriptor of a container.
pub(crate) fn container_fd(container: &VfioContainer) -> BorrowedFd<'_> {
    // SAFETY: the container owns the descriptor as its `File` and never closes or replaces it before it is dropped,
    // which the borrow excludes.
    unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) }
}

/// The descriptor of the iommufd behind a `VfioIommufd`.
pub(crate) fn iommufd_fd(iommufd: &VfioIommufd) -> BorrowedFd<'_> {
    // SAFETY: as above; the `IommuFd` is owned by an `Arc` that the borrowed structure holds and never replaces.
    unsafe { BorrowedFd::borrow_raw(iommufd.iommufd().as_raw_fd()) }
}

/// Maps a part of `region` through whatever `ops` is.
pub(crate) fn map(
    ops: &Arc<dyn VfioOps>,
    region: &Region,
    placed: Placed,
) -> Result<(), VfioError> {
    let start = region.at(placed.offset, placed.size).as_ptr();
    let size = usize::try_from(placed.size).unwrap_or(usize::MAX);
    // SAFETY: `vfio_dma_map` asks that until the memory is unmapped only volatile or atomic operations, system calls
    // and devices touch it, and that no reference to it exists: clauses 1 and 2 of `Region::new`. The part lies inside
    // the region (`at` checks it).
    unsafe { ops.vfio_dma_map(placed.iova.0, size, start) }
}
