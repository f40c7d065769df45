// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls of an IOAS, one function each (include/uapi/linux/iommufd.h, drivers/iommu/iommufd/ioas.c).

use std::{
    io,
    mem::size_of,
    ops::RangeInclusive,
    os::fd::{AsRawFd, BorrowedFd},
};

use iommufd_bindings::iommufd::{
    iommu_ioas_iova_ranges, iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap,
    iommu_iova_range, iommu_option, iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as WRITEABLE,
    iommufd_option_IOMMU_OPTION_RLIMIT_MODE as RLIMIT_MODE,
    iommufd_option_ops_IOMMU_OPTION_OP_GET as OPTION_GET,
};
use nix::errno::Errno;

use crate::{Iova, Region};

/// The requests as the kernel numbers them: `_IO(';', 0x80 + n)`, without size or direction.
mod request {
    use iommufd_bindings::iommufd::{
        IOMMUFD_CMD_IOAS_IOVA_RANGES, IOMMUFD_CMD_IOAS_MAP, IOMMUFD_CMD_IOAS_MAP_FILE,
        IOMMUFD_CMD_IOAS_UNMAP, IOMMUFD_CMD_OPTION, IOMMUFD_TYPE, iommu_ioas_iova_ranges,
        iommu_ioas_map, iommu_ioas_map_file, iommu_ioas_unmap, iommu_option,
    };
    use nix::{ioctl_readwrite_bad, ioctl_write_ptr_bad, request_code_none};

    ioctl_readwrite_bad!(
        iova_ranges,
        request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES),
        iommu_ioas_iova_ranges
    );
    ioctl_readwrite_bad!(
        map,
        request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP),
        iommu_ioas_map
    );
    ioctl_write_ptr_bad!(
        map_file,
        request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE),
        iommu_ioas_map_file
    );
    ioctl_readwrite_bad!(
        unmap,
        request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP),
        iommu_ioas_unmap
    );
    ioctl_readwrite_bad!(
        option,
        request_code_none!(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION),
        iommu_option
    );
}

/// Most IOVA ranges that are taken from the kernel: it has one more than there are reserved windows.
const MAX_RANGES: usize = 1 << 16;

/// The kernel's struct sizes fit 32 bits by construction of the ABI.
const fn size<T>() -> u32 {
    assert!(size_of::<T>() <= 4096);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size_of::<T>() as u32;
    size
}

