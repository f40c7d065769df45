// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls of a type1 container, one function each (include/uapi/linux/vfio.h, drivers/vfio/vfio_iommu_type1.c).

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap, vfio_iommu_type1_info,
};

use crate::{Iova, Region};

/// The requests as the kernel numbers them: `_IO(';', 100 + n)`, without size or direction.
mod request {
    use nix::{ioctl_readwrite_bad, ioctl_write_ptr_bad, request_code_none};
    use vfio_bindings::bindings::vfio::{
        vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap, vfio_iommu_type1_info,
    };

    use crate::abi::{VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA, VFIO_TYPE};

    ioctl_readwrite_bad!(
        get_info,
        request_code_none!(VFIO_TYPE, VFIO_IOMMU_GET_INFO),
        vfio_iommu_type1_info
    );
    ioctl_write_ptr_bad!(
        map_dma,
        request_code_none!(VFIO_TYPE, VFIO_IOMMU_MAP_DMA),
        vfio_iommu_type1_dma_map
    );
    ioctl_readwrite_bad!(
        unmap_dma,
        request_code_none!(VFIO_TYPE, VFIO_IOMMU_UNMAP_DMA),
        vfio_iommu_type1_dma_unmap
    );
}

/// Most bytes of information and capabilities that are taken from the kernel: it has a few hundred.
const MAX_INFO: usize = 1 << 20;

/// The kernel's struct sizes fit 32 bits by construction of the ABI.
const fn argsz<T>() -> u32 {
    assert!(size_of::<T>() <= 4096);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size_of::<T>() as u32;
    size
}

/// VFIO_IOMMU_GET_INFO: `struct vfio_iommu_type1_info` and all capabilities behind it, as bytes.
///
/// Waits while another thread maps, since the kernel holds the same mutex.
pub(crate) fn get_info(container: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut size = size_of::<vfio_iommu_type1_info>();
    loop {
        // Of u64, so that the structure at its start is aligned.
        let mut buffer = vec![0u64; size.div_ceil(8)];
        let info = buffer.as_mut_ptr().cast::<vfio_iommu_type1_info>();
        let argsz = u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the buffer is at least as large as the structure, aligned for it, and zero is a valid value of it.
        unsafe { (*info).argsz = argsz };
        // SAFETY: the kernel writes no more than `argsz` bytes, and the buffer has as many. On a descriptor of another
        // kind the request fails: no other driver of Linux uses this type and number.
        unsafe { request::get_info(container.as_raw_fd(), info) }?;
        // SAFETY: as above; the kernel has written a whole structure.
        let needed = unsafe { (*info).argsz } as usize;
        if needed <= size {
            let bytes = buffer.iter().flat_map(|word| word.to_ne_bytes());
            return Ok(bytes.take(needed).collect());
        }
        if needed > MAX_INFO {
            return Err(io::ErrorKind::InvalidData.into());
        }
        size = needed;
    }
}

/// VFIO_IOMMU_MAP_DMA for a part of `region`: the device may access it until it is unmapped.
///
/// Where the kernel fails, nothing of the part is mapped or pinned (vfio_pin_map_dma() removes it).
pub(crate) fn map_dma(
    container: BorrowedFd<'_>,
    region: &Region,
    offset: u64,
    size: u64,
) -> Result<(), Errno> {
    let write = if region.is_read_only() {
        0
    } else {
        VFIO_DMA_MAP_FLAG_WRITE
    };
    let map = vfio_iommu_type1_dma_map {
        argsz: argsz::<vfio_iommu_type1_dma_map>(),
        flags: VFIO_DMA_MAP_FLAG_READ | write,
        vaddr: region.at(offset, size).addr().get() as u64,
        iova: region.iova().0 + offset,
        size,
    };
    // SAFETY: the structure lives until the call returns, and the kernel only reads it. What it makes the device do
    // is what `Region::new` promises to be allowed: access to `[offset, offset + size)`, which lies inside the region
    // (`at` checks it), until it is unmapped; for writing only where the region allows it.
    unsafe { request::map_dma(container.as_raw_fd(), &raw const map) }.map(drop)
}

/// VFIO_IOMMU_UNMAP_DMA: takes back all mappings that lie in the range. Returns their bytes.
pub(crate) fn unmap_dma(container: BorrowedFd<'_>, iova: Iova, size: u64) -> Result<u64, Errno> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: argsz::<vfio_iommu_type1_dma_unmap>(),
        iova: iova.0,
        size,
        ..Default::default()
    };
    // SAFETY: the structure lives until the call returns; without VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP the kernel
    // touches nothing behind it. Taking a device's access away cannot harm memory.
    unsafe { request::unmap_dma(container.as_raw_fd(), &raw mut unmap) }?;
    Ok(unmap.size)
}
