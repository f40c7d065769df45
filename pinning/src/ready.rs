// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which chunks are [`Ready`] for their second step: all of their slices are run.
//!
//! ```text
//!  any worker: slice done ──► remaining[cell] - 1 ──► 0: publish(cell) ──► calling thread: next() ──► seal
//! ```

use crate::{
    bits::Bits,
    layout::Layout,
    sync::{AtomicU32, Ordering},
};

/// Cells whose slices are all done, published by whoever does the last one, taken by the calling thread alone.
#[derive(Debug)]
pub(crate) struct Ready<'p> {
    layout: &'p Layout,
    /// Slices of each cell that are not done.
    remaining: Box<[AtomicU32]>,
    complete: Bits,
}

impl<'p> Ready<'p> {
    pub(crate) fn new(layout: &'p Layout) -> Self {
        let slices = |cell| layout.first_slice(cell + 1) - layout.first_slice(cell);
        Self {
            layout,
            remaining: (0..layout.cells())
                .map(|cell| AtomicU32::new(slices(cell)))
                .collect(),
            complete: Bits::new(layout.cells()),
        }
    }

    /// Notes that the slices from `from` to before `to` are done, empty ones included. Returns whether a cell is
    /// complete with that.
    pub(crate) fn done(&self, (from, to): (u32, u32)) -> bool {
        let mut completes = false;
        for slice in from..to {
            let cell = self.layout.cell_of_slice(slice);
            // AcqRel: the last of a cell's workers sees what the others did (their releases pair with its acquire),
            // and hands all of it on by `publish`.
            if self.remaining[cell as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                self.complete.publish(cell);
                completes = true;
            }
        }
        completes
    }

    /// The lowest complete cell that is not in `sealed`, from `from` on.
    pub(crate) fn next(&self, sealed: &Bits, from: u32) -> Option<u32> {
        self.complete.lowest_beyond(sealed, from)
    }
}
