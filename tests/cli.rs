// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line: bad input gets a message that a person can act on, and signals end it cleanly.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use machine::{cannot_pin, describe, field, json, may_rise, parapin};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Arguments behind `pin`, the exit code, and what the message must say.
const BAD_INPUT: &[(&[&str], i32, &[&str])] = &[
    (&["--size", "0"], 2, &["--size", "more than 0"]),
    (&["--size", "1"], 2, &["not a multiple of pages of 4 KiB"]),
    (
        &["--size", "4097"],
        2,
        &["0x1001", "not a multiple of pages of 4 KiB"],
    ),
    (
        &["--size", "3M", "--page-size", "thp"],
        2,
        &["not a multiple of pages of 2 MiB"],
    ),
    (
        &["--size", "9223372036854775808"],
        1,
        &["0x8000000000000000", "Cannot allocate memory", "remedy"],
    ),
    (&["--size", "16T", "--regions", "2"], 1, &["remedy"]),
    (&["--size", "99999999999999999999999"], 2, &["--size"]),
    (&["--size", "-1"], 2, &["--size"]),
    (&["--size", "many"], 2, &["--size", "K, M, G or T"]),
    (&["--size", ""], 2, &["--size"]),
    (&["--regions", "10000000000000"], 2, &["more than 16384"]),
    (&["--regions", "0"], 2, &["--regions"]),
    (
        &["--size", "8K", "--regions", "3"],
        2,
        &["2 pages", "3 regions"],
    ),
    (&["--threads", "0"], 2, &["--threads"]),
    (&["--threads", "-3"], 2, &["--threads"]),
    (&["--threads", "two"], 2, &["--threads"]),
    (&["--nice", "20"], 2, &["--nice", "-20..=19"]),
    (&["--nice", "x"], 2, &["--nice"]),
    (
        &["--min-chunk", "64M", "--max-chunk", "32M"],
        2,
        &["--min-chunk 64 MiB", "--max-chunk 32 MiB"],
    ),
    (&["--min-chunk", "0"], 2, &["--min-chunk"]),
    (&["--target", "vfio"], 2, &["io-uring, populate"]),
    (&["--page-size", "3k"], 2, &["4k, thp, 2m, 1g"]),
    (&["--backing", "disk"], 2, &["anon, memfd"]),
    (
        &["--page-size", "1g", "--size", "1000G"],
        1,
        &["hugetlb pool of 1 GiB pages", "nr_hugepages"],
    ),
    (
        &["--page-size", "2m", "--size", "1000G", "--backing", "memfd"],
        1,
        &["hugetlb pool of 2 MiB pages", "nr_hugepages"],
    ),
    (&["--json", "--quiet"], 2, &["--quiet"]),
    (&["surplus"], 2, &["surplus"]),
    (&["--frobnicate"], 2, &["--frobnicate"]),
];

#[test]
fn bad_input_is_refused_with_a_message() {
    for (arguments, exit, needles) in BAD_INPUT {
        let output = parapin(&["pin"]).args(*arguments).output().unwrap();
        let case = format!("{arguments:?}: {}", describe(&output));
        assert_eq!(output.status.code(), Some(*exit), "{case}");
        assert!(output.stdout.is_empty(), "{case}");
        let text = String::from_utf8_lossy(&output.stderr);
        for needle in *needles {
            assert!(text.contains(needle), "{needle:?} is missing from {case}");
        }
    }
}

