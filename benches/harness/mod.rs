// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the benches share: two sides measured in turns, their median and spread, a table and a JSON file.
//!
//! ```text
//!  --bench ─► warm-up, n rounds ─┐   round 0: value, baseline
//!  --test ──► one tiny round ────┴─► round 1: baseline, value ──► Pairs ──► line of the table
//!                                    round 2: …                       └───► parapin-bench/NAME.json
//! ```
//!
//! Why this and not criterion: it measures one side to its end before it begins with the other, so that a machine
//! that grows slower meanwhile (a neighbour, a host that takes memory back) flatters one of them; here each pair is
//! measured within seconds, and who goes first alternates. And its minimum compiler is newer than ours.
//!
//! | column | meaning |
//! |---|---|
//! | `baseline`, `value` | medians, in `unit` |
//! | `ratio` | median over the pairs: baseline / value for a speed-up, value / baseline for a cost |
//! | `spread` | interquartile range / median, of the ratios, or of the values where there is no baseline |
//! | `n` | pairs |
//! | `target` | what the ratio has to be, at least or at most |
//! | `verdict` | `ok` or `fail` by the median; `skipped` where the machine does not allow it |
//!
//! The interquartile range and not the full one: on a virtual machine one round in ten is hit by something else, and
//! that shall neither move the result nor hide it.
//!
//! Without `--bench`, as under `cargo test --benches`, and with `--test` everything runs once with tiny sizes and
//! without verdicts, and no file is written, so that results of a full run stay. Any other word selects the rows
//! whose names contain it.

#![expect(clippy::print_stdout, reason = "a bench shows its table")]

mod file;
mod machine;
mod pairs;

use std::{env, fmt};

use machine::{Machine, Usage};
use pairs::Pairs;

/// What a side took, in the unit of its row, or why it cannot run here.
pub(crate) type Outcome = Result<f64, Skipped>;

/// One side of a comparison.
pub(crate) type Side<'s> = &'s mut dyn FnMut() -> Outcome;

/// Why something cannot be measured on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Skipped(String);

impl Skipped {
    /// With every source of `error`, since the reason is often the last one.
    pub(crate) fn because(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        Self(text)
    }
}

impl<E: std::error::Error> From<E> for Skipped {
    fn from(error: E) -> Self {
        Self::because(&error)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a value is held against its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    /// How many times faster; a target is the least.
    SpeedUp,
    /// How many times slower; a target is the most.
    Cost,
}

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Bytes behind a value in seconds, to show a rate.
    pub(crate) bytes: Option<u64>,
    pub(crate) compare: Compare,
    pub(crate) target: Option<f64>,
}

/// A row and what came out.
#[derive(Debug)]
struct Measured {
    row: Row,
    pairs: Result<Pairs, Skipped>,
}

/// A run of one bench.
#[derive(Debug)]
pub(crate) struct Bench {
    name: &'static str,
    full: bool,
    filter: Option<String>,
    rounds: usize,
    before: Usage,
    rows: Vec<Measured>,
}

impl Bench {
    /// Pairs of a full run, unless `PARAPIN_BENCH_ROUNDS` says otherwise.
    const ROUNDS: usize = 11;

    /// The run that the command line asks for.
    pub(crate) fn from_args(name: &'static str) -> Self {
        let words: Vec<String> = env::args().skip(1).collect();
        let full = words.iter().any(|word| word == "--bench")
            && !words.iter().any(|word| word == "--test");
        let rounds = number("PARAPIN_BENCH_ROUNDS").unwrap_or(Self::ROUNDS);
        println!(
            "{:<44} {:>10} {:>10} {:>4} {:>12} {:>7} {:>7} {:>3} {:>8}  verdict",
            name, "baseline", "value", "unit", "rate", "ratio", "spread", "n", "target"
        );
        Self {
            name,
            full,
            filter: words.into_iter().find(|word| !word.starts_with('-')),
            rounds: if full { rounds.max(1) } else { 1 },
            before: Usage::now(),
            rows: Vec::new(),
        }
    }

