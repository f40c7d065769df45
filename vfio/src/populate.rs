// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Populate`] faults pages in, on all threads at once, and pins nothing.

use std::{io, num::NonZeroU64};

use nix::errno::Errno;
use pinning::{Chunk, Constraints, Plan, Work};

use crate::{
    Accounting, Addressing, BackingKind, FaultKind, PinFault, Regions, Session, Survey, Target,
    fault::Meaning,
};

/// Bytes after which another thread can take over: under a millisecond of zeroing, since a populate holds `mmap_lock`
/// all the time and a starved helper holds it a hundred times longer.
const SLICE: NonZeroU64 = NonZeroU64::new(2 << 20).expect("not zero");

/// The call, as errors name it.
pub(crate) const POPULATE: &str = "madvise(MADV_POPULATE_WRITE)";

/// Faults pages in for writing. Contents of pages that are there already stay as they are.
///
/// There is nothing to undo: populated pages are ordinary memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Populate {
    method: PopulateMethod,
}

/// How pages are faulted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PopulateMethod {
    /// `madvise(MADV_POPULATE_WRITE)`, Linux 5.14 and later, for any memory. Holds `mmap_lock` for reading while it
    /// works on a slice.
    Madvise,
    /// An atomic write of what is already there to each page, from user mode. With the per-VMA locks of Linux 6.4
    /// it does not touch `mmap_lock`. Anonymous memory only: elsewhere a page that cannot be had is a `SIGBUS`.
    Touch,
}

impl Populate {
    /// Populates by `method`.
    #[must_use]
    pub fn new(method: PopulateMethod) -> Self {
        Self { method }
    }
}

impl Default for Populate {
    fn default() -> Self {
        Self::new(PopulateMethod::Madvise)
    }
}

impl Target for Populate {
    type Session = Populating;

    fn name(&self) -> &'static str {
        "populate"
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

    fn begin(&self, regions: &Regions, _plan: &Plan) -> Result<Populating, PinFault> {
        if self.method == PopulateMethod::Touch {
            let meaning = Meaning::new(
                FaultKind::Other,
                "only anonymous memory can be touched from user mode: elsewhere a missing page is a SIGBUS",
                "populate with madvise",
            );
            let anonymous = |survey: Survey| {
                let mut found = survey.found().iter();
                found.all(|found| found.backing.kind == BackingKind::Anonymous)
            };
            // What is really mapped, whatever the regions say of themselves.
            match regions.survey().map(anonymous) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(meaning.of("touch", None, io::ErrorKind::Unsupported.into()));
                }
                Err(error) => return Err(meaning.of("survey", None, io::Error::other(error))),
            }
        }
        Ok(Populating {
            regions: regions.clone(),
            method: self.method,
        })
    }
}

/// A run of [`Populate`].
#[derive(Debug)]
pub struct Populating {
    regions: Regions,
    method: PopulateMethod,
}

impl Work for Populating {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, _worker: usize) -> Result<(), PinFault> {
        let placed = self.regions.locate(&chunk, Addressing::Hva);
        let region = self.regions.get(placed.region);
        match self.method {
            PopulateMethod::Madvise => {
                region
                    .populate(placed.offset, placed.size)
                    .map_err(|errno| {
                        let kind = region.backing().map(|backing| backing.kind);
                        populate_meaning(errno, kind).of(
                            POPULATE,
                            Some(placed.into()),
                            errno.into(),
                        )
                    })
            }
            PopulateMethod::Touch => {
                region.touch(placed.offset, placed.size);
                Ok(())
            }
        }
    }

    fn undo(&self, _chunk: Chunk) -> Result<(), PinFault> {
        Ok(())
    }
}

impl Session for Populating {
    fn strategy(&self) -> &'static str {
        match self.method {
            PopulateMethod::Madvise => "madvise",
            PopulateMethod::Touch => "touch",
        }
    }

    fn keep(self) {}
}

/// madvise(2), ERRORS, for `MADV_POPULATE_WRITE`.
pub(crate) fn populate_meaning(errno: Errno, kind: Option<BackingKind>) -> Meaning {
    let huge = kind == Some(BackingKind::Hugetlb);
    match errno {
        Errno::ENOMEM => Meaning::new(
            FaultKind::NoMemory,
            "part of the range is not mapped, or there is no memory left",
            "check that the region is mapped for its whole length, and free memory or make the guest smaller",
        ),
        Errno::EFAULT if huge => Meaning::new(
            FaultKind::Hugetlb,
            "the hugetlb pool has no free page (touching it would raise SIGBUS)",
            "raise nr_hugepages of this size, or the limit of the hugetlb cgroup",
        ),
        Errno::EFAULT => Meaning::new(
            FaultKind::BadAddress,
            "touching the page would raise SIGBUS or SIGSEGV: the file is shorter than its mapping, or its storage is full",
            "make the file as long as the region, and check the space of its tmpfs",
        ),
        Errno::EINVAL => Meaning::new(
            FaultKind::BadAddress,
            "the mapping is not writable, maps device memory or secret memory, or the kernel is older than 5.14",
            "map the region readable and writable from ordinary memory",
        ),
        Errno::EHWPOISON => Meaning::new(
            FaultKind::Other,
            "a page in the range has a hardware memory error",
            "take the memory out of use and replace the module",
        ),
        Errno::EINTR => Meaning::new(
            FaultKind::Other,
            "the process is being killed",
            "nothing: the kernel releases everything",
        ),
        Errno::EAGAIN => Meaning::new(
            FaultKind::NoMemory,
            "kernel resources are not available for the moment",
            "try again",
        ),
        Errno::EPERM | Errno::EACCES => Meaning::new(
            FaultKind::Permission,
            "a system call filter or security module refuses madvise",
            "allow madvise in the filter",
        ),
        Errno::ENOSYS => Meaning::new(
            FaultKind::Other,
            "the kernel was built without madvise (CONFIG_ADVISE_SYSCALLS)",
            "populate by touching, or use another kernel",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an error that madvise(2) does not list for populating",
            "see the kernel's log",
        ),
    }
}
