// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin bench`: what it refuses and how, and that its results have what others rely on. What it measures is not judged
//! here: everything runs once with tiny sizes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench_output;
mod machine;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use bench_output::{Refused, Scratch, assert_has, names, row};
use idxd::Kind;
use machine::{describe, parapin};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Behind `bench zero`.
const BAD_INPUT: &[Refused] = &[
    (&["--engine", "gpu"], 2, &["software, dsa, model, auto"]),
    (
        &["--zero-percent", "101"],
        2,
        &["--zero-percent", "0..=100"],
    ),
    (&["--zero-percent", "-1"], 2, &["-1"]),
    (
        &["--normal-page-ratio", "101"],
        2,
        &["--normal-page-ratio", "0..=100"],
    ),
    (&["--batch-pages", "15"], 2, &["--batch-pages", "16..=1024"]),
    (
        &["--batch-pages", "1025"],
        2,
        &["--batch-pages", "16..=1024"],
    ),
    (
        &["--batch-pages", "many"],
        2,
        &["--batch-pages", "a number"],
    ),
    (&["--channels", "0"], 2, &["--channels", "1..=64"]),
    (&["--channels", "65"], 2, &["--channels", "1..=64"]),
    (&["--rounds", "0"], 2, &["--rounds", "1..=1000"]),
    (&["--rounds", "3", "--test"], 2, &["--rounds", "--test"]),
    (&["--size", "0"], 2, &["--size", "more than 0"]),
    (&["--size", "4096"], 2, &["--size 4096", "at least 1048576"]),
    (
        &["--size", "1048577"],
        2,
        &["--size 1048577", "multiple of 4096"],
    ),
    (&["--size", "7E"], 1, &["remedy", "--size"]),
    (&["--size", "-1"], 2, &["--size"]),
    (&["--page-size", "2m"], 2, &["4k, thp, memfd"]),
    (
        &["--engine", "model", "--rate", "0"],
        2,
        &["--rate", "more than 0"],
    ),
    (&["--engine", "model", "--rate", "nan"], 2, &["--rate"]),
    (
        &["--engine", "model", "--devices", "0"],
        2,
        &["--devices", "1..=16"],
    ),
    (&["--demand", "fast"], 2, &["--demand", "10GB/s"]),
    // What another engine would need.
    (
        &["--engine", "software", "--rate", "3"],
        2,
        &["--rate is for --engine model, not for software", "--help"],
    ),
    (
        &["--rate", "3"],
        2,
        &["--rate is for --engine model, not for auto"],
    ),
    (
        &["--engine", "dsa", "--devices", "3"],
        2,
        &["--devices is for --engine model"],
    ),
    (
        &["--engine", "model", "--demand", "3M"],
        2,
        &["--demand is for --engine auto"],
    ),
    (
        &["--engine", "model", "--accel-path", "dsa:/dev/dsa/wq0.0"],
        2,
        &["--accel-path is for --engine dsa and auto"],
    ),
    // Queues.
    (&["--accel-path", ""], 2, &["no queue is named"]),
    (
        &["--accel-path", "/dev/dsa/wq0.0"],
        2,
        &["does not tell the kind"],
    ),
    (&["--accel-path", "gpu:/dev/dsa/wq0.0"], 2, &["of no kind"]),
    (&["--accel-path", "dsa:wq0.0"], 2, &["no path of a node"]),
    (
        &["--accel-path", "dsa:/dev/dsa/wq0.0,dsa:/dev/dsa/wq0.0"],
        2,
        &["for the second time"],
    ),
    (
        &["--accel-path", "dsa:/dev/dsa/wq999.9"],
        1,
        &["dsa:/dev/dsa/wq999.9", "no such queue"],
    ),
    (
        &["--engine", "dsa", "--accel-path", "dsa:/dev/dsa/wq999.9"],
        1,
        &["dsa:/dev/dsa/wq999.9", "no such queue"],
    ),
    (
        &["--test", "--html", "/nowhere/zero.html"],
        1,
        &["/nowhere/zero.html", "cannot be written"],
    ),
    (&["--test", "--html", "/"], 1, &["/ cannot be written"]),
    (&["surplus"], 2, &["surplus"]),
    (&["--frobnicate"], 2, &["--frobnicate"]),
];

#[test]
fn bad_input_is_refused_with_a_message() {
    bench_output::assert_refused("zero", BAD_INPUT);
}

