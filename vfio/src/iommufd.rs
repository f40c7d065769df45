// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Iommufd`] pins memory by mapping it in an IOAS, on all threads at once.
//!
//! ```text
//!  iommufd, IOAS id ──IOVA_RANGES, OPTION, once──► IoasInfo ──constraints──► regions checked ──► Plan
//!                                                     IOAS_MAP (or MAP_FILE), IOAS_UNMAP ◄── Mapped
//! ```
//!
//! # Gotchas
//! - Attach the device first. Without a domain IOAS_MAP pins nothing, and the later attach pins everything on one
//!   thread, with all other users of the IOAS locked out.
//! - The kernel compares `RLIMIT_MEMLOCK` only after a whole call was pinned. Chunks bound what that wastes; the check
//!   that comes before a job avoids it.
//! - By default pins count for the user, with those of all his other processes.
//! - `/dev/iommu` must not be raced: unmapping a range that another thread is mapping is refused.
//! - Memory that is mapped must not be discarded: ballooning and free page reporting have to be off, or the device
//!   keeps the old pages.

use std::{io, os::fd::AsFd};

use nix::errno::Errno;
use pinning::{Constraints, Plan};

use crate::{
    Accounting, Addressing, BackingKind, FaultKind, IovaSpace, Mapped, Mapper, PinFault, Placed,
    Region, Regions, SharedFd, Strategy, Target,
    fault::Meaning,
    sys::ioas,
    type1::{ioctl_meaning, map_meaning},
};

const IOVA_RANGES: &str = "ioctl(IOMMU_IOAS_IOVA_RANGES)";
const MAP: &str = "ioctl(IOMMU_IOAS_MAP)";
const MAP_FILE: &str = "ioctl(IOMMU_IOAS_MAP_FILE)";
const UNMAP: &str = "ioctl(IOMMU_IOAS_UNMAP)";

/// Pins by mapping memory in an IOAS of iommufd; visible as `VmPin`.
///
/// It borrows the iommufd: allocating the IOAS, binding and attaching devices stay with the VMM. It may be used from any
/// thread; a job makes only IOAS_MAP (or IOAS_MAP_FILE) and IOAS_UNMAP on it.
#[derive(Debug, Clone)]
pub struct Iommufd<F> {
    iommufd: F,
    ioas: u32,
    info: IoasInfo,
    strategy: Strategy,
    attachment: Attachment,
    by_file: bool,
}

/// What an IOAS said, as of the last time that it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoasInfo {
    space: IovaSpace,
    attached: bool,
    counts_for_process: bool,
    knows_map_file: bool,
}

/// What to do where no device is attached to the IOAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Attachment {
    /// Refuse: nothing would be pinned now, and everything on one thread at the attach.
    #[default]
    Required,
    /// Map all the same; [`IoasInfo::is_attached`] tells how it is.
    Optional,
}

impl IoasInfo {
    /// What devices can address. Shrinks when a device is attached.
    #[must_use]
    pub fn space(&self) -> &IovaSpace {
        &self.space
    }

    /// Whether a device is attached, so that mapping pins.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether pins count for this process (IOMMU_OPTION_RLIMIT_MODE) rather than for its user.
    #[must_use]
    pub fn counts_for_process(&self) -> bool {
        self.counts_for_process
    }

    /// Whether the kernel can map files (Linux 6.13 and later).
    #[must_use]
    pub fn knows_map_file(&self) -> bool {
        self.knows_map_file
    }
}

impl<F: SharedFd> Iommufd<F> {
    /// Asks the IOAS with this id for its limits; to be called after the device was attached.
    ///
    /// # Errors
    /// [`FaultKind::Other`] where this is no iommufd or has no such IOAS.
    pub fn new(iommufd: F, ioas: u32) -> Result<Self, PinFault> {
        let info = query(&iommufd, ioas)?;
        Ok(Self {
            iommufd,
            ioas,
            info,
            strategy: Strategy::Auto,
            attachment: Attachment::Required,
            by_file: true,
        })
    }

    /// Uses `strategy` instead of the best one.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// What to do where nothing is attached.
    #[must_use]
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.attachment = attachment;
        self
    }

    /// Whether shared memory whose file is known is mapped by its file where the kernel can; on by default.
    ///
    /// Never run: the kernels that parapin is tested on cannot.
    #[must_use]
    pub fn by_file(mut self, on: bool) -> Self {
        self.by_file = on;
        self
    }

    /// What the IOAS said.
    #[must_use]
    pub fn info(&self) -> &IoasInfo {
        &self.info
    }

    /// What a session needs: the mapper and the resolved strategy.
    pub(crate) fn prepare(&self, regions: &Regions) -> Result<(IoasMapper<F>, Strategy), PinFault> {
        let strategy = self.strategy.resolve(regions, true)?;
        let mapper = IoasMapper {
            iommufd: self.iommufd.clone(),
            ioas: self.ioas,
            by_file: self.by_file && self.info.knows_map_file,
        };
        Ok((mapper, strategy))
    }

    /// Asks again: after devices were attached or detached.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn refresh(&mut self) -> Result<(), PinFault> {
        self.info = query(&self.iommufd, self.ioas)?;
        Ok(())
    }
}

