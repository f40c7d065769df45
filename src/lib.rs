// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pins a guest's memory in parallel, inside the limits that the caller was given, and takes every page back if
//! anything fails.
//!
//! ```text
//!  cgroup::CpuBudget ──► pinning::Plan ──► pinning::run ──► vfio::Target ──► kernel
//!  cgroup::MemoryBudget ─► check ▲              │
//!                                └── Pinner ◄───┴──► Pinned (guard) or PinError, and nothing pinned
//! ```
//!
//! This crate is the only place where the parts meet: [`Pinner`] joins what the caller wants with what the machine
//! allows, runs the job, and gives a [`Pinned`] guard that unpins when it is dropped.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use parapin::{Iova, Mapping, Pages, Pinner, Populate, Region, Regions};
//!
//! let memory = Arc::new(Mapping::anonymous(64 << 20, Pages::Small)?);
//! let regions = Regions::new([Region::of_mapping(memory, Iova(0))?])?;
//! let populated = Pinner::new().pin(&Populate::default(), &regions)?;
//! assert_eq!(populated.report().job.bytes, 64 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A VMM builds its regions with the unsafe `Region::new` or, from a `vm-memory` guest, with `regions_of`; that is
//! where it promises that a device may write to this memory.

#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod budget;
#[cfg(feature = "check")]
pub mod check;
mod chunk_table;
mod error;
mod handle;
mod kind;
mod locality;
mod pinned;
mod pinner;
mod report;
mod signals;

pub use cgroup::{CpuBudget, MemoryBudget};
pub use chunk_table::{ChunkTable, CutChunk};
pub use error::PinError;
pub use handle::PinHandle;
/// Work queues of Intel DSA and IAA.
pub use idxd;
pub use kind::PinErrorKind;
pub use locality::Placement;
/// What moving a guest takes: which of its pages are zero.
pub use migration;
pub use pinned::{Pinned, UnpinError, Unpinned};
pub use pinner::Pinner;
pub use pinning::{Alarm, CancelToken, Crew, NICEST, Progress, Stuck};
pub use report::PinReport;
pub use vfio::{
    Attachment, Backing, BackingKind, ContainerInfo, Discard, FaultKind, Hva, IoUring, IoasInfo,
    Iommufd, Iova, IovaSpace, Mapping, MappingError, PageSize, Pages, PinFault, Placed, Populate,
    PopulateMethod, Region, RegionError, Regions, RegionsError, SharedFd, Strategy, Target, Type1,
};
#[cfg(feature = "vfio-ioctls")]
pub use vfio::{ContainerFd, IommuFd, OpsTarget};
#[cfg(feature = "vm-memory")]
pub use vfio::{GuestMemoryError, regions_of};
