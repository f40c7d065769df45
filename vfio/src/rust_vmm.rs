// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Targets out of what a VMM on `vfio-ioctls` has already (feature `vfio-ioctls`).
//!
//! ```text
//!  Arc<VfioContainer> ──► ContainerFd ──► Type1
//!  Arc<VfioIommufd> ────► IommuFd ──────► Iommufd         Arc<dyn VfioOps> ──► OpsTarget: whichever of them it is,
//!                                                                             or its own map and unmap, serially
//! ```

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::errno::Errno;
use pinning::{Constraints, Plan};
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd, VfioOps};

use crate::{
    Accounting, Addressing, FaultKind, IoasMapper, Iommufd, Mapped, Mapper, PinFault, Placed,
    Region, Regions, Strategy, Target, Type1, Type1Mapper,
    fault::Meaning,
    sys::ops::{self, container_fd, iommufd_fd},
    type1::map_meaning,
};

/// A container of `vfio-ioctls` as the descriptor of a [`Type1`]; keeps the container alive.
#[derive(Clone)]
pub struct ContainerFd(Arc<dyn VfioOps>);

/// An iommufd of `vfio-ioctls` as the descriptor of an [`Iommufd`]; keeps it and its IOAS alive.
#[derive(Clone)]
pub struct IommuFd(Arc<dyn VfioOps>);

impl AsFd for ContainerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Made from nothing else, see below.
        let container = self.0.as_any().downcast_ref::<VfioContainer>();
        container_fd(container.expect("a ContainerFd holds a VfioContainer"))
    }
}

impl AsFd for IommuFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Made from nothing else, see below.
        let iommufd = self.0.as_any().downcast_ref::<VfioIommufd>();
        iommufd_fd(iommufd.expect("an IommuFd holds a VfioIommufd"))
    }
}

impl From<Arc<VfioContainer>> for ContainerFd {
    fn from(container: Arc<VfioContainer>) -> Self {
        Self(container)
    }
}

impl From<Arc<VfioIommufd>> for IommuFd {
    fn from(iommufd: Arc<VfioIommufd>) -> Self {
        Self(iommufd)
    }
}

impl fmt::Debug for ContainerFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContainerFd").field(&self.as_fd()).finish()
    }
}

impl fmt::Debug for IommuFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IommuFd").field(&self.as_fd()).finish()
    }
}

impl Type1<ContainerFd> {
    /// The target of a container of `vfio-ioctls`, once the device was opened (`VfioDevice::new`).
    ///
    /// # Errors
    /// As [`Type1::new`].
    pub fn of_container(container: Arc<VfioContainer>) -> Result<Self, PinFault> {
        Self::new(container.into())
    }
}

impl Iommufd<IommuFd> {
    /// The target of a `VfioIommufd` of `vfio-ioctls`, once the device was opened and attached (`VfioDevice::new`).
    ///
    /// # Errors
    /// As [`Iommufd::new`].
    pub fn of_vfio_iommufd(iommufd: Arc<VfioIommufd>) -> Result<Self, PinFault> {
        let ioas = iommufd.ioas().id();
        Self::new(iommufd.into(), ioas)
    }
}

/// The target of any `VfioOps`.
///
/// A `VfioContainer` and a `VfioIommufd` are recognised, and treated as [`Type1`] and [`Iommufd`]. Of anything else
/// nothing is known but its map and unmap: all threads populate, then the caller maps; no IOVA is checked beforehand.
#[derive(Debug, Clone)]
pub struct OpsTarget(Known);

#[derive(Debug, Clone)]
enum Known {
    Type1(Type1<ContainerFd>),
    Iommufd(Iommufd<IommuFd>),
    Other(OtherOps, Strategy),
}

impl OpsTarget {
    /// Looks at what `ops` is, and asks the kernel for its limits where it can be asked.
    ///
    /// # Errors
    /// As [`Type1::new`] and [`Iommufd::new`].
    pub fn new(ops: Arc<dyn VfioOps>) -> Result<Self, PinFault> {
        let any = ops.as_any();
        let known = if any.is::<VfioContainer>() {
            Known::Type1(Type1::new(ContainerFd(ops))?)
        } else if let Some(iommufd) = any.downcast_ref::<VfioIommufd>() {
            let ioas = iommufd.ioas().id();
            Known::Iommufd(Iommufd::new(IommuFd(ops), ioas)?)
        } else {
            Known::Other(OtherOps(ops), Strategy::Auto)
        };
        Ok(Self(known))
    }

    /// Uses `strategy` instead of the best one.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Self {
        Self(match self.0 {
            Known::Type1(target) => Known::Type1(target.strategy(strategy)),
            Known::Iommufd(target) => Known::Iommufd(target.strategy(strategy)),
            Known::Other(ops, _) => Known::Other(ops, strategy),
        })
    }
}

impl Target for OpsTarget {
    type Session = Mapped<OpsMapper>;

