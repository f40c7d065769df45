// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Ledger`] knows what was handed out and what of it is done, so that exactly that can be kept or undone.

use crate::{
    Chunk, Sealing,
    bits::Bits,
    layout::Layout,
    sync::{AtomicU32, Ordering},
};

/// Borders of the chunks that were handed out, and the slices that are done.
///
/// All of it is allocated before the job starts. Workers only write; it is read after they were joined, and that join
/// is what every relaxed store here pairs with.
#[derive(Debug)]
pub(crate) struct Ledger<'p> {
    layout: &'p Layout,
    /// At a chunk's first cell, how many cells it has; 0 elsewhere.
    chunks: Box<[AtomicU32]>,
    done: Bits,
    /// Where chunks are sealed: those that are, by their cell.
    pub(crate) sealed: Option<Bits>,
}

impl<'p> Ledger<'p> {
    pub(crate) fn new(layout: &'p Layout, sealing: Sealing) -> Self {
        Self {
            sealed: (sealing != Sealing::None).then(|| Bits::new(layout.cells())),
            layout,
            chunks: (0..layout.cells()).map(|_| AtomicU32::new(0)).collect(),
            done: Bits::new(layout.slices()),
        }
    }

    /// Notes a chunk of `count` cells at `cell`. Called once for a chunk, by the worker that drew it.
    pub(crate) fn handed_out(&self, cell: u32, count: u32) {
        // Relaxed: read after the join, see above.
        self.chunks[cell as usize].store(count, Ordering::Relaxed);
    }

    /// Notes that the slices from `from` to before `to` are done.
    pub(crate) fn done(&self, (from, to): (u32, u32)) {
        for slice in from..to {
            self.done.insert(slice);
        }
    }

    /// The chunks that are completely done, in the order of the plan.
    pub(crate) fn completed(&self) -> impl DoubleEndedIterator<Item = Chunk> + '_ {
        self.handed()
            .filter(|&(cell, count)| self.is_whole(cell, count))
            .map(|(cell, count)| self.layout.chunk(cell, count))
    }

    fn is_whole(&self, cell: u32, count: u32) -> bool {
        let (from, to) = self.slices(cell, count);
        match &self.sealed {
            Some(sealed) => (cell..cell + count).all(|cell| sealed.contains(cell)),
            None => (from..to).all(|slice| self.done.contains(slice)),
        }
    }

    /// What has to be undone: completed chunks, and the runs of completed slices in the others, unless only sealed
    /// chunks leave something behind; last first.
    pub(crate) fn to_undo(&self) -> impl Iterator<Item = Undoable> + '_ {
        self.handed().rev().flat_map(|(cell, count)| {
            let (from, to) = self.slices(cell, count);
            let whole = self.is_whole(cell, count);
            let runs = if whole || self.sealed.is_some() {
                None
            } else {
                Some(self.runs_backwards(from, to))
            };
            whole
                .then(|| Undoable::Whole(self.layout.chunk(cell, count)))
                .into_iter()
                .chain(runs.into_iter().flatten())
        })
    }

    fn handed(&self) -> impl DoubleEndedIterator<Item = (u32, u32)> + '_ {
        (0..self.layout.cells())
            // Relaxed: all workers were joined.
            .map(|cell| (cell, self.chunks[cell as usize].load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
    }

    fn slices(&self, cell: u32, count: u32) -> (u32, u32) {
        (
            self.layout.first_slice(cell),
            self.layout.first_slice(cell + count),
        )
    }

    /// Maximal runs of done slices in `[from, to)`, highest first.
    fn runs_backwards(&self, from: u32, to: u32) -> impl Iterator<Item = Undoable> + '_ {
        let mut below = to;
        std::iter::from_fn(move || {
            let last = (from..below)
                .rev()
                .find(|&slice| self.done_and_real(slice))?;
            let first = (from..last)
                .rev()
                .take_while(|&slice| self.done_and_real(slice))
                .last()
                .unwrap_or(last);
            below = first;
            let (first, last) = (self.layout.slice(first)?, self.layout.slice(last)?);
            Some(Undoable::Part(Chunk::new(
                first.range(),
                first.start(),
                last.end(),
                u32::try_from(first.ordinal()).unwrap_or(u32::MAX),
            )))
        })
    }

    fn done_and_real(&self, slice: u32) -> bool {
        self.done.contains(slice) && self.layout.slice(slice).is_some()
    }
}

/// One call of [`Work::undo`](crate::Work::undo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undoable {
    /// A completed chunk.
    Whole(Chunk),
    /// Completed slices of a chunk that was not completed.
    Part(Chunk),
}
