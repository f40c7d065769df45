// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The system calls and ioctls of a pin call are those that README tells a VMM's filter to allow: they are traced.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
mod machine;

use std::{
    collections::BTreeSet,
    env, fs,
    num::NonZeroUsize,
    process::{Command, Stdio},
    sync::Arc,
};

use edu::{Edu, Via};
use machine::{alone, describe, vm::in_vm};
use parapin::{Crew, Iova, Mapping, Pages, Pinner, Region, Regions};

const MIB: u64 = 1 << 20;
const TRACED: &str = "PARAPIN_TRACED";
const BEGIN: &str = "parapin-begins";
const END: &str = "parapin-ends";
const README: &str = include_str!("../README.md");

/// What README lists under a heading of its table of calls: names, and ioctls by number.
fn listed(heading: &str) -> BTreeSet<String> {
    let begin = format!("<!-- calls: {heading} -->");
    let (_, rest) = README
        .split_once(&begin)
        .unwrap_or_else(|| panic!("README has no {begin}"));
    let (text, _) = rest.split_once("<!-- end -->").unwrap();
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// What is traced, run by the tests below in a process of its own.
#[test]
fn traced_job() {
    let Some(what) = env::var_os(TRACED) else {
        return;
    };
    let what = what.into_string().unwrap();
    let via = Via::BOTH
        .into_iter()
        .find(|via| what.starts_with(via.name()))
        .unwrap();
    let edu = Edu::open(via);
    let target = edu.target();
    let memory = Arc::new(Mapping::anonymous(128 * MIB, Pages::Small).unwrap());
    let regions = Regions::new([Region::of_mapping(memory, Iova(1 << 32)).unwrap()]).unwrap();
    let crew = Arc::new(Crew::new(1, 19));
    let mut pinner = Pinner::new()
        .threads(NonZeroUsize::new(2).unwrap())
        .crew(crew);
    // One write each, without a newline that would be another.
    eprint!("{BEGIN}");
    let pinned = pinner.pin(&target, &regions).unwrap();
    pinned.unpin().unwrap();
    eprint!("{END}");
}

/// Names of the calls, and numbers of the ioctls, between the two marks.
fn calls(trace: &str) -> BTreeSet<String> {
    trace
        .lines()
        .skip_while(|line| !line.contains(BEGIN))
        .skip(1)
        .take_while(|line| !line.contains(END))
        .filter_map(|line| {
            let call = line.split_once(' ')?.1.trim_start();
            let (name, arguments) = call.split_once('(')?;
            if !name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                // `<... resumed>`, signals, exits.
                return None;
            }
            Some(match name {
                "ioctl" => format!("ioctl {}", arguments.split(", ").nth(1)?),
                name => name.to_owned(),
            })
        })
        .collect()
}

fn trace(via: Via) -> BTreeSet<String> {
    let file = env::temp_dir().join(format!("parapin-calls-{}", via.name()));
    let output = Command::new("strace")
        .args(["-f", "-qq", "-e", "raw=ioctl", "-o"])
        .arg(&file)
        .arg(env::current_exe().unwrap())
        .args(["--exact", "traced_job", "--nocapture", "--test-threads=1"])
        .env(TRACED, via.name())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", describe(&output));
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    calls(&text)
}

#[test]
fn every_call_of_a_pin_call_is_listed_and_every_ioctl_is_needed() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let traced = trace(via);
        let listed = ["threads", "memory", "limits", via.name()]
            .into_iter()
            .flat_map(listed)
            .collect();
        let missing: Vec<_> = traced.difference(&listed).collect();
        assert!(
            missing.is_empty(),
            "{via:?}: README does not list {missing:?}; traced: {traced:?}"
        );
        let ioctls = |calls: &BTreeSet<String>| -> BTreeSet<String> {
            calls
                .iter()
                .filter(|call| call.starts_with("ioctl "))
                .cloned()
                .collect()
        };
        assert_eq!(
            ioctls(&traced),
            ioctls(&listed),
            "{via:?}: just as many ioctls as needed"
        );
    }
}
