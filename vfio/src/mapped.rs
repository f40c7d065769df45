// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Mapped`]: what one pin call has mapped for a device, by any [`Mapper`], and the steps of each [`Strategy`].
//!
//! ```text
//!               run(slice), all threads        run(chunk), all threads
//!  Pipeline         touch ┐                 Parallel      map ┐
//!  PopulateThenMap  madvise ┤               Serial        map ┤
//!                         ▼                                  │
//!               seal(chunk), caller: map ──► held[ordinal] ◄─┘──► undo, drop: unmap
//! ```

use std::{
    fmt,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use pinning::{Chunk, Plan, Work};

use crate::{
    Addressing, Hva, Iova, PinFault, Placed, Region, Regions, Session, Strategy,
    payoff::Payoff,
    populate::{POPULATE, populate_meaning},
};

/// A file descriptor that a target borrows or shares: `BorrowedFd`, `&File`, `Arc<OwnedFd>`, …
///
/// A guard that is kept in a structure wants one without a lifetime, such as an `Arc`.
pub trait SharedFd: AsFd + Clone + fmt::Debug + Send + Sync {}

impl<F: AsFd + Clone + fmt::Debug + Send + Sync> SharedFd for F {}

/// Maps memory for a device, and takes that back; any thread may call it.
pub trait Mapper: fmt::Debug + Send + Sync {
    /// Maps `placed`, a part of `region`, at its IOVA. After an error nothing of it is mapped or pinned.
    ///
    /// # Errors
    /// [`PinFault`] with the place.
    fn map(&self, region: &Region, placed: Placed) -> Result<(), PinFault>;

    /// Takes back what was mapped at `placed`, exactly. That nothing is there any more is no error: whoever owns the
    /// container may take back more than this library gave.
    ///
    /// # Errors
    /// [`PinFault`] with the place.
    fn unmap(&self, placed: Placed) -> Result<(), PinFault>;

    /// Whether the kernel unmaps disjoint ranges in parallel.
    fn unmaps_in_parallel(&self) -> bool;
}

/// Memory that is mapped for a device by one pin call.
#[derive(Debug)]
pub struct Mapped<M: Mapper> {
    mapper: M,
    regions: Regions,
    strategy: Strategy,
    payoff: Payoff,
    /// By the ordinal of a chunk.
    held: Box<[Held]>,
    kept: AtomicBool,
}

/// A chunk that is mapped: its size, 0 where none is, and the IOVA, which says something only with a size.
#[derive(Debug, Default)]
struct Held {
    iova: AtomicU64,
    size: AtomicU64,
}

impl Held {
    fn put(&self, placed: Placed) {
        // Relaxed: made visible by the store of the size.
        self.iova.store(placed.iova.0, Ordering::Relaxed);
        // Release: pairs with the swap in `take`, which another thread may run.
        self.size.store(placed.size, Ordering::Release);
    }

    /// The IOVA and size of what is held; for one of all callers.
    fn take(&self) -> Option<(u64, u64)> {
        // AcqRel: takes it from whoever mapped it, so that two threads cannot both unmap it.
        match self.size.swap(0, Ordering::AcqRel) {
            0 => None,
            size => Some((self.iova.load(Ordering::Relaxed), size)),
        }
    }
}

impl<M: Mapper> Mapped<M> {
    /// For a run of `plan`; with the payoff of populating looked at where nobody asked for a certain strategy.
    pub(crate) fn new(
        mapper: M,
        regions: &Regions,
        plan: &Plan,
        strategy: Strategy,
        look_at_payoff: bool,
    ) -> Self {
        Self {
            mapper,
            regions: regions.clone(),
            strategy,
            payoff: Payoff::new(plan.size(), plan.threads().get(), look_at_payoff),
            held: (0..plan.cells()).map(|_| Held::default()).collect(),
            kept: AtomicBool::new(false),
        }
    }

    fn map(&self, chunk: &Chunk) -> Result<(), PinFault> {
        let placed = self.regions.locate(chunk, Addressing::Iova);
        self.mapper.map(self.regions.get(placed.region), placed)?;
        self.held[chunk.ordinal()].put(placed);
        Ok(())
    }

    fn populate(&self, chunk: &Chunk) -> Result<(), PinFault> {
        let placed = self.regions.locate(chunk, Addressing::Iova);
        let region = self.regions.get(placed.region);
        if self.strategy == Strategy::Pipeline && !region.is_read_only() {
            region.touch(placed.offset, placed.size);
            return Ok(());
        }
        region
            .populate(placed.offset, placed.size)
            .map_err(|errno| {
                let kind = region.backing().map(|backing| backing.kind);
                populate_meaning(errno, kind).of(POPULATE, Some(placed.into()), errno.into())
            })
    }
}

impl<M: Mapper> Work for Mapped<M> {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        match self.strategy {
            Strategy::Pipeline | Strategy::PopulateThenMap => {
                self.payoff
                    .populate(worker, chunk.size(), || self.populate(&chunk))
            }
            Strategy::Auto | Strategy::Serial | Strategy::Parallel => self.map(&chunk),
        }
    }

    fn seal(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.map(&chunk)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        let held = &self.held[chunk.ordinal()];
        if held.take().is_none() {
            return Ok(());
        }
        let placed = self.regions.locate(&chunk, Addressing::Iova);
        self.mapper.unmap(placed).inspect_err(|_| held.put(placed))
    }
}

