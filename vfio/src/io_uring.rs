// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`IoUring`] pins memory as registered buffers: the same long-term pins that VFIO takes, without any hardware.
//!
//! ```text
//!  worker 0 ──► ring 0: slot 0, slot 1, …          cell ordinal ──► (ring, slot)
//!  worker 1 ──► ring 1: slot 0, …                                       │
//!  undo of any chunk, from any thread ◄─────────────────────────────────┘
//! ```
//!
//! # Gotchas
//! - The kernel charges a whole huge page even where a part of it is registered, and again for each ring: chunks
//!   are cut at huge pages.
//! - Each registration walks the ring's older buffers (`headpage_already_acct()`), for root too. That grows with the
//!   square of the number of chunks in a ring; more rings make it cheaper. VFIO has no such cost, so that gains
//!   measured here against a single ring overstate what a device would see.

use std::{
    io,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
};

use pinning::{Chunk, Constraints, Plan, Work};

use crate::{
    Accounting, Addressing, BackingKind, FaultKind, PinFault, Placed, Regions, Session, Target,
    fault::Meaning,
    sys::ring::{MAX_BUFFER, MAX_SLOTS, Ring},
};

const REGISTER: &str = "io_uring_register(IORING_REGISTER_BUFFERS_UPDATE)";
const SETUP: &str = "io_uring_setup";

/// Pins through io_uring registered buffers (`FOLL_LONGTERM`, visible as `VmPin`).
///
/// One ring for each thread, at most 1 GiB a buffer, at most 16,384 chunks. Memory must be writable, and not be a
/// file on an ordinary file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoUring;

impl Target for IoUring {
    type Session = Registered;

    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn addressing(&self) -> Addressing {
        Addressing::Hva
    }

    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault> {
        if let Some(region) = regions.iter().find(|region| region.is_read_only()) {
            return Err(Meaning::new(
                FaultKind::BadAddress,
                "registered buffers are pinned for writing, and this region is read-only",
                "leave the region out, or pin it through VFIO",
            )
            .refused("the check of the regions", Some(region.into())));
        }
        Ok(Constraints {
            max_chunk: NonZeroU64::new(MAX_BUFFER),
            // Any ring may get all chunks of a job, if the other threads are starved.
            entries: Some(u64::from(MAX_SLOTS)),
            ..Constraints::default()
        })
    }

    fn accounting(&self) -> Accounting {
        Accounting::User
    }

    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Registered, PinFault> {
        let slots = u32::try_from(plan.cells())
            .unwrap_or(u32::MAX)
            .min(MAX_SLOTS);
        let rings = (0..plan.threads().get())
            .map(|_| Ring::new(slots))
            .collect::<io::Result<_>>()
            .map_err(|errno| setup_meaning(&errno).of(SETUP, None, errno))?;
        Ok(Registered {
            regions: regions.clone(),
            rings,
            held: (0..plan.cells())
                .map(|_| AtomicU64::new(NOT_HELD))
                .collect(),
        })
    }
}

/// Buffers that are registered by one pin call.
#[derive(Debug)]
pub struct Registered {
    /// Before `regions`, because fields are dropped in this order: memory of a `Mapping` is unpinned before it can be
    /// unmapped.
    rings: Vec<Ring>,
    regions: Regions,
    /// By the ordinal of a chunk: the ring and slot that hold it.
    held: Box<[AtomicU64]>,
}

const NOT_HELD: u64 = u64::MAX;

fn pack(ring: usize, slot: u32) -> u64 {
    ring as u64 * u64::from(MAX_SLOTS) + u64::from(slot)
}

fn unpack(holder: u64) -> (usize, u32) {
    let slots = u64::from(MAX_SLOTS);
    let ring = usize::try_from(holder / slots).unwrap_or(usize::MAX);
    (ring, u32::try_from(holder % slots).unwrap_or(u32::MAX))
}

