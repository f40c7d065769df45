// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin bench compress`: what it refuses and how, and that its results have what others rely on. What it measures is not
//! judged here: everything runs once with tiny sizes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench_output;
mod machine;

use std::fs;

use bench_output::{Refused, Scratch, assert_has, has_a_queue, names, row};
use idxd::Kind;
use machine::{describe, parapin};
use migration::Policy;
use serde_json::Value;

/// Behind `bench compress`.
const BAD_INPUT: &[Refused] = &[
    (
        &["--codec", "gzip"],
        2,
        &["raw, deflate, zstd, lz4, all", "gzip"],
    ),
    (
        &["--engine", "dsa"],
        2,
        &["software, iaa, model, auto", "dsa"],
    ),
    (
        &["--policy", "never"],
        2,
        &["retry, wait, software-later, delay, hardware-later, adaptive, all"],
    ),
    (
        &["--coding", "huffman"],
        2,
        &["fixed, canned, generated", "huffman"],
    ),
    (&["--channels", "0"], 2, &["--channels", "1..=64"]),
    (&["--channels", "65"], 2, &["--channels", "1..=64"]),
    (&["--rounds", "0"], 2, &["--rounds", "1..=1000"]),
    (&["--rounds", "3", "--test"], 2, &["--rounds", "--test"]),
    (&["--size", "0"], 2, &["--size", "more than 0"]),
    (
        &["--size", "4096"],
        2,
        &["--size 4096", "at least 524288 bytes", "compress --help"],
    ),
    (
        &["--size", "524289"],
        2,
        &["--size 524289", "multiple of 4096"],
    ),
    (&["--size", "7E"], 1, &["remedy", "--size"]),
    // What another engine or codec would need.
    (
        &["--engine", "software", "--policy", "wait"],
        2,
        &[
            "--policy is for --engine iaa and model and auto, not for software",
            "--help",
        ],
    ),
    (
        &["--engine", "software", "--policy", "all"],
        2,
        &["--policy is for --engine"],
    ),
    (
        &["--engine", "software", "--coding", "canned"],
        2,
        &["--coding is for --engine"],
    ),
    (
        &["--engine", "model", "--accel-path", "iax:/dev/iax/wq1.0"],
        2,
        &["--accel-path is for --engine iaa and auto, not for model"],
    ),
    (
        &["--codec", "zstd", "--policy", "wait"],
        2,
        &[
            "--policy is for pages that an IAA compresses",
            "not to zstd",
        ],
    ),
    (
        &["--codec", "lz4", "--engine", "iaa"],
        2,
        &["--engine iaa compresses to deflate, not to lz4"],
    ),
    // Pages.
    (
        &["--corpus", "/nowhere/guest.dump"],
        1,
        &[
            "--corpus /nowhere/guest.dump",
            "cannot be read",
            "No such file",
        ],
    ),
    (&["--corpus", "/"], 1, &["--corpus /", "cannot be read"]),
    (
        &["--corpus", "/dev/null"],
        1,
        &["too small", "first 0 pages", "at least 128", "remedy"],
    ),
    // Zero pages are never compressed.
    (
        &["--corpus", "/dev/zero"],
        1,
        &["too small", "0 of its first 4096 pages", "at least 128"],
    ),
    // Queues.
    (&["--accel-path", ""], 2, &["no queue is named"]),
    (
        &["--accel-path", "/dev/iax/wq1.0"],
        2,
        &["does not tell the kind"],
    ),
    (
        &["--accel-path", "iax:/dev/iax/wq999.9"],
        1,
        &["iax:/dev/iax/wq999.9", "no such queue"],
    ),
    (
        &["--engine", "iaa", "--accel-path", "iax:/dev/iax/wq999.9"],
        1,
        &["iax:/dev/iax/wq999.9", "no such queue"],
    ),
    (
        &["--test", "--html", "/nowhere/compress.html"],
        1,
        &["/nowhere/compress.html", "cannot be written"],
    ),
    (&["surplus"], 2, &["surplus"]),
];

#[test]
fn bad_input_is_refused_with_a_message() {
    bench_output::assert_refused("compress", BAD_INPUT);
}