impl<M: Mapper> Session for Mapped<M> {
    fn strategy(&self) -> &'static str {
        if self.payoff.map_only() {
            return "serial (populating did not pay)";
        }
        self.strategy.name()
    }

    fn unpins_in_parallel(&self) -> bool {
        self.mapper.unmaps_in_parallel()
    }

    fn keep(self) {
        // Relaxed: read by the drop that follows on this thread.
        self.kept.store(true, Ordering::Relaxed);
    }
}

impl<M: Mapper> Drop for Mapped<M> {
    fn drop(&mut self) {
        if *self.kept.get_mut() {
            // The memory that this library mapped itself stays mapped, too: a device may still access it.
            std::mem::forget(self.regions.clone());
            return;
        }
        for held in &self.held {
            if let Some((iova, size)) = held.take() {
                // Nobody is left to be told: whoever wants to know unpins first.
                let _ = self.mapper.unmap(Placed {
                    region: 0,
                    iova: Iova(iova),
                    hva: Hva(0),
                    offset: 0,
                    size,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{FaultKind, fault::Meaning};

    /// Keeps what is mapped, and refuses to unmap what it is told to.
    #[derive(Debug, Default)]
    struct Table {
        mapped: Mutex<Vec<(u64, u64)>>,
        refuses: Option<u64>,
    }

    impl Mapper for &Table {
        fn map(&self, _region: &Region, placed: Placed) -> Result<(), PinFault> {
            self.mapped
                .lock()
                .unwrap()
                .push((placed.iova.0, placed.size));
            Ok(())
        }

        fn unmap(&self, placed: Placed) -> Result<(), PinFault> {
            if self.refuses == Some(placed.iova.0) {
                return Err(Meaning::new(FaultKind::Other, "refused", "").refused("unmap", None));
            }
            let mapping = (placed.iova.0, placed.size);
            self.mapped
                .lock()
                .unwrap()
                .retain(|other| *other != mapping);
            Ok(())
        }

        fn unmaps_in_parallel(&self) -> bool {
            true
        }
    }

    const GIB: u64 = 1 << 30;

    fn plan(regions: &Regions) -> Plan {
        let budget = pinning::Allowance {
            threads: std::num::NonZeroUsize::MIN,
            limited_by: "test",
        };
        let job = regions.job(Addressing::Iova).unwrap();
        Plan::new(&job, &Strategy::Serial.constraints(), &budget).unwrap()
    }

    fn mapped(table: &Table) -> (Mapped<&Table>, Vec<Chunk>) {
        let regions = Regions::new([Region::for_tests(GIB, GIB)]).unwrap();
        let plan = plan(&regions);
        let session = Mapped::new(table, &regions, &plan, Strategy::Serial, false);
        let finished = pinning::run(&plan, None, &session, pinning::Watch::default()).unwrap();
        (session, finished.chunks)
    }

    #[test]
    fn dropping_unmaps_exactly_what_is_held() {
        let table = Table::default();
        let (session, chunks) = mapped(&table);
        assert!(chunks.len() > 1);
        assert_eq!(table.mapped.lock().unwrap().len(), chunks.len());
        table.mapped.lock().unwrap().push((0, 0x1000));
        session.undo(chunks[0]).unwrap();
        session.undo(chunks[0]).unwrap();
        assert_eq!(table.mapped.lock().unwrap().len(), chunks.len());
        drop(session);
        assert_eq!(
            *table.mapped.lock().unwrap(),
            [(0, 0x1000)],
            "somebody else's"
        );
    }

    #[test]
    fn what_is_kept_stays() {
        let table = Table::default();
        let (session, chunks) = mapped(&table);
        session.keep();
        assert_eq!(table.mapped.lock().unwrap().len(), chunks.len());
    }

    #[test]
    fn what_could_not_be_unmapped_is_still_held() {
        let table = Table {
            refuses: Some(GIB),
            ..Table::default()
        };
        let (session, chunks) = mapped(&table);
        assert_eq!(session.undo(chunks[0]).unwrap_err().cause, "refused");
        assert!(session.undo(chunks[0]).is_err(), "asked again");
        assert!(session.undo(chunks[1]).is_ok());
    }
}
