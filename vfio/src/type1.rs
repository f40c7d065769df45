// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Type1`] pins memory by mapping it in a container of VFIO's group interface.
//!
//! ```text
//!  container fd ──GET_INFO, once──► ContainerInfo ──constraints──► regions checked, strategy picked ──► Plan
//!                                                                       MAP_DMA, UNMAP_DMA ◄── Mapped
//! ```
//!
//! # Gotchas
//! - The kernel pins under one mutex for the whole of a MAP_DMA: several mapping threads gain nothing, which is why
//!   pages are faulted in beforehand. Where `/dev/vfio/vfio` is provided by iommufd, mapping is parallel.
//! - Each chunk spends one of the container's map entries (`dma_entry_limit`, 65,535 by default) and is from then on
//!   the grid for partial unmaps, dirty bitmaps and address updates.
//! - Attach the group first. Without it MAP_DMA pins nothing, and the later attach pins everything on one thread.
//! - Every device of the container gets all mappings.
//! - Memory that is mapped must not be discarded: ballooning and free page reporting have to be off, or the device
//!   keeps the old pages.

mod info;

use std::{io, os::fd::AsFd};

use nix::errno::Errno;
use pinning::{Constraints, Plan};

pub use self::info::{ContainerInfo, MigrationInfo};
use crate::{
    Accounting, Addressing, BackingKind, FaultKind, Mapped, Mapper, PinFault, Placed, Region,
    Regions, SharedFd, Strategy, Target,
    fault::Meaning,
    sys::{
        ioas::counts_for_process,
        type1::{get_info, map_dma, unmap_dma},
    },
};

const GET_INFO: &str = "ioctl(VFIO_IOMMU_GET_INFO)";
const MAP: &str = "ioctl(VFIO_IOMMU_MAP_DMA)";
const UNMAP: &str = "ioctl(VFIO_IOMMU_UNMAP_DMA)";

/// Of the entries that are left a job takes at most one in so many, if it can: others need some too, such as
/// virtio-mem, device memory, and a second job.
const SHARE: u64 = 16;

/// Pins by mapping memory for the devices of a type1 (v2) container; visible as `VmLck`, or as `VmPin` where iommufd
/// provides the container.
///
/// It borrows the container: opening it, adding groups and setting the IOMMU stay with the VMM. It may be used from
/// any thread; a job makes only MAP_DMA and UNMAP_DMA on it.
#[derive(Debug, Clone)]
pub struct Type1<F> {
    container: F,
    info: ContainerInfo,
    /// An iommufd behind the container counts pins for the user, as one does that was opened as `/dev/iommu`.
    counts_for_user: bool,
    strategy: Strategy,
}

impl<F: SharedFd> Type1<F> {
    /// Asks the container for its limits; to be called after the first group was attached.
    ///
    /// # Errors
    /// [`FaultKind::NotAttached`] where no group or no device with an IOMMU is attached, so that mapping would pin
    /// nothing; [`FaultKind::Other`] where this is no container.
    pub fn new(container: F) -> Result<Self, PinFault> {
        let info = query(&container)?;
        let counts_for_user = info.maps_in_parallel()
            && counts_for_process(container.as_fd()).is_ok_and(|process| !process);
        Ok(Self {
            container,
            info,
            counts_for_user,
            strategy: Strategy::Auto,
        })
    }

    /// Uses `strategy` instead of the best one.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// What the container said.
    #[must_use]
    pub fn info(&self) -> &ContainerInfo {
        &self.info
    }