    fn name(&self) -> &'static str {
        match &self.0 {
            Known::Type1(target) => target.name(),
            Known::Iommufd(target) => target.name(),
            Known::Other(..) => "vfio-ops",
        }
    }

    fn addressing(&self) -> Addressing {
        Addressing::Iova
    }

    fn accounting(&self) -> Accounting {
        match &self.0 {
            Known::Type1(target) => target.accounting(),
            Known::Iommufd(target) => target.accounting(),
            Known::Other(..) => Accounting::Process,
        }
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        match &self.0 {
            Known::Type1(target) => target.constraints(regions),
            Known::Iommufd(target) => target.constraints(regions),
            Known::Other(_, strategy) => {
                if let Some(region) = regions.iter().find(|region| region.is_read_only()) {
                    return Err(Meaning::new(
                        FaultKind::BadAddress,
                        "VfioOps::vfio_dma_map maps for writing, and this region is read-only",
                        "leave the region out, or use a container or an iommufd",
                    )
                    .refused("the check of the regions", Some(region.into())));
                }
                Ok(strategy.resolve(regions, false)?.constraints())
            }
        }
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault> {
        let (mapper, strategy, look) = match &self.0 {
            Known::Type1(target) => {
                let (mapper, strategy, look) = target.prepare(regions)?;
                (OpsMapper::Type1(mapper), strategy, look)
            }
            Known::Iommufd(target) => {
                let (mapper, strategy) = target.prepare(regions)?;
                (OpsMapper::Iommufd(mapper), strategy, false)
            }
            Known::Other(ops, strategy) => (
                OpsMapper::Other(ops.clone()),
                strategy.resolve(regions, false)?,
                *strategy == Strategy::Auto,
            ),
        };
        Ok(Mapped::new(mapper, regions, plan, strategy, look))
    }
}

/// Maps through any `VfioOps`.
#[derive(Debug)]
pub enum OpsMapper {
    /// It is a container.
    Type1(Type1Mapper<ContainerFd>),
    /// It is an iommufd.
    Iommufd(IoasMapper<IommuFd>),
    /// It is something else.
    Other(OtherOps),
}

impl Mapper for OpsMapper {
    fn map(&self, region: &Region, placed: Placed) -> Result<(), PinFault> {
        match self {
            Self::Type1(mapper) => mapper.map(region, placed),
            Self::Iommufd(mapper) => mapper.map(region, placed),
            Self::Other(ops) => ops.map(region, placed),
        }
    }

    fn unmap(&self, placed: Placed) -> Result<(), PinFault> {
        match self {
            Self::Type1(mapper) => mapper.unmap(placed),
            Self::Iommufd(mapper) => mapper.unmap(placed),
            Self::Other(ops) => ops.unmap(placed),
        }
    }

    fn unmaps_in_parallel(&self) -> bool {
        match self {
            Self::Type1(mapper) => mapper.unmaps_in_parallel(),
            Self::Iommufd(mapper) => mapper.unmaps_in_parallel(),
            Self::Other(ops) => ops.unmaps_in_parallel(),
        }
    }
}

/// A `VfioOps` of a kind that is not known here.
#[derive(Clone)]
pub struct OtherOps(Arc<dyn VfioOps>);

impl fmt::Debug for OtherOps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherOps").finish_non_exhaustive()
    }
}

impl Mapper for OtherOps {
    fn map(&self, region: &Region, placed: Placed) -> Result<(), PinFault> {
        ops::map(&self.0, region, placed).map_err(|error| {
            let kind = region.backing().map(|backing| backing.kind);
            let meaning = match errno(&error) {
                Some(errno) => map_meaning(errno, kind),
                None => unknown(&error),
            };
            meaning.of("VfioOps::vfio_dma_map", Some(placed.into()), to_io(error))
        })
    }

    fn unmap(&self, placed: Placed) -> Result<(), PinFault> {
        let size = usize::try_from(placed.size).unwrap_or(usize::MAX);
        match self.0.vfio_dma_unmap(placed.iova.0, size) {
            // Others have taken part of it back before.
            Ok(()) | Err(VfioError::InvalidDmaUnmapSize) => Ok(()),
            Err(error) => Err(unknown(&error).of(
                "VfioOps::vfio_dma_unmap",
                Some(placed.into()),
                to_io(error),
            )),
        }
    }

    fn unmaps_in_parallel(&self) -> bool {
        false
    }
}

fn errno(error: &VfioError) -> Option<Errno> {
    match error {
        VfioError::IommuDmaMap(errno) => Some(Errno::from_raw(errno.errno())),
        _ => None,
    }
}

fn unknown(error: &VfioError) -> Meaning {
    Meaning::new(
        FaultKind::Other,
        error.to_string(),
        "see what this implementation of VfioOps says of the error",
    )
}

fn to_io(error: VfioError) -> std::io::Error {
    std::io::Error::other(error)
}