/// IOMMU_IOAS_IOVA_RANGES: where something can be mapped, and the alignment in bytes; 1 while nothing is attached.
pub(crate) fn iova_ranges(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
) -> io::Result<(Vec<RangeInclusive<u64>>, u64)> {
    let mut room = 8;
    loop {
        let mut ranges = vec![iommu_iova_range { start: 0, last: 0 }; room];
        let mut query = iommu_ioas_iova_ranges {
            size: size::<iommu_ioas_iova_ranges>(),
            ioas_id: ioas,
            num_iovas: u32::try_from(room).map_err(|_| io::ErrorKind::InvalidData)?,
            allowed_iovas: ranges.as_mut_ptr().addr() as u64,
            ..Default::default()
        };
        // SAFETY: both live until the call returns, and the kernel writes at most `num_iovas` ranges, for which there
        // is room. On a descriptor of another kind the request fails.
        let outcome = unsafe { request::iova_ranges(iommufd.as_raw_fd(), &raw mut query) };
        let number = query.num_iovas as usize;
        match outcome {
            Ok(_) if number <= room => {
                ranges.truncate(number);
                let ranges = ranges.iter().map(|range| range.start..=range.last);
                return Ok((ranges.collect(), query.out_iova_alignment));
            }
            Ok(_) | Err(Errno::EMSGSIZE) if number > room && number <= MAX_RANGES => room = number,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// IOMMU_OPTION, IOMMU_OPTION_RLIMIT_MODE: whether pins are counted for the process rather than for the user.
pub(crate) fn counts_for_process(iommufd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut option = iommu_option {
        size: size::<iommu_option>(),
        option_id: RLIMIT_MODE,
        op: u16::try_from(OPTION_GET).unwrap_or(u16::MAX),
        ..Default::default()
    };
    // SAFETY: the structure lives until the call returns; getting the option changes nothing.
    unsafe { request::option(iommufd.as_raw_fd(), &raw mut option) }?;
    Ok(option.val64 == 1)
}

/// Whether the kernel knows IOMMU_IOAS_MAP_FILE (Linux 6.13 and later); maps nothing.
pub(crate) fn knows_map_file(iommufd: BorrowedFd<'_>) -> bool {
    let map = iommu_ioas_map_file {
        size: size::<iommu_ioas_map_file>(),
        fd: -1,
        ..Default::default()
    };
    // SAFETY: the structure lives until the call returns. No file and no IOAS have these numbers, and no bytes are
    // asked for: it always fails.
    let outcome = unsafe { request::map_file(iommufd.as_raw_fd(), &raw const map) };
    outcome != Err(Errno::ENOTTY)
}

/// Where a mapping begins, or which file is mapped.
fn flags(region: &Region) -> u32 {
    let write = if region.is_read_only() { 0 } else { WRITEABLE };
    FIXED_IOVA | READABLE | write
}

/// IOMMU_IOAS_MAP for a part of `region`, at its IOVA: the device may access it until it is unmapped.
///
/// Where the kernel fails, nothing of the part is mapped or pinned (iopt_map_pages() aborts the area).
pub(crate) fn map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    region: &Region,
    offset: u64,
    length: u64,
) -> Result<(), Errno> {
    let mut map = iommu_ioas_map {
        size: size::<iommu_ioas_map>(),
        flags: flags(region),
        ioas_id: ioas,
        user_va: region.at(offset, length).addr().get() as u64,
        length,
        iova: region.iova().0 + offset,
        ..Default::default()
    };
    // SAFETY: the structure lives until the call returns. What the kernel makes the device do is what `Region::new`
    // promises to be allowed: access to `[offset, offset + length)`, which lies inside the region (`at` checks it),
    // until it is unmapped; for writing only where the region allows it.
    unsafe { request::map(iommufd.as_raw_fd(), &raw mut map) }.map(drop)
}

/// IOMMU_IOAS_MAP_FILE for a part of `region`, whose file it must have ([`Region::with_file`]).
///
/// Never run: the kernels that parapin is tested on do not have it.
pub(crate) fn map_file(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    region: &Region,
    offset: u64,
    length: u64,
) -> Result<(), Errno> {
    let (file, from) = region.file().ok_or(Errno::EBADF)?;
    let map = iommu_ioas_map_file {
        size: size::<iommu_ioas_map_file>(),
        flags: flags(region),
        ioas_id: ioas,
        fd: file.as_raw_fd(),
        start: from.checked_add(offset).ok_or(Errno::EOVERFLOW)?,
        length,
        iova: region.iova().0 + offset,
    };
    // SAFETY: as for `map`; whoever names a region's file promises that what it holds at this place is the region's
    // memory (`Region::with_file`).
    unsafe { request::map_file(iommufd.as_raw_fd(), &raw const map) }.map(drop)
}

/// IOMMU_IOAS_UNMAP: takes back all mappings that lie in the range. Returns their bytes.
pub(crate) fn unmap(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    iova: Iova,
    length: u64,
) -> Result<u64, Errno> {
    let mut unmap = iommu_ioas_unmap {
        size: size::<iommu_ioas_unmap>(),
        ioas_id: ioas,
        iova: iova.0,
        length,
    };
    // SAFETY: the structure lives until the call returns. Taking a device's access away cannot harm memory.
    unsafe { request::unmap(iommufd.as_raw_fd(), &raw mut unmap) }?;
    Ok(unmap.length)
}