    /// Asks again: after groups were attached or detached, or others have used map entries.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn refresh(&mut self) -> Result<(), PinFault> {
        self.info = query(&self.container)?;
        Ok(())
    }

    /// What a session needs: the mapper, the resolved strategy, and whether to look at what populating pays.
    pub(crate) fn prepare(
        &self,
        regions: &Regions,
    ) -> Result<(Type1Mapper<F>, Strategy, bool), PinFault> {
        let parallel = self.info.maps_in_parallel();
        let strategy = self.strategy.resolve(regions, parallel)?;
        let mapper = Type1Mapper {
            container: self.container.clone(),
            parallel,
        };
        Ok((mapper, strategy, self.strategy == Strategy::Auto))
    }

    /// Entries for a job over so many regions: a share of what is left, or all that it needs at least.
    fn entries(&self, regions: u64) -> Result<Option<u64>, PinFault> {
        let Some(left) = self.info.entries_left().map(u64::from) else {
            return Ok(None);
        };
        if regions > left {
            return Err(Meaning::new(
                FaultKind::Entries,
                format!("{regions} regions need as many map entries, and the container has {left} left"),
                "join neighbouring regions (Regions::coalesced), unmap what is not needed, or raise the limit: \
                 echo N > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, before the container is opened",
            )
            .refused("the check of map entries", None));
        }
        Ok(Some((left / SHARE).max(regions)))
    }
}

fn query(container: &impl AsFd) -> Result<ContainerInfo, PinFault> {
    let info = get_info(container.as_fd())
        .and_then(|bytes| ContainerInfo::parse(&bytes))
        .map_err(|errno| info_meaning(&errno).of(GET_INFO, None, errno))?;
    if info.has_domain() {
        return Ok(info);
    }
    Err(Meaning::new(
        FaultKind::NotAttached,
        "the container has no device with an IOMMU: nothing would be pinned now, and everything on one thread later, \
         when one is attached",
        "attach the device's group first; mediated devices need no pinning of all memory",
    )
    .refused("the check of the container", None))
}

impl<F: SharedFd> Target for Type1<F> {
    type Session = Mapped<Type1Mapper<F>>;

    fn name(&self) -> &'static str {
        "type1"
    }

    fn addressing(&self) -> Addressing {
        Addressing::Iova
    }

    fn accounting(&self) -> Accounting {
        match self.counts_for_user {
            true => Accounting::User,
            false => Accounting::Process,
        }
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        self.info.space().check(regions)?;
        let entries = self.entries(regions.iter().len() as u64)?;
        let strategy = self
            .strategy
            .resolve(regions, self.info.maps_in_parallel())?;
        Ok(Constraints {
            entries,
            ..strategy.constraints()
        })
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault> {
        let (mapper, strategy, look) = self.prepare(regions)?;
        Ok(Mapped::new(mapper, regions, plan, strategy, look))
    }
}

/// Maps in a type1 container.
#[derive(Debug)]
pub struct Type1Mapper<F> {
    container: F,
    /// The container is iommufd's.
    parallel: bool,
}

impl<F: SharedFd> Mapper for Type1Mapper<F> {
    fn map(&self, region: &Region, placed: Placed) -> Result<(), PinFault> {
        map_dma(self.container.as_fd(), region, placed.offset, placed.size).map_err(|errno| {
            let kind = region.backing().map(|backing| backing.kind);
            map_meaning(errno, kind).of(MAP, Some(placed.into()), errno.into())
        })
    }

    fn unmap(&self, placed: Placed) -> Result<(), PinFault> {
        match unmap_dma(self.container.as_fd(), placed.iova, placed.size) {
            // Less than all, where others have taken it back before. ENOENT is an iommufd's word for "nothing there"
            // or "part of a larger mapping", neither of which is ours any more.
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(unmap_meaning(errno).of(UNMAP, Some(placed.into()), errno.into())),
        }
    }

    fn unmaps_in_parallel(&self) -> bool {
        self.parallel
    }
}

/// vfio_fops_unl_ioctl(), vfio_iommu_type1_get_info().
fn info_meaning(errno: &io::Error) -> Meaning {
    match errno.raw_os_error() {
        Some(libc::EINVAL) => Meaning::new(
            FaultKind::NotAttached,
            "the container has no IOMMU yet",
            "add a group (VFIO_GROUP_SET_CONTAINER) and set the IOMMU (VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) first",
        ),
        Some(libc::ENOTTY) => Meaning::new(
            FaultKind::Other,
            "this file descriptor is no VFIO container",
            "give the descriptor of /dev/vfio/vfio, or use the iommufd target",
        ),
        Some(libc::EBADF) => Meaning::new(
            FaultKind::Other,
            "the file descriptor is closed",
            "keep the container open as long as it is used",
        ),
        Some(libc::EPERM | libc::EACCES) => Meaning::new(
            FaultKind::Permission,
            "a system call filter or security module refuses the ioctl",
            "make the target before the filter is installed, or allow ioctl 0x3b70",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an answer that nothing here should lead to",
            "see the kernel's log",
        ),
    }
}