#[test]
fn a_bench_has_to_be_named() {
    for arguments in [&["bench"][..], &["bench", "nothing"]] {
        let output = parapin(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    bench_output::assert_helps("zero");
}

/// A tiny run with these arguments.
fn tiny(arguments: &[&str]) -> Value {
    bench_output::tiny("zero", arguments)
}

#[test]
fn software_has_its_rows() {
    let output = tiny(&["--engine", "software"]);
    let names = names(&output);
    assert_has(
        &names,
        &[
            "zero/software/in_cache portable",
            "zero/software/bandwidth 4k threads=1 ",
            "zero/software/bandwidth thp threads=1 ",
            "zero/software/random 4k threads=1 ",
            "zero/software/random thp threads=1 ",
            "zero/software/cpu_per_page",
            "zero/software/zero_pages",
        ],
    );
    let best = migration::Kernel::best().isa();
    for (what, target) in [
        ("bandwidth 4k threads=1", ">= 0.95"),
        ("random 4k threads=1", ">= 20"),
        ("in_cache", ">= 4"),
    ] {
        let row = row(&output, &format!("zero/software/{what} {best}"));
        assert_eq!(row["target"], target);
    }
    let memfd = tiny(&["--engine", "software", "--page-size", "memfd"]);
    assert_has(
        &bench_output::names(&memfd),
        &["bandwidth memfd", "random memfd"],
    );
}

#[test]
fn the_model_has_its_rows() {
    let output = tiny(&["--engine", "model"]);
    let names = names(&output);
    for batch in [16, 32, 64, 128, 256, 512, 1024] {
        for waits in ["engine", "caller"] {
            let name = format!("zero/model/cpu_per_page batch={batch} waits={waits}");
            let target = row(&output, &name)["target"].as_str();
            assert_eq!(target, (batch == 128).then_some("<= 60 ns"), "{name}");
            // Software, on the same memory.
            assert!(row(&output, &name)["baseline"].is_number(), "{name}");
        }
    }
    for devices in [1, 2, 4] {
        for channels in [1, 2, 4, 8] {
            let name = format!("zero/model/scale channels={channels} devices={devices}");
            assert_eq!(row(&output, &name)["baseline"], f64::from(2 * devices));
        }
    }
    assert_has(
        &names,
        &[
            "one_engine devices=4",
            "cpu_as_used",
            "latency_beside_slow_device",
        ],
    );
    // The figure that these are not comparable with, and that they are a model's.
    let notes = output["notes"].to_string();
    for needle in ["185 ns", "240 ns", "not comparable", "a model", "30 GB/s"] {
        assert!(notes.contains(needle), "{needle:?} is missing from {notes}");
    }
}

#[test]
fn flags_narrow_what_is_compared() {
    let output = tiny(&[
        "--engine",
        "model",
        "--batch-pages",
        "48",
        "--channels",
        "3",
        "--devices",
        "2",
        "--rate",
        "5",
    ]);
    let names = names(&output);
    let of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    assert_eq!(of("cpu_per_page batch=48 "), 2);
    assert_eq!(of("cpu_per_page"), 2);
    assert_eq!(of("scale channels=3 devices=2"), 1);
    assert_eq!(of("scale"), 1);
    assert!(output["notes"].to_string().contains("5 GB/s"));
}

#[test]
fn as_many_zero_pages_as_asked_for_are_found_and_treated_as_data() {
    // 256 pages.
    for (engine, zero_percent, ratio, zero, as_data) in [
        ("software", "50", "0", 128, 0),
        ("software", "100", "25", 192, 64),
        ("model", "50", "10", 116, 12),
        ("model", "0", "100", 0, 0),
        ("model", "100", "100", 0, 256),
    ] {
        let output = tiny(&[
            "--engine",
            engine,
            "--size",
            "1M",
            "--zero-percent",
            zero_percent,
            "--normal-page-ratio",
            ratio,
        ]);
        for (what, expected) in [("zero_pages", zero), ("zero_pages_as_data", as_data)] {
            let row = row(&output, &format!("zero/{engine}/{what}"));
            assert_eq!(row["value"], f64::from(expected), "{row}");
            assert_eq!(row["baseline"], f64::from(expected), "{row}");
            assert_eq!(row["ratio"], 1.0, "{row}");
        }
    }
}

/// Whether there is a queue of a DSA: then other things happen.
fn has_a_queue() -> bool {
    bench_output::has_a_queue(Kind::Dsa)
}

#[test]
fn auto_says_why_it_chose_software() {
    if has_a_queue() {
        return;
    }
    // It is also what happens without any flag.
    for arguments in [&["--engine", "auto", "--demand", "12.5GB/s"][..], &[]] {
        let output = tiny(arguments);
        let notes = output["notes"].to_string();
        for needle in [
            "auto chose software",
            "no work queue of a DSA that this process may use",
            "not used: no DSA is bound",
        ] {
            assert!(notes.contains(needle), "{needle:?} is missing from {notes}");
        }
        assert_has(&names(&output), &["zero/software/bandwidth"]);
    }
}

#[test]
fn dsa_without_a_device_fails_and_says_what_is_missing() {
    if has_a_queue() {
        return;
    }
    let output = parapin(&["bench", "zero", "--engine", "dsa", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr);
    for needle in [
        "no work queue of a DSA that this process may use",
        "no DSA is bound to the idxd driver",
        "remedy: docs/accelerators.md",
        "--engine model",
    ] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
}

#[test]
fn the_page_has_every_row_and_loads_nothing() {
    let scratch = Scratch::new("zero.html");
    let path: &Path = &scratch.0;
    // What was there is replaced as a whole.
    fs::write(path, "x".repeat(1 << 20)).unwrap();
    let output = tiny(&["--engine", "model", "--html", path.to_str().unwrap()]);
    let page = fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for name in names(&output) {
        assert!(page.contains(&name), "{name} is missing");
    }
    assert!(page.contains("<svg") && page.contains("185 ns"));
    for part in ["http", "src=", "url(", "<script", "<link"] {
        assert!(!page.contains(part), "{part} is in the page");
    }
}

#[test]
fn the_table_is_on_standard_output_unless_the_json_is() {
    let arguments = ["bench", "zero", "--engine", "software", "--test"];
    let output = parapin(&arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", describe(&output));
    assert!(output.stderr.is_empty(), "{}", describe(&output));
    for needle in ["baseline", "zero/software/cpu_per_page", " CPUs, "] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
    let output = parapin(&arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("zero/software/cpu_per_page"), "{text}");
    assert!(output.stdout.starts_with(b"{"));
}

#[test]
fn a_signal_ends_it_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = parapin(&["bench", "zero", "--engine", "model"])
            .args(["--size", "1M", "--rounds", "1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has begun when it says so.
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(id, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
    }
}