fn query(iommufd: &impl AsFd, ioas: u32) -> Result<IoasInfo, PinFault> {
    let fd = iommufd.as_fd();
    let (ranges, alignment) = ioas::iova_ranges(fd, ioas)
        .map_err(|errno| query_meaning(&errno).of(IOVA_RANGES, None, errno))?;
    Ok(IoasInfo {
        // Without domains there is nothing to align to; every attached one asks for the pages of its IOMMU
        // (iopt_calculate_iova_alignment(), drivers/iommu/iommufd/io_pagetable.c).
        attached: alignment > 1,
        space: IovaSpace::new(ranges, alignment),
        // An older kernel without the option counts for the user.
        counts_for_process: ioas::counts_for_process(fd).unwrap_or(false),
        knows_map_file: ioas::knows_map_file(fd),
    })
}

impl<F: SharedFd> Target for Iommufd<F> {
    type Session = Mapped<IoasMapper<F>>;

    fn name(&self) -> &'static str {
        "iommufd"
    }

    fn addressing(&self) -> Addressing {
        Addressing::Iova
    }

    fn accounting(&self) -> Accounting {
        match self.info.counts_for_process {
            true => Accounting::Process,
            false => Accounting::User,
        }
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        if !self.info.attached && self.attachment == Attachment::Required {
            return Err(Meaning::new(
                FaultKind::NotAttached,
                "no device is attached to the IOAS: nothing would be pinned now, and everything on one thread when one \
                 is",
                "attach the device first (VFIO_DEVICE_ATTACH_IOMMUFD_PT), or allow this with Attachment::Optional",
            )
            .refused("the check of the IOAS", None));
        }
        self.info.space.check(regions)?;
        Ok(self.strategy.resolve(regions, true)?.constraints())
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault> {
        let (mapper, strategy) = self.prepare(regions)?;
        Ok(Mapped::new(mapper, regions, plan, strategy, false))
    }
}

/// Maps in an IOAS.
#[derive(Debug)]
pub struct IoasMapper<F> {
    iommufd: F,
    ioas: u32,
    by_file: bool,
}

impl<F: SharedFd> Mapper for IoasMapper<F> {
    fn map(&self, region: &Region, placed: Placed) -> Result<(), PinFault> {
        let fd = self.iommufd.as_fd();
        let backing = region.backing();
        // The pages of a private mapping are not those of its file.
        let shared = backing.is_some_and(|backing| backing.shared);
        let (call, outcome) = if self.by_file && shared && region.file().is_some() {
            let outcome = ioas::map_file(fd, self.ioas, region, placed.offset, placed.size);
            (MAP_FILE, outcome)
        } else {
            let outcome = ioas::map(fd, self.ioas, region, placed.offset, placed.size);
            (MAP, outcome)
        };
        outcome.map_err(|errno| {
            let kind = backing.map(|backing| backing.kind);
            ioas_map_meaning(errno, kind).of(call, Some(placed.into()), errno.into())
        })
    }

    fn unmap(&self, placed: Placed) -> Result<(), PinFault> {
        match ioas::unmap(self.iommufd.as_fd(), self.ioas, placed.iova, placed.size) {
            // ENOENT: nothing is there, or a part of a larger mapping; neither is ours any more.
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => {
                let meaning = match errno {
                    Errno::EBUSY => Meaning::new(
                        FaultKind::Other,
                        "another thread maps in this range at the moment, or a mediated device uses it",
                        "do not map and unmap the same range at once",
                    ),
                    other => ioctl_meaning(other),
                };
                Err(meaning.of(UNMAP, Some(placed.into()), errno.into()))
            }
        }
    }

    fn unmaps_in_parallel(&self) -> bool {
        true
    }
}

/// iommufd_ioas_map(), iopt_map_user_pages().
fn ioas_map_meaning(errno: Errno, kind: Option<BackingKind>) -> Meaning {
    match errno {
        Errno::ENOENT => Meaning::new(
            FaultKind::Other,
            "the iommufd has no IOAS with this id",
            "keep the IOAS as long as memory is mapped in it",
        ),
        Errno::EOVERFLOW => Meaning::new(
            FaultKind::IovaRange,
            "the range ends behind the last IOVA",
            "place the memory lower",
        ),
        Errno::EINVAL => Meaning::new(
            FaultKind::IovaRange,
            "the range of IOVAs is reserved, or is not aligned to the pages of the IOMMU",
            "if a device was attached since, ask the IOAS again (Iommufd::refresh), and compare with its IOVA ranges",
        ),
        Errno::EOPNOTSUPP => Meaning::new(
            FaultKind::Other,
            "the kernel does not know a flag of this call",
            "report this with the version of the kernel",
        ),
        other => map_meaning(other, kind),
    }
}

/// iommufd_fops_ioctl(), iommufd_ioas_iova_ranges().
fn query_meaning(errno: &io::Error) -> Meaning {
    match errno.raw_os_error() {
        Some(libc::ENOENT) => Meaning::new(
            FaultKind::Other,
            "the iommufd has no IOAS with this id",
            "give the id that IOMMU_IOAS_ALLOC returned on this descriptor",
        ),
        Some(libc::EPERM | libc::EACCES) => Meaning::new(
            FaultKind::Permission,
            "a system call filter or security module refuses the ioctl",
            "make the target before the filter is installed, or allow ioctls 0x3b84, 0x3b87 and 0x3b8f",
        ),
        Some(errno) => ioctl_meaning(Errno::from_raw(errno)),
        None => Meaning::new(
            FaultKind::Other,
            "an answer that nothing here should lead to",
            "see the kernel's log",
        ),
    }
}