/// vfio_iommu_type1_map_dma(), vfio_dma_do_map(); iommufd_vfio_map_dma() for its containers.
pub(crate) fn map_meaning(errno: Errno, kind: Option<BackingKind>) -> Meaning {
    match errno {
        Errno::ENOMEM => Meaning::new(
            FaultKind::NoMemory,
            "RLIMIT_MEMLOCK would be exceeded, or there is no memory left for pages or page tables",
            "raise the limit (ulimit -l, LimitMEMLOCK=, prlimit --memlock), give the process CAP_IPC_LOCK, or free memory",
        ),
        Errno::EFAULT if kind == Some(BackingKind::Hugetlb) => Meaning::new(
            FaultKind::Hugetlb,
            "not all pages could be pinned: the hugetlb pool has no free page, or the mapping ended",
            "raise nr_hugepages of this size, or the limit of the hugetlb cgroup",
        ),
        Errno::EFAULT => Meaning::new(
            FaultKind::BadAddress,
            "not all pages could be pinned: part of the range is not mapped, not writable for a writable region, \
             secret memory, or a file on an ordinary file system",
            "map the region from anonymous memory, memfd or hugetlbfs for its whole length",
        ),
        Errno::EEXIST => Meaning::new(
            FaultKind::Overlap,
            "something else is mapped in this range of IOVAs; it was left as it is",
            "unmap that first, or do not pin the region twice",
        ),
        Errno::ENOSPC => Meaning::new(
            FaultKind::Entries,
            "the container has no map entry left",
            "use larger chunks, unmap what is not needed, or raise the limit: \
             echo N > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, before the container is opened",
        ),
        Errno::EINVAL => Meaning::new(
            FaultKind::IovaRange,
            "the range of IOVAs is not one that the IOMMU can map now, is not aligned to its pages, or is reserved",
            "if a group was attached since, ask the container again (Type1::refresh), and compare with its IOVA ranges",
        ),
        Errno::EINTR | Errno::EAGAIN => Meaning::new(
            FaultKind::Other,
            "the process is being killed",
            "nothing: the kernel releases everything",
        ),
        other => ioctl_meaning(other),
    }
}

/// vfio_iommu_type1_unmap_dma(), vfio_dma_do_unmap().
fn unmap_meaning(errno: Errno) -> Meaning {
    match errno {
        Errno::EINVAL => Meaning::new(
            FaultKind::Other,
            "a larger mapping of somebody else covers the range now",
            "unmap only what the chunk table lists",
        ),
        Errno::EBUSY => Meaning::new(
            FaultKind::Other,
            "another thread maps in this range at the moment",
            "do not map and unmap the same range at once",
        ),
        other => ioctl_meaning(other),
    }
}

/// What may happen to any ioctl.
pub(crate) fn ioctl_meaning(errno: Errno) -> Meaning {
    match errno {
        Errno::EBADF => Meaning::new(
            FaultKind::Other,
            "the file descriptor is closed",
            "keep it open as long as memory is pinned through it",
        ),
        Errno::ENOTTY => Meaning::new(
            FaultKind::Other,
            "the file descriptor is of another kind",
            "give type1 a container, and iommufd an open /dev/iommu",
        ),
        Errno::EPERM | Errno::EACCES => Meaning::new(
            FaultKind::Permission,
            "a system call filter or security module refuses the ioctl",
            "allow the ioctls that README lists",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an error that the kernel's sources do not lead to expect here",
            "see the kernel's log",
        ),
    }
}
