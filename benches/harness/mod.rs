// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the benches share beside the measuring itself, which is `parapin::bench`'s: their command line and their file.
//!
//! ```text
//!  --bench ─► full run ───┐
//!  --test ──► tiny sizes ─┴─► parapin::bench ──► line of the table, on standard output
//!                                           └──► parapin-bench/NAME.json, after a full run
//! ```
//!
//! Without `--bench`, as under `cargo test --benches`, and with `--test` everything runs once with tiny sizes and
//! without verdicts, and no file is written, so that results of a full run stay. Any other word selects the rows
//! whose names contain it.

#![expect(clippy::print_stdout, reason = "a bench shows its table")]

mod file;

use std::env;

use parapin::bench::{self, Row, Side};

/// A run of one bench.
#[derive(Debug)]
pub(crate) struct Bench {
    name: &'static str,
    inner: bench::Bench,
}

impl Bench {
    /// The run that the command line asks for, of 11 pairs unless `PARAPIN_BENCH_ROUNDS` says otherwise.
    pub(crate) fn from_args(name: &'static str) -> Self {
        let words: Vec<String> = env::args().skip(1).collect();
        let full = words.iter().any(|word| word == "--bench")
            && !words.iter().any(|word| word == "--test");
        let inner = if full {
            let rounds = number("PARAPIN_BENCH_ROUNDS");
            bench::Bench::full(rounds.unwrap_or(bench::Bench::ROUNDS))
        } else {
            bench::Bench::test()
        };
        println!("{}", bench::heading(name));
        let filter = words.into_iter().find(|word| !word.starts_with('-'));
        Self {
            name,
            inner: inner.filter(filter),
        }
    }

    /// `full` for a full run, `test` for one that only shows that everything works.
    pub(crate) fn size<T>(&self, full: T, test: T) -> T {
        self.inner.size(full, test)
    }

    /// Measures `value`, and `baseline` in turns with it; `value` goes first in the first round.
    pub(crate) fn measure(&mut self, row: Row, baseline: Option<Side<'_>>, value: Side<'_>) {
        if let Some(measured) = self.inner.measure(row, baseline, value) {
            println!("{}", measured.line());
        }
    }

    /// Writes the results, after a full run.
    pub(crate) fn finish(self) {
        let is_full = self.inner.is_full();
        let report = self.inner.finish();
        println!("{}", report.machine);
        if !is_full {
            return;
        }
        match file::write(self.name, &report) {
            Ok(path) => println!("{}", path.display()),
            Err(error) => println!("the JSON could not be written: {error}"),
        }
    }
}

/// The number that a variable of the environment holds.
pub(crate) fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok()?.parse().ok()
}
