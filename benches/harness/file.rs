// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The results as JSON, in the shape of `parapin bench --json`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Machine, Measured};

#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    machine: &'a Machine,
    rows: Vec<RowJson<'a>>,
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
}

/// Writes `parapin-bench/NAME.json` in the target directory, or `NAME.json` in `$PARAPIN_BENCH_DIR`, and says where that is.
pub(super) fn write(name: &str, machine: &Machine, rows: &[Measured]) -> io::Result<PathBuf> {
    // Cargo puts this directory into the target directory itself, whatever that is and whatever the profile and the
    // target triple are, which the path of the executable does not show.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // In a virtual machine there is none.
    let directory = env::var_os("PARAPIN_BENCH_DIR")
        .map_or_else(|| scratch.with_file_name("parapin-bench"), PathBuf::from);
    fs::create_dir_all(&directory)?;
    let path = directory.join(name).with_extension("json");
    let results = Results {
        schema: 1,
        machine,
        rows: rows.iter().map(row).collect(),
    };
    let text = serde_json::to_string_pretty(&results)?;
    fs::write(&path, text + "\n")?;
    Ok(path)
}

fn row(measured: &Measured) -> RowJson<'_> {
    let (row, pairs) = (&measured.row, measured.pairs.as_ref().ok());
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
    }
}
