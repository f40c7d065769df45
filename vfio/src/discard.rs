// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Discard`] gives the pages of regions back to the system: the reverse of populating.

use std::{io, num::NonZeroU64};

use nix::errno::Errno;
use pinning::{Chunk, Constraints, Plan, Work};

use crate::{
    Accounting, Addressing, FaultKind, PinFault, Regions, Session, Target, fault::Meaning,
};

const SLICE: NonZeroU64 = NonZeroU64::new(32 << 20).expect("not zero");

/// Drops the contents of regions and frees their pages.
///
/// | memory | how | reads afterwards as |
/// |---|---|---|
/// | private anonymous | `MADV_DONTNEED` | zero |
/// | shared, its file known ([`Region::with_file`](crate::Region::with_file)) | a hole in the file (fallocate(2)) | zero |
/// | shared, its file not known | `MADV_DONTNEED`: only this mapping lets go | what it was |
/// | private mapping of a file | `MADV_DONTNEED`, the file stays as it is | the file |
///
/// What kind of memory it is, is looked up, and not taken from what the regions say of themselves.
///
/// Never discard what is pinned: the device keeps the old page while the process gets a new one. Unpin first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discard;

impl Target for Discard {
    type Session = Discarding;

    fn name(&self) -> &'static str {
        "discard"
    }

    fn addressing(&self) -> Addressing {
        Addressing::Hva
    }

    fn constraints(&self, _regions: &Regions) -> Result<Constraints, PinFault> {
        Ok(Constraints {
            slice: Some(SLICE),
            ..Constraints::default()
        })
    }

    fn accounting(&self) -> Accounting {
        Accounting::Nothing
    }

    fn begin(&self, regions: &Regions, _plan: &Plan) -> Result<Discarding, PinFault> {
        let survey = regions.survey().map_err(|error| {
            Meaning::new(
                FaultKind::BadAddress,
                "part of a region is not mapped or not writable",
                "check that each region is mapped for its whole length",
            )
            .of("survey", None, io::Error::other(error))
        })?;
        Ok(Discarding {
            regions: regions.as_surveyed(&survey),
        })
    }
}

/// A run of [`Discard`].
#[derive(Debug)]
pub struct Discarding {
    regions: Regions,
}

impl Work for Discarding {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, _worker: usize) -> Result<(), PinFault> {
        let placed = self.regions.locate(&chunk, Addressing::Hva);
        let region = self.regions.get(placed.region);
        region.discard(placed.offset, placed.size).map_err(|errno| {
            meaning(errno).of(
                "madvise(MADV_DONTNEED) or fallocate(FALLOC_FL_PUNCH_HOLE)",
                Some(placed.into()),
                errno.into(),
            )
        })
    }

    fn undo(&self, _chunk: Chunk) -> Result<(), PinFault> {
        Ok(())
    }
}

impl Session for Discarding {
    fn strategy(&self) -> &'static str {
        "discard"
    }

    fn keep(self) {}
}

/// madvise(2) and fallocate(2), ERRORS.
fn meaning(errno: Errno) -> Meaning {
    match errno {
        Errno::ENOMEM => Meaning::new(
            FaultKind::BadAddress,
            "part of the range is not mapped",
            "check that the region is mapped for its whole length",
        ),
        Errno::EINVAL => Meaning::new(
            FaultKind::BadAddress,
            "the range is locked by mlock, or its huge pages cannot be discarded before Linux 5.18",
            "unlock it first",
        ),
        Errno::EPERM => Meaning::new(
            FaultKind::Permission,
            "the file is sealed against writing, or a filter refuses the call",
            "see F_ADD_SEALS in fcntl(2)",
        ),
        Errno::EOPNOTSUPP => Meaning::new(
            FaultKind::Other,
            "the file system cannot punch holes",
            "use memfd, tmpfs or hugetlbfs",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an error that the manual pages do not list",
            "see the kernel's log",
        ),
    }
}
