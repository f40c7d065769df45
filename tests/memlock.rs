// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An unprivileged user under a small RLIMIT_MEMLOCK: the check refuses at once; without it the kernel refuses in the
//! middle, and everything is undone.

mod machine;

use std::{path::Path, process::Command};

use machine::{
    alone, assert_foll_pinned, cannot_pin, describe, foll_pin, foll_pinned, is_root, json,
    public_parapin, skip,
};

/// `parapin` as a user without any capability, with 8 MiB of locked memory.
fn as_nobody(parapin: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
        ])
        .args(["prlimit", "--memlock=8388608:8388608", "--"])
        .arg(parapin)
        .args(arguments);
    command
}

fn possible() -> bool {
    if !is_root() {
        skip("only root can become another user");
    } else {
        return !cannot_pin(64 << 20);
    }
    false
}

#[test]
fn without_the_check_the_kernel_refuses_in_the_middle_and_all_is_undone() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let (_dir, parapin) = public_parapin();
    for threads in ["1", "4"] {
        let pinned_on_machine = foll_pinned();
        let (acquired, _) = foll_pin();
        let mut command = as_nobody(
            &parapin,
            &[
                "pin",
                "--size",
                "64M",
                "--min-chunk",
                "1M",
                "--max-chunk",
                "1M",
                "--no-check",
                "--json",
                "--threads",
                threads,
            ],
        );
        let output = json(&mut command, 1);
        let error = &output["error"];
        assert_eq!(error["kind"], "memlock", "{output}");
        assert!(error["chunks_undone"].as_u64().unwrap() >= 3, "{output}");
        assert_eq!(error["left_pinned_bytes"], 0);
        assert!(error["at"]["bytes"].as_u64().unwrap() <= 1 << 20);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("RLIMIT_MEMLOCK") && message.contains("os error 12"),
            "{message}"
        );
        assert!(
            error["remedy"].as_str().unwrap().contains("ulimit -l"),
            "{output}"
        );
        assert_eq!(
            output["verified_pinned_bytes"], 0,
            "VmPin is back to its old value"
        );
        assert!(foll_pin().0 > acquired, "something had been pinned");
        assert_foll_pinned(pinned_on_machine);
    }
}

#[test]
fn the_check_refuses_before_a_page_is_touched() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let (_dir, parapin) = public_parapin();
    let output = json(
        &mut as_nobody(&parapin, &["pin", "--size", "1G", "--json"]),
        1,
    );
    let error = &output["error"];
    assert_eq!(error["kind"], "memlock", "{output}");
    assert_eq!(error["chunks_undone"], 0);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("1 GiB needed, 8 MiB allowed by RLIMIT_MEMLOCK"),
        "{message}"
    );
    assert!(
        error["remedy"].as_str().unwrap().contains("ulimit -l"),
        "{output}"
    );
    // Of all children that ended so far, and none of them touched more than 64 MiB.
    let usage =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(
        usage.max_rss() < 100 << 10,
        "{} KiB were resident",
        usage.max_rss()
    );
}

#[test]
fn within_the_limit_an_unprivileged_user_pins() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let (_dir, parapin) = public_parapin();
    let output = json(
        &mut as_nobody(&parapin, &["pin", "--size", "6M", "--json"]),
        0,
    );
    assert_eq!(output["verified_pinned_bytes"], 6 << 20, "{output}");
}

#[test]
fn the_refusal_reads_well() {
    let _alone = alone();
    if !possible() {
        return;
    }
    let (_dir, parapin) = public_parapin();
    let output = as_nobody(&parapin, &["pin", "--size", "64M"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.starts_with("parapin: 64 MiB needed, 8 MiB allowed by RLIMIT_MEMLOCK"),
        "{}",
        describe(&output)
    );
    assert!(text.contains("\n  remedy: "), "{}", describe(&output));
}
