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
//! division and no table. Ranges of one memory node lie side by side, so that each node's cells are an interval, too.

use crate::{Chunk, Range, place::Places};

/// The cuts of one range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    /// Which range of the job it is.
    range: usize,
    start: u64,
    end: u64,
    /// Where the first cell would begin if the range did not cut it short: a multiple of `slice`, and of `cell` where
    /// there are several.
    origin: u64,
    /// Size of a cell; all but the first and last of a span have it.
    cell: u64,
    /// Size of a slice, at most `cell`.
    slice: u64,
    /// Most bytes of a chunk, at least `cell`.
    chunk: u64,
    slices_per_cell: u32,
    first_cell: u32,
    first_slice: u32,
}

impl Span {
    /// The bytes between two addresses that lie inside the span.
    fn clip(&self, start: u64, end: u64) -> (u64, u64) {
        (start.max(self.start), end.min(self.end))
    }

    /// Where the cell with this number of the span begins.
    fn cell_start(&self, cell: u32) -> u64 {
        u64::from(cell - self.first_cell)
            .saturating_mul(self.cell)
            .saturating_add(self.origin)
    }

    /// Addresses of `count` cells.
    fn cells(&self, from: u32, count: u32) -> (u64, u64) {
        self.clip(self.cell_start(from), self.cell_start(from + count))
    }
}

/// Sizes that a layout is cut by; each is raised to the alignment of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// The smallest chunk.
    pub(crate) cell: u64,
    /// The largest chunk.
    pub(crate) chunk: u64,
    /// The pieces that a chunk is done in, where it can be divided.
    pub(crate) slice: Option<u64>,
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
    /// Where the cells of each group of ranges end.
    groups: Box<[u32]>,
    cells: u32,
    slices: u32,
    size: u64,
    sliced: bool,
}

impl Layout {
    /// Cuts `ranges` at absolute multiples of the cell, and these into slices; ranges of one group come together.
    ///
    /// `None` where cells or slices are more than 2³² − 1.
    pub(crate) fn new(ranges: &[Range], places: &Places, cuts: Cuts) -> Option<Self> {
        let mut layout = Self {
            spans: Box::default(),
            groups: Box::default(),
            cells: 0,
            slices: 0,
            size: 0,
            sliced: cuts.slice.is_some(),
        };
        let mut spans = Vec::with_capacity(ranges.len());
        let mut groups = vec![0; places.groups()];
        let mut order: Vec<usize> = (0..ranges.len()).collect();
        order.sort_by_key(|&range| places.group_of(ranges[range].node()));
        for index in order {
            let range = &ranges[index];
            let span = layout.span((index, range), cuts)?;
            let cells = u32::try_from((range.end() - 1 - span.origin) / span.cell + 1).ok()?;
            layout.cells = layout.cells.checked_add(cells)?;
            layout.slices = cells
                .checked_mul(span.slices_per_cell)
                .and_then(|slices| layout.slices.checked_add(slices))?;
            layout.size += range.size();
            spans.push(span);
            groups[places.group_of(range.node())] = layout.cells;
        }
        layout.groups = groups.into();
        layout.spans = spans.into();
        Some(layout)
    }

    /// The span that follows those which the layout has already.
    fn span(&self, (index, range): (usize, &Range), cuts: Cuts) -> Option<Span> {
        let align = range.align();
        let cell = round_up(cuts.cell, align);
        let slice = cuts
            .slice
            .map_or(cell, |slice| round_up(slice, align).min(cell));
        let (cell, slice, origin) = if cells_of(range, cell) == 1 {
            // A cell that is larger than its range would have mostly empty slices, and claim to be a larger piece of
            // work than it is.
            let slice = if cuts.slice.is_some() { slice } else { align };
            let origin = range.start() / slice * slice;
            let cell = round_up(range.end() - origin, slice);
            (
                cell,
                if cuts.slice.is_some() { slice } else { cell },
                origin,
            )
        } else {
            (cell, slice, range.start() / cell * cell)
        };
        Some(Span {
            range: index,
            start: range.start(),
            end: range.end(),
            origin,
            cell,
            slice,
            chunk: round_up(cuts.chunk, align).max(cell),
            slices_per_cell: u32::try_from(cell.div_ceil(slice)).ok()?,
            first_cell: self.cells,
            first_slice: self.slices,
        })
    }

    pub(crate) fn cells(&self) -> u32 {
        self.cells
    }

    /// The cells of each group of ranges, which hold each other's ends.
    pub(crate) fn groups(&self) -> impl Iterator<Item = std::ops::Range<u32>> + '_ {
        let starts = std::iter::once(0).chain(self.groups.iter().copied());
        starts.zip(&*self.groups).map(|(start, &end)| start..end)
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

    /// The largest number of bytes that cannot be divided or taken over.
    pub(crate) fn step(&self) -> u64 {
        self.spans.iter().map(|span| span.slice).max().unwrap_or(0)
    }

    fn span_of_cell(&self, cell: u32) -> usize {
        self.spans.partition_point(|span| span.first_cell <= cell) - 1
    }

    /// How many cells, from `cell` on, a chunk of `bytes` may have without leaving the range or exceeding what a chunk
    /// of this range may have; at least one.
    pub(crate) fn fit(&self, cell: u32, bytes: u64) -> u32 {
        let index = self.span_of_cell(cell);
        let next = self
            .spans
            .get(index + 1)
            .map_or(self.cells, |span| span.first_cell);
        let span = &self.spans[index];
        let wanted = bytes.min(span.chunk) / span.cell;
        u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .clamp(1, next - cell)
    }

    /// The chunk of `count` cells from `cell` on, which must lie in one range.
    pub(crate) fn chunk(&self, cell: u32, count: u32) -> Chunk {
        let index = self.span_of_cell(cell);
        let span = &self.spans[index];
        let (start, end) = span.cells(cell, count);
        Chunk::new(span.range, start, end, cell)
    }

    /// Number of the first slice of `cell`; `cells()` gives the number of all slices.
    pub(crate) fn first_slice(&self, cell: u32) -> u32 {
        if cell >= self.cells {
            return self.slices;
        }
        let span = &self.spans[self.span_of_cell(cell)];
        span.first_slice + (cell - span.first_cell) * span.slices_per_cell
    }

    /// The cell that a slice belongs to.
    pub(crate) fn cell_of_slice(&self, slice: u32) -> u32 {
        let index = self.spans.partition_point(|span| span.first_slice <= slice) - 1;
        let span = &self.spans[index];
        span.first_cell + (slice - span.first_slice) / span.slices_per_cell
    }

    /// The slice with this number, unless it is empty.
    pub(crate) fn slice(&self, slice: u32) -> Option<Chunk> {
        let index = self.spans.partition_point(|span| span.first_slice <= slice) - 1;
        let span = &self.spans[index];
        let local = slice - span.first_slice;
        let cell = local / span.slices_per_cell;
        let cell_start = span.cell_start(span.first_cell + cell);
        let offset = u64::from(local % span.slices_per_cell) * span.slice;
        let start = cell_start.saturating_add(offset);
        let end = start
            .saturating_add(span.slice)
            .min(cell_start.saturating_add(span.cell));
        let (start, end) = span.clip(start, end);
        (start < end).then(|| Chunk::new(span.range, start, end, span.first_cell + cell))
    }
}
