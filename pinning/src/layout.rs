// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where a plan cuts its ranges: the arithmetic between addresses, cut cells and slices.
//!
//! ```text
//!  range 0                                 range 1
//!  |--.-----------.-----------.----|       |-----------.---|
//!   0       1           2       3              4         5      cells, cut at absolute multiples of `cell`
//!   01  2 3 4 5   6 7 8 9   ...                                 slices, the same number in every cell of a range
//! ```
//!
//! A slice of a short cell at the border of a range may be empty; it keeps its number, so that all of this is
//! division and no table.

use crate::{Chunk, Range};

/// The cuts of one range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    start: u64,
    end: u64,
    /// Size of a cell; all but the first and last of a span have it.
    cell: u64,
    /// Size of a slice, at most `cell`.
    slice: u64,
    slices_per_cell: u32,
    first_cell: u32,
    first_slice: u32,
}

impl Span {
    /// Number of the cell that holds `start`, counted from address 0.
    fn absolute(&self) -> u64 {
        self.start / self.cell
    }

    /// The bytes between two absolute cell borders that lie inside the span.
    fn clip(&self, start: u64, end: u64) -> (u64, u64) {
        (start.max(self.start), end.min(self.end))
    }

    /// Addresses of the cells `[from, from + count)` of this span.
    fn cells(&self, from: u32, count: u32) -> (u64, u64) {
        let first = self.absolute() + u64::from(from - self.first_cell);
        self.clip(
            first.saturating_mul(self.cell),
            (first + u64::from(count)).saturating_mul(self.cell),
        )
    }
}

/// How many cells a range has when cut at multiples of `cell`.
pub(crate) fn cells_of(range: &Range, cell: u64) -> u64 {
    (range.end() - 1) / cell - range.start() / cell + 1
}

/// `value` rounded up to a multiple of `to`, or the largest multiple where that overflows.
pub(crate) fn round_up(value: u64, to: u64) -> u64 {
    value
        .checked_next_multiple_of(to)
        .unwrap_or(u64::MAX / to * to)
}

/// All spans of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    spans: Box<[Span]>,
    cells: u32,
    slices: u32,
    size: u64,
    sliced: bool,
}

impl Layout {
    /// Cuts `ranges` at multiples of `cell`, and these into slices; both are raised to each range's alignment.
    ///
    /// `None` where cells or slices are more than 2³² − 1.
    pub(crate) fn new(ranges: &[Range], cell: u64, slice: Option<u64>) -> Option<Self> {
        let mut layout = Self {
            spans: Box::default(),
            cells: 0,
            slices: 0,
            size: 0,
            sliced: slice.is_some(),
        };
        let mut spans = Vec::with_capacity(ranges.len());
        for range in ranges {
            let cell = round_up(cell, range.align());
            let slice = slice.map_or(cell, |slice| round_up(slice, range.align()).min(cell));
            let slices_per_cell = u32::try_from(cell.div_ceil(slice)).ok()?;
            let cells = u32::try_from(cells_of(range, cell)).ok()?;
            spans.push(Span {
                start: range.start(),
                end: range.end(),
                cell,
                slice,
                slices_per_cell,
                first_cell: layout.cells,
                first_slice: layout.slices,
            });
            layout.cells = layout.cells.checked_add(cells)?;
            layout.slices = cells
                .checked_mul(slices_per_cell)
                .and_then(|slices| layout.slices.checked_add(slices))?;
            layout.size += range.size();
        }
        layout.spans = spans.into();
        Some(layout)
    }

    pub(crate) fn cells(&self) -> u32 {
        self.cells
    }

    pub(crate) fn slices(&self) -> u32 {
        self.slices
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether chunks are done slice by slice.
    pub(crate) fn sliced(&self) -> bool {
        self.sliced
    }

    /// The largest number of bytes that a single `run` may be given when one cell is drawn.
    pub(crate) fn step(&self) -> u64 {
        self.spans.iter().map(|span| span.slice).max().unwrap_or(0)
    }

    /// The largest cell.
    pub(crate) fn largest_cell(&self) -> u64 {
        self.spans.iter().map(|span| span.cell).max().unwrap_or(0)
    }

    fn span_of_cell(&self, cell: u32) -> usize {
        self.spans.partition_point(|span| span.first_cell <= cell) - 1
    }

    /// How many cells, from `cell` on, a chunk of `bytes` may have without leaving the range; at least one.
    pub(crate) fn fit(&self, cell: u32, bytes: u64) -> u32 {
        let index = self.span_of_cell(cell);
        let next = self
            .spans
            .get(index + 1)
            .map_or(self.cells, |span| span.first_cell);
        let wanted = bytes / self.spans[index].cell;
        u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .clamp(1, next - cell)
    }

    /// The chunk of `count` cells from `cell` on, which must lie in one range.
    pub(crate) fn chunk(&self, cell: u32, count: u32) -> Chunk {
        let index = self.span_of_cell(cell);
        let (start, end) = self.spans[index].cells(cell, count);
        Chunk::new(index, start, end, cell)
    }

    /// Number of the first slice of `cell`; `cells()` gives the number of all slices.
    pub(crate) fn first_slice(&self, cell: u32) -> u32 {
        if cell >= self.cells {
            return self.slices;
        }
        let span = &self.spans[self.span_of_cell(cell)];
        span.first_slice + (cell - span.first_cell) * span.slices_per_cell
    }

    /// The slice with this number, unless it is empty.
    pub(crate) fn slice(&self, slice: u32) -> Option<Chunk> {
        let index = self.spans.partition_point(|span| span.first_slice <= slice) - 1;
        let span = &self.spans[index];
        let local = slice - span.first_slice;
        let cell = local / span.slices_per_cell;
        let cell_start = (span.absolute() + u64::from(cell)).saturating_mul(span.cell);
        let offset = u64::from(local % span.slices_per_cell) * span.slice;
        let start = cell_start.saturating_add(offset);
        let end = start
            .saturating_add(span.slice)
            .min(cell_start.saturating_add(span.cell));
        let (start, end) = span.clip(start, end);
        (start < end).then(|| Chunk::new(index, start, end, span.first_cell + cell))
    }
}