    /// `full` for a full run, `test` for one that only shows that everything works.
    pub(crate) fn size<T>(&self, full: T, test: T) -> T {
        if self.full { full } else { test }
    }

    /// Measures `value`, and `baseline` in turns with it; `value` goes first in the first round.
    pub(crate) fn measure(&mut self, row: Row, baseline: Option<Side<'_>>, value: Side<'_>) {
        if self
            .filter
            .as_ref()
            .is_some_and(|word| !row.name.contains(word.as_str()))
        {
            return;
        }
        let warm_up = usize::from(self.full);
        let pairs = take_turns(warm_up, self.rounds, baseline, value);
        let measured = Measured { row, pairs };
        println!("{}", measured.line(self.full));
        self.rows.push(measured);
    }

    /// Writes the results, after a full run.
    pub(crate) fn finish(self) {
        let machine = Machine::this(&self.before);
        println!("{machine}");
        if !self.full {
            return;
        }
        match file::write(self.name, &machine, &self.rows) {
            Ok(path) => println!("{}", path.display()),
            Err(error) => println!("the JSON could not be written: {error}"),
        }
    }
}

/// The number that a variable of the environment holds.
pub(crate) fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}

/// The first `warm_up` rounds are not counted.
fn take_turns(
    warm_up: usize,
    rounds: usize,
    mut baseline: Option<Side<'_>>,
    value: Side<'_>,
) -> Result<Pairs, Skipped> {
    let mut pairs = Pairs::default();
    for round in 0..warm_up + rounds {
        let (theirs, ours) = match &mut baseline {
            None => (None, value()?),
            Some(baseline) if round % 2 == 0 => {
                let ours = value()?;
                (Some(baseline()?), ours)
            }
            Some(baseline) => (Some(baseline()?), value()?),
        };
        if warm_up <= round {
            pairs.push(theirs, ours);
        }
    }
    Ok(pairs)
}

impl Measured {
    fn target(&self) -> Option<String> {
        let target = self.row.target?;
        Some(match self.row.compare {
            Compare::SpeedUp => format!(">= {target}"),
            Compare::Cost => format!("<= {target}"),
        })
    }

    fn ratio(&self) -> Option<f64> {
        self.pairs.as_ref().ok()?.ratio(self.row.compare)
    }

    fn verdict(&self) -> Option<&'static str> {
        if self.pairs.is_err() {
            return Some("skipped");
        }
        let (target, ratio) = (self.row.target?, self.ratio()?);
        let met = match self.row.compare {
            Compare::SpeedUp => target <= ratio,
            Compare::Cost => ratio <= target,
        };
        Some(if met { "ok" } else { "fail" })
    }

    fn line(&self, judged: bool) -> String {
        let pairs = match &self.pairs {
            Ok(pairs) => pairs,
            Err(reason) => return format!("{:<44} skipped: {reason}", self.row.name),
        };
        let shown = |number: Option<f64>, digits| {
            number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
        };
        let rate = self.row.bytes.map_or_else(
            || "-".to_owned(),
            |bytes| {
                format!(
                    "{:.2} GiB/s",
                    bytes as f64 / (1u64 << 30) as f64 / pairs.value()
                )
            },
        );
        format!(
            "{:<44} {:>10} {:>10} {:>4} {:>12} {:>7} {:>6.1}% {:>3} {:>8}  {}",
            self.row.name,
            shown(pairs.baseline(), 4),
            shown(Some(pairs.value()), 4),
            self.row.unit,
            rate,
            shown(self.ratio(), 3),
            pairs.spread(self.row.compare) * 100.0,
            pairs.len(),
            self.target().unwrap_or_else(|| "-".to_owned()),
            self.verdict().filter(|_| judged).unwrap_or("-"),
        )
    }
}