#[test]
fn help_has_examples_and_exit_codes() {
    bench_output::assert_helps("compress");
}

/// A tiny run with these arguments.
fn tiny(arguments: &[&str]) -> Value {
    bench_output::tiny("compress", arguments)
}

#[test]
fn software_has_its_rows() {
    let output = tiny(&["--engine", "software"]);
    let names = names(&output);
    for (codec, encode, decode, ratio) in [
        ("raw", None, None, None),
        ("deflate", Some(">= 2"), Some(">= 1.8"), Some(">= 1")),
        ("zstd", Some(">= 3"), Some(">= 2.3"), Some(">= 1")),
        ("lz4", None, None, None),
    ] {
        for (what, target, has_baseline) in [
            ("encode", encode, true),
            ("decode", decode, true),
            ("ratio", ratio, true),
            ("cpu_per_page encode", None, false),
            ("cpu_per_page decode", None, false),
            ("restored", Some("= 1"), true),
        ] {
            let row = row(&output, &format!("compress/{codec}/{what}"));
            assert_eq!(row["target"].as_str(), target, "{row}");
            assert_eq!(row["baseline"].is_number(), has_baseline, "{row}");
        }
        // Every page came back.
        let restored = row(&output, &format!("compress/{codec}/restored"));
        assert_eq!(restored["value"], 128.0, "{restored}");
        assert_eq!(restored["ratio"], 1.0, "{restored}");
    }
    assert_eq!(row(&output, "compress/raw/ratio")["value"], 1.0);
    assert_has(
        &names,
        &[
            "compress/deflate/decode_same_streams",
            "compress/zlib_stream/encode",
            "compress/zlib_stream/ratio",
        ],
    );
    assert!(!names.iter().any(|name| name.contains("model")));
    let notes = output["notes"].as_array().unwrap();
    let first = notes[0].as_str().unwrap();
    for needle in ["with 4 channels", "at 1 Gbit/s", "at 100 Gbit/s"] {
        assert!(first.contains(needle), "{needle:?} is missing from {first}");
    }
    for class in migration::Class::ALL {
        let begin = format!("ratio on pages of {class}: zlib ");
        let line = notes.iter().find_map(|note| {
            let note = note.as_str().unwrap();
            note.starts_with(&begin).then_some(note)
        });
        assert!(line.unwrap().contains(", zstd "), "{line:?}");
    }
}

#[test]
fn the_model_has_its_rows() {
    let output = tiny(&["--engine", "model", "--codec", "deflate"]);
    for (devices, call) in [1, 2, 4]
        .map(|devices| [128, 512, 2048].map(|call| (devices, call)))
        .concat()
    {
        for (way, judged) in [("encode", call == 512), ("decode", false)] {
            let name = format!("compress/model/cpu_per_page devices={devices} call={call} {way}");
            let row = row(&output, &name);
            assert_eq!(
                row["target"].as_str(),
                judged.then_some("<= 150 ns"),
                "{name}"
            );
            // Software, on the same pages.
            assert!(row["baseline"].is_number(), "{name}");
        }
    }
    let notes = output["notes"].to_string();
    for policy in Policy::ALL {
        for rate in ["0.2", "0.8", "3.2"] {
            for who in ["alone", "shared"] {
                let name = format!("{policy} rate={rate} {who}");
                let row = row(&output, &format!("compress/policy/{name}"));
                // QEMU's, in turns.
                assert!(row["baseline"].is_number(), "{row}");
                assert!(notes.contains(&format!("  {name}: ")), "{name} in {notes}");
            }
        }
    }
    let ratio = |coding: &str| {
        let restored = row(&output, &format!("compress/model/restored coding={coding}"));
        assert_eq!(restored["ratio"], 1.0, "{restored}");
        let row = row(&output, &format!("compress/model/ratio coding={coding}"));
        row["value"].as_f64().unwrap()
    };
    let (fixed, canned, generated) = (ratio("fixed"), ratio("canned"), ratio("generated"));
    assert!(
        1.5 < fixed && fixed < canned && canned < generated,
        "{output}"
    );
    for needle in ["a model", "3.4 GB/s", "ns of CPU a page", "never run"] {
        assert!(notes.contains(needle), "{needle:?} is missing from {notes}");
    }
    // Nothing that was to be done by devices was done by the CPU.
    assert!(!notes.contains("fell to the CPU"), "{notes}");
}

