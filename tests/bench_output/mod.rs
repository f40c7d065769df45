// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `parapin bench` wrote, for the tests of each bench.

use std::{collections::BTreeSet, env, fs, path::PathBuf, process};

use idxd::{Discovery, Kind, Roots};
use serde_json::Value;

use crate::machine::{describe, json, parapin, skip};

/// A tiny run of that bench with these arguments.
pub(crate) fn tiny(bench: &str, arguments: &[&str]) -> Value {
    json(
        parapin(&["bench", bench, "--test", "--json"]).args(arguments),
        0,
    )
}

/// Arguments behind the name of a bench, the exit code, and what the message must say.
pub(crate) type Refused = (&'static [&'static str], i32, &'static [&'static str]);

/// Bad input is refused with a message.
pub(crate) fn assert_refused(bench: &str, cases: &[Refused]) {
    for (arguments, exit, needles) in cases {
        let output = parapin(&["bench", bench])
            .args(*arguments)
            .output()
            .unwrap();
        let case = format!("{arguments:?}: {}", describe(&output));
        assert_eq!(output.status.code(), Some(*exit), "{case}");
        assert!(output.stdout.is_empty(), "{case}");
        let text = String::from_utf8_lossy(&output.stderr);
        for needle in *needles {
            assert!(text.contains(needle), "{needle:?} is missing from {case}");
        }
    }
}

/// The help of a bench has examples and exit codes.
pub(crate) fn assert_helps(bench: &str) {
    let output = parapin(&["bench", bench, "--help"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for needle in [
        "Examples:",
        &format!("parapin bench {bench} --engine model"),
        "Exit codes:",
        "130",
        "never run on hardware",
    ] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
}

/// The names of all rows, after a look at every row: the names of contracts.md, with their types.
pub(crate) fn names(output: &Value) -> BTreeSet<String> {
    assert_eq!(output["schema"], 1);
    for (key, is_right) in [
        ("cpu", output["machine"]["cpu"].is_string()),
        ("cpus", output["machine"]["cpus"].is_u64()),
        ("kernel", output["machine"]["kernel"].is_string()),
        ("memory", output["machine"]["memory"].is_u64()),
    ] {
        assert!(is_right, "{key} in {output}");
    }
    let rows = output["rows"].as_array().unwrap();
    for row in rows {
        let keys: BTreeSet<&str> = row
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let all = [
            "name", "unit", "baseline", "value", "ratio", "spread", "n", "target", "verdict",
        ];
        assert!(keys.is_superset(&BTreeSet::from(all)), "{row}");
        assert!(row["unit"].is_string(), "{row}");
        match row["verdict"].as_str() {
            None => {
                assert!(row["value"].is_number() && row["n"] == 1, "{row}");
                assert_eq!(
                    row["baseline"].is_number(),
                    row["ratio"].is_number(),
                    "{row}"
                );
            }
            // A test judges nothing.
            Some(verdict) => {
                assert_eq!(verdict, "skipped", "{row}");
                assert!(row["reason"].is_string() && row["n"] == 0, "{row}");
            }
        }
    }
    let names: BTreeSet<String> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), rows.len(), "each has a name of its own");
    names
}

pub(crate) fn assert_has(names: &BTreeSet<String>, parts: &[&str]) {
    for part in parts {
        let has = names.iter().any(|name| name.contains(part));
        assert!(has, "no row has {part:?} in {names:#?}");
    }
}

/// The row of that name.
pub(crate) fn row<'a>(output: &'a Value, name: &str) -> &'a Value {
    let rows = output["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap()
}

/// Whether this machine has a queue of that kind that this process may use; also said on standard output.
pub(crate) fn has_a_queue(kind: Kind) -> bool {
    let discovery = Discovery::read(&Roots::live()).unwrap();
    let has = discovery.usable(kind).next().is_some();
    if has {
        skip(&format!("there is a work queue of kind {kind}"));
    }
    has
}

/// A file that is gone when the test is over.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("parapin-{}-{name}", process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
