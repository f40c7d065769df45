// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Memory`]: what is scanned, and which of its pages are zero.
//!
//! ```text
//!  50 percent: │ data │ zero │ data │ zero │ …     every word of a data page holds a random byte
//! ```

use std::{io, sync::Arc, thread};

use cgroup::CpuBudget;
use migration::{Backed, Mapping, RamBlock};
use parapin::bench::Skipped;

/// Bytes of a page that is asked about.
pub(super) const PAGE: u64 = 4096;

/// Touched memory, of which that share of pages is zero, evenly spread.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) mapping: Arc<Mapping>,
    pub(super) block: RamBlock,
    zero_percent: u64,
}

impl Memory {
    pub(super) fn new(backed: Backed, bytes: u64, zero_percent: u8) -> Result<Self, Skipped> {
        let mapping = Mapping::new(bytes, backed)?;
        let memory = Self {
            block: RamBlock::new(mapping.source()?),
            mapping,
            zero_percent: u64::from(zero_percent),
        };
        let threads = CpuBudget::current().threads().get();
        let filled = &memory;
        thread::scope(|scope| {
            let fillers: Vec<_> = (0..threads)
                .map(|part| scope.spawn(move || filled.fill(part, threads)))
                .collect();
            fillers.into_iter().try_for_each(|filler| {
                let panicked = |_| io::Error::other("a thread that fills memory panicked");
                filler.join().map_err(panicked)?
            })
        })?;
        Ok(memory)
    }

    /// Touches a part, and writes its data.
    fn fill(&self, part: usize, of: usize) -> io::Result<()> {
        let (first, end) = self.part(part, of);
        if first == end {
            return Ok(());
        }
        let (start, size) = (first * PAGE, (end - first) * PAGE);
        if self.mapping.populate(start, size).is_err() {
            // A kernel that cannot be asked (before Linux 5.14): zeroes are a touch, too.
            self.mapping.fill(start, size, 0);
        }
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ first;
        for page in (first..end).filter(|page| !self.is_zero(*page)) {
            for word in (page * PAGE..(page + 1) * PAGE).step_by(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let [byte, place, ..] = state.to_le_bytes();
                self.mapping.store(word + u64::from(place % 8), byte.max(1));
            }
        }
        Ok(())
    }

    pub(super) fn pages(&self) -> u64 {
        self.block.len() / PAGE
    }

    pub(super) fn is_zero(&self, page: u64) -> bool {
        self.zeros_before(page + 1) > self.zeros_before(page)
    }

    /// Zero pages among the first ones.
    pub(super) fn zeros_before(&self, page: u64) -> u64 {
        page * self.zero_percent / 100
    }

    /// First and end of one of so many parts, in pages.
    pub(super) fn part(&self, part: usize, of: usize) -> (u64, u64) {
        let border = |part: usize| self.pages() * part as u64 / of.max(1) as u64;
        (border(part), border(part + 1))
    }

    /// Where the pages of a part begin.
    pub(super) fn offsets(&self, part: usize, of: usize) -> Vec<u64> {
        let (first, end) = self.part(part, of);
        (first..end).map(|page| page * PAGE).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_that_share_is_zero_and_parts_cover_everything() {
        for percent in [0, 1, 50, 99, 100] {
            let memory = Memory::new(Backed::Small, 300 * PAGE, percent).unwrap();
            let is_zero = |page: u64| {
                let bytes = page * PAGE..(page + 1) * PAGE;
                bytes.clone().all(|at| memory.mapping.load(at) == Some(0))
            };
            for page in 0..300 {
                assert_eq!(is_zero(page), memory.is_zero(page), "{page} at {percent}");
            }
            assert_eq!(memory.zeros_before(300), 3 * u64::from(percent));
            let covered: Vec<u64> = (0..7).flat_map(|part| memory.offsets(part, 7)).collect();
            assert_eq!(covered, memory.offsets(0, 1));
        }
    }
}
