// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Measured`]: a row and what came out, and how it is told.

use super::{Compare, Pairs, Row, Skipped};

/// A row and what came out.
#[derive(Debug)]
pub struct Measured {
    row: Row,
    pairs: Result<Pairs, Skipped>,
    judged: bool,
}

/// The heading of a table of lines.
#[must_use]
pub fn heading(title: &str) -> String {
    format!(
        "{title:<48} {:>10} {:>10} {:>5} {:>12} {:>7} {:>7} {:>3} {:>8}  verdict",
        "baseline", "value", "unit", "rate", "ratio", "spread", "n", "target"
    )
}

impl Measured {
    pub(super) fn new(row: Row, pairs: Result<Pairs, Skipped>, judged: bool) -> Self {
        Self { row, pairs, judged }
    }

    /// What was measured.
    #[must_use]
    pub fn row(&self) -> &Row {
        &self.row
    }

    /// What came out, or why nothing did.
    ///
    /// # Errors
    ///
    /// If this machine does not allow it.
    pub fn pairs(&self) -> Result<&Pairs, &Skipped> {
        self.pairs.as_ref()
    }

    /// What is to be reached, in words.
    #[must_use]
    pub fn target(&self) -> Option<String> {
        let target = self.row.target?;
        Some(match self.row.compare {
            Compare::SpeedUp | Compare::Rate => format!(">= {target}"),
            Compare::Cost => format!("<= {target}"),
            Compare::Limit => format!("<= {target} {}", self.row.unit),
            Compare::Same => format!("= {target}"),
        })
    }

    /// The median ratio.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.pairs.as_ref().ok()?.ratio(self.row.compare)
    }

    /// `ok` or `fail` where there is a target and the run was a full one, `skipped` where nothing came out.
    #[must_use]
    pub fn verdict(&self) -> Option<&'static str> {
        let Ok(pairs) = &self.pairs else {
            return Some("skipped");
        };
        let target = self.row.target.filter(|_| self.judged)?;
        let met = match self.row.compare {
            Compare::SpeedUp | Compare::Rate => target <= self.ratio()?,
            Compare::Cost => self.ratio()? <= target,
            Compare::Limit => pairs.value() <= target,
            Compare::Same => self.ratio()? == target,
        };
        Some(if met { "ok" } else { "fail" })
    }

    /// Its line of the table.
    #[must_use]
    pub fn line(&self) -> String {
        let pairs = match &self.pairs {
            Ok(pairs) => pairs,
            Err(reason) => return format!("{:<48} skipped: {reason}", self.row.name),
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
            "{:<48} {:>10} {:>10} {:>5} {:>12} {:>7} {:>6.1}% {:>3} {:>8}  {}",
            self.row.name,
            shown(pairs.baseline()),
            shown(Some(pairs.value())),
            self.row.unit,
            rate,
            shown_ratio(self.ratio()),
            pairs.spread(self.row.compare) * 100.0,
            pairs.len(),
            self.target().unwrap_or_else(|| "-".to_owned()),
            self.verdict().unwrap_or("-"),
        )
    }
}

/// A number with as many digits as mean something.
pub(super) fn shown(number: Option<f64>) -> String {
    let Some(number) = number else {
        return "-".to_owned();
    };
    match number.abs() {
        size if size >= 1000.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

pub(super) fn shown_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;

    fn measured(compare: Compare, target: f64, baseline: f64, value: f64) -> (String, String) {
        let row = Row {
            name: "row".to_owned(),
            unit: "ns",
            bytes: None,
            compare,
            target: Some(target),
        };
        let mut bench = Bench::full(3);
        let measured = bench
            .measure(row, Some(&mut || Ok(baseline)), &mut || Ok(value))
            .unwrap();
        (
            measured.target().unwrap(),
            measured.verdict().unwrap().to_owned(),
        )
    }

    #[test]
    fn verdicts() {
        let table = [
            (Compare::SpeedUp, 4.0, 8.0, 2.0, ">= 4", "ok"),
            (Compare::SpeedUp, 4.0, 7.0, 2.0, ">= 4", "fail"),
            (Compare::Cost, 1.5, 2.0, 3.0, "<= 1.5", "ok"),
            (Compare::Cost, 1.5, 2.0, 3.1, "<= 1.5", "fail"),
            (Compare::Rate, 0.5, 2.0, 1.0, ">= 0.5", "ok"),
            (Compare::Rate, 0.5, 2.0, 0.9, ">= 0.5", "fail"),
            (Compare::Limit, 60.0, 1.0, 59.0, "<= 60 ns", "ok"),
            (Compare::Limit, 60.0, 1e9, 61.0, "<= 60 ns", "fail"),
            (Compare::Same, 1.0, 0.0, 0.0, "= 1", "ok"),
            (Compare::Same, 1.0, 0.0, 1.0, "= 1", "fail"),
            (Compare::Same, 1.0, 3.0, 2.0, "= 1", "fail"),
        ];
        for (compare, target, baseline, value, text, verdict) in table {
            let found = measured(compare, target, baseline, value);
            assert_eq!(found, (text.to_owned(), verdict.to_owned()), "{compare:?}");
        }
    }

    #[test]
    fn a_test_has_no_verdict_and_a_skipped_row_has_its_reason() {
        let row = |name: &str| Row {
            name: name.to_owned(),
            unit: "ns",
            bytes: None,
            compare: Compare::Cost,
            target: Some(1.0),
        };
        let mut bench = Bench::test().filter(Some("a".to_owned()));
        let measured = bench.measure(row("a"), Some(&mut || Ok(1.0)), &mut || Ok(2.0));
        assert_eq!(measured.unwrap().verdict(), None);
        assert!(bench.measure(row("b"), None, &mut || Ok(2.0)).is_none());
        let skipped = bench
            .measure(row("a2"), None, &mut || Err(Skipped::for_reason("no sun")))
            .unwrap();
        assert_eq!(skipped.verdict(), Some("skipped"));
        assert!(skipped.line().ends_with("skipped: no sun"));
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        for (number, text) in [
            (0.123_456, "0.1235"),
            (12.345_6, "12.35"),
            (123_456.7, "123457"),
        ] {
            assert_eq!(shown(Some(number)), text);
        }
        assert_eq!(shown(None), "-");
    }
}
