// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Several sides that are measured in turns, out of which several rows are made.
//!
//! ```text
//!  round 0 (dropped)  a b c      round 1  b c a      round 2  c a b      each side once a round
//!                       └── row 1: a against c; row 2: b against c; …    measured when the first row asks
//! ```

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use parapin::bench::{Outcome, Row, Skipped};

use crate::{harness::Bench, job::Sample};

/// What each side gave in one round.
pub(crate) type Round<S> = BTreeMap<S, Sample>;

/// A number that is made of a round.
pub(crate) type Number<'n, S> = &'n dyn Fn(&Round<S>) -> f64;

/// Sides, and what they gave so far.
pub(crate) struct Rounds<'r, S> {
    sides: &'r [S],
    measure: &'r dyn Fn(S) -> Result<Sample, Skipped>,
    rounds: RefCell<Vec<Result<Round<S>, Skipped>>>,
}

impl<S: Copy + Ord> Rounds<'_, S> {
    /// A row out of these rounds.
    pub(crate) fn row(
        &self,
        bench: &mut Bench,
        row: Row,
        baseline: Option<Number<'_, S>>,
        value: Number<'_, S>,
    ) {
        let mut value = self.replay(value);
        let mut baseline = baseline.map(|number| self.replay(number));
        let baseline = baseline.as_mut().map(|side| side as _);
        bench.measure(row, baseline, &mut value);
    }

    /// What was found in the samples of `side`, in ascending order.
    pub(crate) fn seen(&self, side: S, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let rounds = self.rounds.borrow();
        let samples = rounds.iter().flatten().filter_map(|round| round.get(&side));
        let mut seen: Vec<f64> = samples.map(of).collect();
        seen.sort_by(f64::total_cmp);
        seen
    }

    /// The priorities that the jobs of `side` reported, each once.
    pub(crate) fn priorities(&self, side: S) -> String {
        let rounds = self.rounds.borrow();
        let samples = rounds.iter().flatten().filter_map(|round| round.get(&side));
        let names: BTreeSet<&str> = samples
            .filter_map(|sample| sample.priority.as_deref())
            .collect();
        Vec::from_iter(names).join(", ")
    }

    /// One round after the other.
    fn replay(&self, number: Number<'_, S>) -> impl FnMut() -> Outcome {
        let mut round = 0..;
        move || self.with(round.next().unwrap_or(0), number)
    }

    /// The first who asks for a round has all sides measured.
    fn with(&self, round: usize, number: Number<'_, S>) -> Outcome {
        let mut rounds = self.rounds.borrow_mut();
        while rounds.len() <= round {
            let turns = self
                .sides
                .iter()
                .cycle()
                .skip(rounds.len() % self.sides.len());
            let turns = turns.take(self.sides.len());
            rounds.push(
                turns
                    .map(|&side| Ok((side, (self.measure)(side)?)))
                    .collect(),
            );
        }
        rounds[round].as_ref().map(number).map_err(Clone::clone)
    }
}

impl<'r, S> Rounds<'r, S> {
    pub(crate) fn new(sides: &'r [S], measure: &'r dyn Fn(S) -> Result<Sample, Skipped>) -> Self {
        Self {
            sides,
            measure,
            rounds: RefCell::default(),
        }
    }
}
