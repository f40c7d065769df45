// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Report`]: everything that came out, as JSON in the shape of `parapin bench --json`, or as a page.

use serde::Serialize;

use super::{Machine, Measured, page};

/// Everything that came out.
#[derive(Debug)]
pub struct Report {
    /// Where, and how busy it was.
    pub machine: Machine,
    /// What was measured, in its order.
    pub rows: Vec<Measured>,
    /// What a reader has to know beside the rows.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    schema: u32,
    machine: &'a Machine,
    rows: Vec<RowJson<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
}

#[derive(Serialize)]
struct RowJson<'a> {
    name: &'a str,
    unit: &'a str,
    baseline: Option<f64>,
    value: Option<f64>,
    ratio: Option<f64>,
    spread: Option<f64>,
    n: usize,
    target: Option<String>,
    verdict: Option<&'static str>,
    /// Why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Report {
    /// One JSON object, schema 1.
    #[must_use]
    pub fn json(&self) -> String {
        let report = ReportJson {
            schema: 1,
            machine: &self.machine,
            rows: self.rows.iter().map(row).collect(),
            notes: &self.notes,
        };
        // The types above have string keys only and no failing `Serialize`, which is all that could go wrong.
        serde_json::to_string_pretty(&report)
            .unwrap_or_else(|error| format!("{{\"schema\":1,\"error\":\"{error}\"}}"))
    }

    /// A page for a browser that needs nothing but itself.
    #[must_use]
    pub fn page(&self, title: &str) -> String {
        page::page(self, title)
    }
}

fn row(measured: &Measured) -> RowJson<'_> {
    let (row, pairs) = (measured.row(), measured.pairs());
    let pairs = pairs.ok();
    RowJson {
        name: &row.name,
        unit: row.unit,
        baseline: pairs.and_then(|pairs| pairs.baseline()),
        value: pairs.map(|pairs| pairs.value()),
        ratio: measured.ratio(),
        spread: pairs.map(|pairs| pairs.spread(row.compare)),
        n: pairs.map_or(0, |pairs| pairs.len()),
        target: measured.target(),
        verdict: measured.verdict(),
        reason: measured.pairs().err().map(ToString::to_string),
    }
}
