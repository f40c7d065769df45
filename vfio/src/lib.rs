// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Regions of guest memory, and the targets that pin them.
//!
//! ```text
//!  unsafe Region::new ──► Regions ──survey──► Backing ──job──► pinning::Plan
//!        (the promise)       │                                      │
//!                            └────────► Target::begin ◄─────────────┘
//!                                            │
//!                        Session: pinning::Work over madvise, io_uring
//! ```
//!
//! The one promise that memory may be given to a device is made where a [`Region`] is built; everything after that is
//! safe. All unsafe code is in `sys/`, and in one line of the `vm-memory` adapter that passes the promise on.
//!
//! | target | pins | parallel | needs |
//! |---|---|---|---|
//! | [`Populate`] | no, faults pages in | yes, in slices | nothing |
//! | [`IoUring`] | yes, `VmPin` | yes, one ring a thread | io_uring allowed |
//! | [`Type1`] | yes, `VmLck` | faulting in; mapping too where iommufd provides the container | a VFIO group |
//! | [`Iommufd`] | yes, `VmPin` | yes | a VFIO device file |
//!
//! # Things this does not do
//! - It opens no containers, groups or devices: what a VMM has, it keeps.
//! - It does not decide how many threads work: that is the plan's.

mod abi;
mod address;
mod backing;
mod discard;
mod fault;
#[cfg(feature = "vm-memory")]
mod guest_memory;
mod io_uring;
mod iommufd;
mod iova_space;
mod mapped;
mod page_map;
mod page_size;
mod payoff;
mod policy;
mod populate;
mod regions;
#[cfg(feature = "vfio-ioctls")]
mod rust_vmm;
mod smaps;
mod strategy;
mod survey;
mod sys;
mod target;
mod type1;

pub use address::{Hva, Iova};
pub use backing::{Backing, BackingKind};
pub use discard::{Discard, Discarding};
pub use fault::{FaultAt, FaultKind, PinFault};
#[cfg(feature = "vm-memory")]
pub use guest_memory::{GuestMemoryError, regions_of};
pub use io_uring::{IoUring, Registered};
pub use iommufd::{Attachment, IoasInfo, IoasMapper, Iommufd};
pub use iova_space::IovaSpace;
pub use mapped::{Mapped, Mapper, SharedFd};
pub use page_size::PageSize;
pub use policy::{MemoryPolicy, PolicyMode};
pub use populate::{Populate, PopulateMethod, Populating};
pub use regions::{Addressing, Placed, Regions, RegionsError};
#[cfg(feature = "vfio-ioctls")]
pub use rust_vmm::{ContainerFd, IommuFd, OpsMapper, OpsTarget, OtherOps};
pub use strategy::Strategy;
pub use survey::{Found, Survey, SurveyError};
pub use sys::{
    mapping::{Mapping, MappingError, Pages},
    region::{Region, RegionError},
};
pub use target::{Accounting, Session, Target};
pub use type1::{ContainerInfo, MigrationInfo, Type1, Type1Mapper};