#[test]
fn flags_narrow_what_is_compared() {
    let output = tiny(&[
        "--engine",
        "model",
        "--codec",
        "deflate",
        "--policy",
        "adaptive",
        "--coding",
        "canned",
        "--channels",
        "3",
    ]);
    let names = names(&output);
    let of = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    assert_eq!((of("compress/policy/"), of("/policy/adaptive ")), (6, 6));
    assert_eq!((of("coding="), of("coding=canned")), (2, 2));
    assert_eq!((of("/zstd/"), of("/raw/")), (0, 0));
    assert!(output["notes"][0].as_str().unwrap().contains("3 channels"));
    let output = tiny(&["--engine", "model", "--filter", "lz4/"]);
    let names = bench_output::names(&output);
    assert!(!names.is_empty() && names.iter().all(|name| name.contains("compress/lz4/")));
    // What an IAA writes is not what was asked for.
    let output = tiny(&["--codec", "zstd"]);
    let names = bench_output::names(&output);
    assert_has(&names, &["compress/zstd/encode", "compress/zlib_stream/"]);
    assert!(
        !names
            .iter()
            .any(|name| name.contains("model") || name.contains("deflate"))
    );
}

#[test]
fn pages_of_a_file_are_measured_without_its_zero_ones() {
    let scratch = Scratch::new("guest.dump");
    // Zero pages among 140 others, and some bytes that are no page.
    let mut bytes = vec![0; 150 * 4096 + 100];
    for page in (0..150).filter(|page| page % 15 != 0) {
        bytes[page * 4096 + 7..page * 4096 + 300].fill(u8::try_from(page).unwrap());
    }
    fs::write(&scratch.0, bytes).unwrap();
    let path = scratch.0.to_str().unwrap();
    let output = tiny(&["--engine", "software", "--size", "1M", "--corpus", path]);
    let restored = row(&output, "compress/deflate/restored");
    assert_eq!(
        (&restored["value"], &restored["baseline"]),
        (&140.0.into(), &140.0.into())
    );
    let notes = output["notes"].to_string();
    for needle in ["the first 150 pages of", "without 10 zero ones"] {
        assert!(notes.contains(needle), "{needle:?} is missing from {notes}");
    }
    assert!(
        !notes.contains("pages of heap"),
        "they have no class: {notes}"
    );
}

#[test]
fn auto_says_why_it_took_the_model() {
    if has_a_queue(Kind::Iax) {
        return;
    }
    let output = tiny(&["--filter", "devices=1"]);
    let notes = output["notes"].to_string();
    for needle in [
        "auto took the model",
        "no work queue of an IAA that this process may use",
        "not used: no IAA is bound",
        "the devices are a model",
    ] {
        assert!(notes.contains(needle), "{needle:?} is missing from {notes}");
    }
    assert_has(&names(&output), &["compress/model/cpu_per_page devices=1 "]);
}

#[test]
fn iaa_without_a_device_fails_and_says_what_is_missing() {
    if has_a_queue(Kind::Iax) {
        return;
    }
    let output = parapin(&["bench", "compress", "--engine", "iaa", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", describe(&output));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8_lossy(&output.stderr);
    for needle in [
        "no work queue of an IAA that this process may use",
        "no IAA is bound to the idxd driver",
        "remedy: docs/accelerators.md",
        "--engine model",
    ] {
        assert!(text.contains(needle), "{needle:?} is missing from {text}");
    }
}

#[test]
fn the_page_has_every_row() {
    let scratch = Scratch::new("compress.html");
    let path = scratch.0.to_str().unwrap();
    let output = tiny(&["--engine", "software", "--html", path]);
    let page = fs::read_to_string(&scratch.0).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for name in names(&output) {
        assert!(page.contains(&name), "{name} is missing");
    }
}
