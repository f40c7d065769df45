// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measuring, for `parapin bench` and for parapin's own benches: two sides in turns, their median and spread, a table, a
//! JSON object and a page. Not for others: it changes without notice.
//!
//! ```text
//!  full ──► warm-up, n rounds ─┐   round 0: value, baseline
//!  test ──► one tiny round ────┴─► round 1: baseline, value ──► Measured ──► line of the table
//!                                  round 2: …                          └───► Report ──► JSON, page
//! ```
//!
//! Why this and not criterion: it measures one side to its end before it begins with the other, so that a machine
//! that grows slower meanwhile (a neighbour, a host that takes memory back) flatters one of them; here each pair is
//! measured within seconds, and who goes first alternates. And its minimum compiler is newer than ours.
//!
//! | column | meaning |
//! |---|---|
//! | `baseline`, `value` | medians, in `unit` |
//! | `ratio` | median over the pairs, as the row's [`Compare`] has it: more than 1 is faster for a speed-up, dearer for a cost |
//! | `spread` | interquartile range / median, of the ratios, or of the values where there is no baseline |
//! | `n` | pairs |
//! | `target` | what the ratio has to be, at least or at most; with a unit, what the value has to be |
//! | `verdict` | `ok` or `fail` by the median; `skipped` where the machine does not allow it |
//!
//! The interquartile range and not the full one: on a virtual machine one round in ten is hit by something else, and
//! that shall neither move the result nor hide it.

mod machine;
mod measured;
mod page;
mod pairs;
mod report;
mod row;

pub use machine::{Machine, Usage};
pub use measured::{Measured, heading};
pub use pairs::Pairs;
pub use report::Report;
pub use row::{Compare, Outcome, Row, Side, Skipped};

/// How thoroughly to measure, and what came out so far.
#[derive(Debug)]
pub struct Bench {
    full: bool,
    filter: Option<String>,
    rounds: usize,
    before: Usage,
    rows: Vec<Measured>,
}

impl Bench {
    /// Pairs of a full run, if nobody says otherwise.
    pub const ROUNDS: usize = 11;

    /// A run of so many pairs a row.
    #[must_use]
    pub fn full(rounds: usize) -> Self {
        Self {
            full: true,
            filter: None,
            rounds: rounds.max(1),
            before: Usage::now(),
            rows: Vec::new(),
        }
    }

    /// Everything once, with tiny sizes and without verdicts: it shows that everything works, and nothing else.
    #[must_use]
    pub fn test() -> Self {
        Self {
            full: false,
            ..Self::full(1)
        }
    }

    /// Only rows whose names contain this.
    #[must_use]
    pub fn filter(mut self, part: Option<String>) -> Self {
        self.filter = part;
        self
    }

    /// Whether this is a full run.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// `full` for a full run, `test` for one that only shows that everything works.
    pub fn size<T>(&self, full: T, test: T) -> T {
        if self.full { full } else { test }
    }

    /// Measures `value`, and `baseline` in turns with it; `value` goes first in the first round. None if the row was not
    /// selected.
    pub fn measure(
        &mut self,
        row: Row,
        baseline: Option<Side<'_>>,
        value: Side<'_>,
    ) -> Option<&Measured> {
        let is_selected = |part: &String| row.name.contains(part.as_str());
        if !self.filter.as_ref().is_none_or(is_selected) {
            return None;
        }
        let warm_up = usize::from(self.full);
        let pairs = pairs::take_turns(warm_up, self.rounds, baseline, value);
        self.rows.push(Measured::new(row, pairs, self.full));
        self.rows.last()
    }

    /// Everything that came out, with the machine that it belongs to.
    #[must_use]
    pub fn finish(self) -> Report {
        Report {
            machine: Machine::this(&self.before),
            rows: self.rows,
            notes: Vec::new(),
        }
    }
}
