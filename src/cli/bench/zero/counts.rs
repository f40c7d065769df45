// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether what was asked for is what is found: so many zero pages, and so many of them treated as data.

use migration::{PageBitmap, ZeroReport, ZeroScanner};
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    memory::{Memory, PAGE},
};
use crate::cli::bench::table::Table;

/// Pages of a call: no round number, so that shares go over the ends of calls.
const CALL: usize = 4001;

type Count = fn(&ZeroReport) -> usize;

/// Scans everything once and counts; `engine` is the name in the rows.
pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    engine: &str,
    memory: &Memory,
    scanner: &Result<ZeroScanner, Skipped>,
) {
    let zeros = memory.zeros_before(memory.pages());
    let as_data = zeros * u64::from(settings.args.normal_page_ratio) / 100;
    let counts: [(&str, u64, Count); 2] = [
        ("zero_pages", zeros - as_data, |report| report.zero),
        ("zero_pages_as_data", as_data, |report| report.as_data),
    ];
    for (what, expected, count) in counts {
        let row = Row {
            name: format!("zero/{engine}/{what}"),
            unit: "pages",
            bytes: None,
            compare: Compare::Same,
            target: Some(1.0),
        };
        let mut value = || -> Outcome {
            let scanner = scanner.as_ref().map_err(Clone::clone)?;
            let scanner = scanner
                .clone()
                .normal_page_ratio(settings.args.normal_page_ratio);
            Ok(count(&scan(&scanner, memory)?) as f64)
        };
        table.measure(row, Some(&mut || Ok(expected as f64)), &mut value);
    }
}

fn scan(scanner: &ZeroScanner, memory: &Memory) -> Result<ZeroReport, Skipped> {
    let mut channel = scanner.channel(0);
    let mut zero = PageBitmap::default();
    let mut report = ZeroReport::default();
    for call in memory.offsets(0, 1).chunks(CALL) {
        report.add(&channel.scan(&memory.block, PAGE, call, &mut zero)?);
    }
    Ok(report)
}