impl Work for Registered {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        let placed = self.regions.locate(&chunk, Addressing::Hva);
        let region = self.regions.get(placed.region);
        match self.rings[worker].pin(region, placed.offset, placed.size) {
            Ok(slot) => {
                // Release: pairs with the swap in `undo`, which another thread may run, for a session that is shared
                // by other means than the engine's own join.
                self.held[chunk.ordinal()].store(pack(worker, slot), Ordering::Release);
                Ok(())
            }
            Err(errno) => {
                let kind = region.backing().map(|backing| backing.kind);
                Err(register_fault(placed, kind, errno))
            }
        }
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        let held = &self.held[chunk.ordinal()];
        // AcqRel: takes the slot from whoever pinned it, so that two threads cannot both release it.
        let holder = held.swap(NOT_HELD, Ordering::AcqRel);
        if holder == NOT_HELD {
            return Ok(());
        }
        let (ring, slot) = unpack(holder);
        self.rings[ring].unpin(slot).map_err(|errno| {
            held.store(holder, Ordering::Release);
            let placed = self.regions.locate(&chunk, Addressing::Hva);
            register_fault(placed, None, errno)
        })
    }
}

impl Session for Registered {
    fn strategy(&self) -> &'static str {
        "register"
    }

    fn keep(mut self) {
        for ring in self.rings.drain(..) {
            ring.keep();
        }
        // The memory that this library mapped itself stays mapped, too.
        std::mem::forget(self.regions);
    }
}

fn register_fault(placed: Placed, kind: Option<BackingKind>, errno: io::Error) -> PinFault {
    let meaning = match errno.raw_os_error() {
        Some(libc::ENOMEM) => Meaning::new(
            FaultKind::NoMemory,
            "the user's locked memory would exceed RLIMIT_MEMLOCK, or there is no memory left",
            "raise the limit (ulimit -l, LimitMEMLOCK=, prlimit --memlock) or give the process CAP_IPC_LOCK",
        ),
        Some(libc::EFAULT) if kind == Some(BackingKind::Hugetlb) => Meaning::new(
            FaultKind::Hugetlb,
            "not all pages could be pinned: the hugetlb pool has no free page, or the mapping ended",
            "raise nr_hugepages of this size, or the limit of the hugetlb cgroup",
        ),
        Some(libc::EFAULT) => Meaning::new(
            FaultKind::BadAddress,
            "not all pages could be pinned: part of the range is not mapped or not writable, is a file on an ordinary \
             file system, or memory ran out (the kernel gives one error for all of these)",
            "map the region writable from anonymous memory, memfd or hugetlbfs, and check the free memory",
        ),
        Some(libc::ENOSPC) => Meaning::new(
            FaultKind::Entries,
            "the ring's buffer table is full",
            "use larger chunks",
        ),
        Some(libc::EPERM | libc::EACCES) => Meaning::new(
            FaultKind::Permission,
            "a system call filter or security module refuses io_uring_register",
            "allow io_uring_register in the filter",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an error that nothing here should lead to",
            "see the kernel's log",
        ),
    };
    meaning.of(REGISTER, Some(placed.into()), errno)
}

/// io_uring_setup(2), ERRORS.
fn setup_meaning(errno: &io::Error) -> Meaning {
    match errno.raw_os_error() {
        Some(libc::ENOSYS) => Meaning::new(
            FaultKind::Permission,
            "the kernel has no io_uring, or a container runtime's filter hides it",
            "use --target populate, or allow io_uring in the seccomp profile",
        ),
        Some(libc::EPERM | libc::EACCES) => Meaning::new(
            FaultKind::Permission,
            "io_uring is switched off for this process",
            "set kernel.io_uring_disabled to 0, or to 1 and join kernel.io_uring_group",
        ),
        Some(libc::EMFILE | libc::ENFILE) => Meaning::new(
            FaultKind::Other,
            "no file descriptor is left for a ring (one for each thread)",
            "raise ulimit -n, or use fewer threads",
        ),
        Some(libc::ENOMEM) => Meaning::new(
            FaultKind::NoMemory,
            "no memory for a ring, or RLIMIT_MEMLOCK is too small for one (before Linux 5.12)",
            "raise the limit (ulimit -l), or use fewer threads",
        ),
        Some(libc::EINVAL) => Meaning::new(
            FaultKind::Other,
            "the kernel has no sparse buffer tables (older than 5.19)",
            "use a kernel of 5.19 or later",
        ),
        _ => Meaning::new(
            FaultKind::Other,
            "an error that io_uring_setup(2) does not list",
            "see the kernel's log",
        ),
    }
}