#[test]
fn no_subcommand_and_unknown_ones_are_wrong_usage() {
    for arguments in [&[][..], &["pinn"]] {
        let output = parapin(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    }
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = parapin(&["pin", "--help"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for needle in ["Examples:", "parapin pin --size 16G", "Exit codes:", "130"] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
}

/// Every name of contracts.md, with its type.
#[test]
fn json_has_what_others_rely_on() {
    let output = json(
        &mut parapin(&[
            "pin",
            "--target",
            "populate",
            "--size",
            "128M",
            "--regions",
            "3",
            "--json",
        ]),
        0,
    );
    let object = output.as_object().unwrap();
    assert_eq!(output["schema"], 1);
    assert_eq!(output["target"], "populate");
    assert_eq!(output["strategy"], "madvise");
    assert_eq!(output["bytes"], 128 << 20);
    assert_eq!(output["regions"], 3);
    assert_eq!(output["page_size"], 4096);
    let priority = if may_rise() {
        "one-by-one"
    } else {
        "small-chunks"
    };
    assert_eq!(output["priority"], priority);
    assert_eq!(output["verified_pinned_bytes"], 0);
    for key in [
        "threads",
        "helpers_wanted",
        "helpers_started",
        "nice",
        "chunks",
    ] {
        assert!(output[key].is_i64(), "{key}");
    }
    for key in [
        "seconds",
        "populate_seconds",
        "map_seconds",
        "gib_per_second",
    ] {
        assert!(output[key].is_f64(), "{key}");
    }
    assert!(output["limited_by"].is_string());
    assert!(!object.contains_key("error"));
}

#[test]
fn the_lists_in_json_are_complete() {
    let output = json(
        &mut parapin(&["pin", "--target", "populate", "--size", "128M", "--json"]),
        0,
    );
    assert!(output["chunk_bytes"]["min"].as_u64() <= output["chunk_bytes"]["max"].as_u64());
    assert!(output["throttled"].is_null() || output["throttled"]["periods"].is_u64());
    for limit in output["limits"].as_array().unwrap() {
        assert!(
            ["name", "value", "source"]
                .iter()
                .all(|key| limit[key].is_string()),
            "{limit}"
        );
    }
    let threads = output["per_thread"].as_array().unwrap();
    let bytes: u64 = threads
        .iter()
        .map(|thread| thread["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(bytes, 128 << 20);
    assert!(
        threads
            .iter()
            .all(|thread| thread["cpu_seconds"].is_f64() && thread["nice"].is_i64())
    );
}

#[test]
fn schema_comes_first_and_a_failure_is_one_object_too() {
    let output = parapin(&["pin", "--page-size", "1g", "--size", "1000G", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.trim_start_matches(['{', '\n', ' '])
            .starts_with("\"schema\": 1,"),
        "{text}"
    );
    let value: Value = serde_json::from_str(&text).unwrap();
    let error = &value["error"];
    assert_eq!(error["kind"], "hugetlb");
    assert!(error["remedy"].as_str().unwrap().contains("nr_hugepages"));
    assert_eq!(
        (&error["chunks_undone"], &error["left_pinned_bytes"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn quiet_prints_nothing() {
    let output = parapin(&["pin", "--target", "populate", "--size", "8M", "--quiet"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{}",
        describe(&output)
    );
}

#[test]
fn the_report_says_what_was_verified_and_what_bound() {
    if cannot_pin(64 << 20) {
        return;
    }
    let output = parapin(&["pin", "--size", "64M"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for needle in [
        "pinned 64 MiB in 1 region with io-uring",
        "exactly what was asked for",
        "limited by ",
        "GiB/s",
        "caller",
    ] {
        assert!(
            text.contains(needle),
            "{needle:?} is missing from {}",
            describe(&output)
        );
    }
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("unpinned 64 MiB"),
        "{}",
        describe(&output)
    );
}

/// A program that is killed when the test fails.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = parapin(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    /// Waits until it has more than `bytes` resident; false if it ended before.
    fn has_resident(&mut self, bytes: u64) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
            let resident = status.ok().and_then(|text| field(&text, "VmRSS:"));
            let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
            if kib.is_some_and(|kib| kib << 10 > bytes) {
                return true;
            }
            if self.0.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::yield_now();
        }
        panic!("nothing happened for a minute");
    }

    fn stdout(&mut self) -> String {
        let mut text = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `--explain` has every limit with its value and source, and marks the one that `--json` says bound.
#[test]
fn explain_names_every_limit_and_the_one_that_bound() {
    let size = ["pin", "--target", "populate", "--size", "64M"];
    let output = json(parapin(&size).args(["--threads", "1", "--json"]), 0);
    let text = parapin(&size)
        .args(["--threads", "1", "--explain"])
        .output()
        .unwrap();
    assert!(text.status.success(), "{}", describe(&text));
    let text = String::from_utf8(text.stdout).unwrap();
    let (_, table) = text.split_once("limits that were looked at:\n").unwrap();
    let marked: Vec<&str> = table.lines().filter(|line| line.contains('◄')).collect();
    let limits = output["limits"].as_array().unwrap();
    let decides: Vec<&Value> = limits.iter().filter(|l| l["decides"] == true).collect();
    assert_eq!((marked.len(), decides.len()), (1, 1), "{table}");
    assert_eq!(decides[0]["name"], output["limited_by"]);
    let first = marked[0].split_whitespace().next();
    assert_eq!(first, output["limited_by"].as_str());
    for limit in limits {
        let (name, source) = (limit["name"].as_str(), limit["source"].as_str());
        let (name, source) = (name.unwrap(), source.unwrap());
        let listed = |line: &str| line.trim_start().starts_with(name) && line.ends_with(source);
        assert!(table.lines().any(listed), "{name} of {source}: {table}");
    }
    let priority = format!("priority: {}: ", output["priority"].as_str().unwrap());
    assert!(table.contains(&priority), "{table}");
}

#[test]
fn ctrl_c_cancels_and_undoes() {
    let target = if cannot_pin(2 << 30) {
        "populate"
    } else {
        "io-uring"
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Running::start(&[
            "pin",
            "--size",
            "2G",
            "--threads",
            "1",
            "--target",
            target,
            "--min-chunk",
            "1M",
            "--max-chunk",
            "1M",
            "--json",
        ]);
        assert!(
            running.has_resident(64 << 20),
            "it ended before it was interrupted"
        );
        running.signal(signal);
        let text = running.stdout();
        assert_eq!(running.0.wait().unwrap().code(), Some(130), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["kind"], "cancelled", "{text}");
        assert_eq!(value["error"]["left_pinned_bytes"], 0);
        assert!(value["error"]["chunks_undone"].as_u64().unwrap() > 0);
        assert!(value["bytes"].as_u64().unwrap() < 2 << 30);
    }
}

#[test]
fn hold_stays_pinned_until_a_signal_and_then_ends_well() {
    if cannot_pin(64 << 20) {
        return;
    }
    let mut running = Running::start(&["pin", "--size", "32M", "--hold"]);
    let mut line = String::new();
    BufReader::new(running.0.stderr.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "holding; Ctrl-C unpins\n");
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    assert_eq!(field(&status, "VmPin:").as_deref(), Some("32768 kB"));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}
