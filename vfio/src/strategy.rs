// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Strategy`] by which memory is faulted in and mapped, and how `Auto` picks one.

use std::num::{NonZeroU64, NonZeroUsize};

use pinning::{Constraints, Sealing};

use crate::{FaultKind, PinFault, Regions, fault::Meaning};

/// Bytes after which another thread can take over a populating one.
pub(crate) const SLICE: NonZeroU64 = NonZeroU64::new(2 << 20).expect("not zero");

/// How a target that maps memory for a device goes about it.
///
/// | strategy | many threads | one thread (the caller) | for |
/// |---|---|---|---|
/// | `Serial` | | fault in, pin, map | comparison; what VMMs do without parapin |
/// | `PopulateThenMap` | fault in | pin and map, after all is there | type1: hugetlb, shared memory, files |
/// | `Pipeline` | fault in, by touching | pin and map what is there, at the same time | type1: anonymous memory |
/// | `Parallel` | fault in, pin, map | | iommufd, and type1 containers that iommufd provides |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// The best of the others for this target and this memory.
    #[default]
    Auto,
    /// One thread maps everything.
    Serial,
    /// All threads populate everything; then the caller maps, which is short. type1 pins under one mutex, so that
    /// several mapping threads gain nothing.
    PopulateThenMap,
    /// All threads touch pages from user mode, which needs no `mmap_lock` (Linux 6.4 and later), while the caller maps
    /// the chunks that are complete. Anonymous memory only: elsewhere a page that cannot be had is a `SIGBUS`.
    Pipeline,
    /// All threads map.
    Parallel,
}

impl Strategy {
    /// The name in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Serial => "serial",
            Self::PopulateThenMap => "populate-then-map",
            Self::Pipeline => "pipeline",
            Self::Parallel => "parallel",
        }
    }

    /// What `Auto` comes down to for `regions`, on a target that maps in parallel or does not.
    ///
    /// Whether memory may be touched is looked up, whatever the regions say of themselves.
    pub(crate) fn resolve(self, regions: &Regions, parallel: bool) -> Result<Self, PinFault> {
        let anonymous = || {
            regions.all_anonymous().map_err(|error| {
                Meaning::new(
                    FaultKind::BadAddress,
                    error.to_string(),
                    "map each region for its whole length, readable and writable, before it is pinned",
                )
                .refused("the look at the mappings", None)
            })
        };
        match self {
            Self::Auto if parallel => Ok(Self::Parallel),
            Self::Auto if anonymous()? => Ok(Self::Pipeline),
            Self::Auto => Ok(Self::PopulateThenMap),
            Self::Pipeline if !anonymous()? => Err(Meaning::new(
                FaultKind::BadAddress,
                "only anonymous memory can be touched from user mode: elsewhere a missing page is a SIGBUS",
                "use the strategy populate-then-map, or auto",
            )
            .refused("the choice of a strategy", None)),
            forced => Ok(forced),
        }
    }

    /// What it asks of a plan, once it is resolved.
    pub(crate) fn constraints(self) -> Constraints {
        match self {
            Self::Pipeline => Constraints {
                slice: Some(SLICE),
                sealing: Sealing::Following,
                ..Constraints::default()
            },
            Self::PopulateThenMap => Constraints {
                slice: Some(SLICE),
                sealing: Sealing::Last,
                ..Constraints::default()
            },
            Self::Serial => Constraints {
                max_threads: Some(NonZeroUsize::MIN),
                ..Constraints::default()
            },
            Self::Auto | Self::Parallel => Constraints::default(),
        }
    }
}
