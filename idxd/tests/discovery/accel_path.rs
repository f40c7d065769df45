// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Queues that a user names: what is understood, what is refused, and with which words.

use std::{fs, os::unix::fs::symlink};

use idxd::{AccelPath, AccelPathError, AccelPaths, Kind, Node, ResolveError, Unusable};
use proptest::prelude::*;

use crate::hosts::Host;

fn parse(text: &str) -> Result<Vec<String>, String> {
    let paths: Result<AccelPaths, AccelPathError> = text.parse();
    let entries = |paths: &AccelPaths| paths.as_slice().iter().map(ToString::to_string).collect();
    paths
        .map(|paths| entries(&paths))
        .map_err(|error| error.to_string())
}

#[test]
fn lists_are_understood() {
    let two = ["dsa:/dev/dsa/wq0.0", "iax:/dev/iax/wq1.0"];
    for text in [
        "dsa:/dev/dsa/wq0.0,iax:/dev/iax/wq1.0",
        "dsa:/dev/dsa/wq0.0 iaa:/dev/iax/wq1.0",
        " dsa:/dev/dsa/wq0.0\t,\n iax:/dev/iax/wq1.0 , ",
    ] {
        assert_eq!(parse(text).unwrap(), two, "{text:?}");
    }
    let one: AccelPath = "iaa:/dev/my-queue".parse().unwrap();
    assert_eq!(one.kind(), Kind::Iax);
    assert_eq!(one.path().to_str(), Some("/dev/my-queue"));
    let many: Vec<String> = (0..1000).map(|n| format!("dsa:/dev/dsa/wq{n}.0")).collect();
    assert_eq!(parse(&many.join(",")).unwrap(), many);
}

#[test]
fn each_wrong_entry_is_named_with_what_is_expected() {
    let path =
        "has no path of a node behind its kind; give an absolute one, such as dsa:/dev/dsa/wq0.0";
    let kind = "is of no kind that there is; begin with dsa: or iax: (or iaa:)";
    let none =
        "no queue is named; name each with its kind, such as dsa:/dev/dsa/wq0.0,iax:/dev/iax/wq1.0";
    let cases = [
        ("", none.to_owned()),
        (" ,\n, ", none.to_owned()),
        (
            "dsa:/dev/dsa/wq0.0,/dev/dsa/wq0.1",
            "`/dev/dsa/wq0.1` does not tell the kind; write it before a colon, such as dsa:/dev/dsa/wq0.0".to_owned(),
        ),
        ("qat:/dev/x", format!("`qat:/dev/x` {kind}")),
        (":/dev/x", format!("`:/dev/x` {kind}")),
        ("DSA:/dev/x", format!("`DSA:/dev/x` {kind}")),
        ("dsa:", format!("`dsa:` {path}")),
        ("dsa:wq0.0", format!("`dsa:wq0.0` {path}")),
        ("dsa:/dev/dsa/", format!("`dsa:/dev/dsa/` {path}")),
        ("dsa:/dev/$(reboot)", format!("`dsa:/dev/$(reboot)` {path}")),
        ("dsa:/\u{1b}[2J", format!("`dsa:/\\u{{1b}}[2J` {path}")),
        ("dsa:/\u{202e}", format!("`dsa:/\\u{{202e}}` {path}")),
        ("dsa:/dev/é", format!("`dsa:/dev/é` {path}")),
        (
            "dsa:/dev/dsa/wq0.0,dsa:/dev//dsa/./wq0.0",
            "`dsa:/dev//dsa/./wq0.0` names a node for the second time; name each once".to_owned(),
        ),
        (
            "dsa:/dev/dsa/wq0.0 iax:/dev/dsa/wq0.0",
            "`iax:/dev/dsa/wq0.0` names a node for the second time; name each once".to_owned(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text), Err(expected), "{text:?}");
    }
    let long = format!("dsa:/{}", "x".repeat(1 << 20));
    let error = parse(&long).unwrap_err();
    assert!(
        error.contains("x…` has no path") && error.len() < 300,
        "{error}"
    );
}

proptest! {
    #[test]
    fn nothing_panics_and_messages_fit_in_a_line(text in any::<String>()) {
        if let Err(message) = parse(&text) {
            prop_assert!(message.len() < 2000 && !message.contains(char::is_control));
        }
    }

    #[test]
    fn nothing_near_a_list_panics(text in "[dsaixq:/. ,\\n\u{202e}0-9w]{0,60}") {
        if let Ok(paths) = text.parse::<AccelPaths>() {
            prop_assert_eq!(paths.to_string().parse::<AccelPaths>(), Ok(paths));
        }
    }

    #[test]
    fn what_is_printed_is_understood(
        entries in prop::collection::vec((any::<bool>(), "(/[a-z0-9.@+=%:_-]{1,9}){1,4}"), 1..9),
        separator in "[, \t\n]{1,3}",
    ) {
        let text = |(dsa, path): &(bool, String)| format!("{}:{path}", if *dsa { "dsa" } else { "iax" });
        let texts: Vec<String> = entries.iter().map(text).collect();
        match texts.join(&separator).parse::<AccelPaths>() {
            Ok(paths) => {
                prop_assert_eq!(paths.as_slice().len(), texts.len());
                prop_assert_eq!(paths.to_string(), texts.join(","));
                prop_assert_eq!(paths.to_string().parse::<AccelPaths>(), Ok(paths));
            }
            Err(error) => {
                let is_duplicate = matches!(error, AccelPathError::Duplicate { .. });
                prop_assert!(is_duplicate, "{}", error);
            }
        }
    }
}

const NODES: &[(&str, (u32, u32))] = &[
    ("dev/dsa/wq0.0", (237, 0)),
    ("dev/dsa/wq2.0", (237, 2)),
    ("dev/dsa/wq2.3", (237, 3)),
    ("dev/iax/wq1.0", (236, 0)),
    ("dev/fast", (237, 2)),
    ("dev/null", (1, 3)),
];

#[test]
fn named_queues_are_found_in_their_order() {
    let host = Host::new("two-sockets").with_nodes(NODES);
    let queues = host.resolve("iaa:/dev/iax/wq1.0,dsa:/dev/fast dsa:/dev/dsa/wq0.0");
    let lines: Vec<String> = queues
        .unwrap()
        .iter()
        .map(|queue| host.line(queue))
        .collect();
    assert_eq!(
        lines,
        [
            "iax1/wq1.0 dev/iax/wq1.0 shared size 128 batch - transfer 2097152 node 0",
            "dsa2/wq2.0 dev/fast shared size 16 batch 1024 transfer 2097152 node 1",
            "dsa0/wq0.0 dev/dsa/wq0.0 shared size 16 batch 128 transfer 2097152 node 0",
        ]
    );
}

#[test]
fn attributes_that_are_absent_are_no_error() {
    let host = Host::new("sparse").with_nodes(&[
        ("dev/dsa/wq0.1", (9, 9)),
        ("dev/dsa/wq0.2", (9, 9)),
        ("dev/iax/wq1.0", (9, 9)),
    ]);
    let queues = host.resolve("dsa:/dev/dsa/wq0.1,dsa:/dev/dsa/wq0.2,iax:/dev/iax/wq1.0");
    let lines: Vec<String> = queues
        .unwrap()
        .iter()
        .map(|queue| host.line(queue))
        .collect();
    assert_eq!(
        lines,
        [
            "dsa0/wq0.1 dev/dsa/wq0.1 - size - batch 32 transfer 2097152 node -",
            "dsa0/wq0.2 dev/dsa/wq0.2 shared size - batch 32 transfer 2097152 node -",
            "iax1/wq1.0 dev/iax/wq1.0 - size - batch - transfer 2097152 node 0",
        ]
    );
}

#[test]
fn each_wrong_queue_is_told_with_what_helps() {
    let there = "there is no such queue; there are: dsa0/wq0.0, dsa0/wq0.1, dsa0/wq0.2, iax1/wq1.0 and 4 more";
    let cases = [
        ("dsa:/dev/dsa/wq7.0", format!("dsa:/dev/dsa/wq7.0: {there}")),
        ("dsa:/dev/null", format!("dsa:/dev/null: {there}")),
        ("dsa:/dev/missing", format!("dsa:/dev/missing: {there}")),
        (
            "dsa:/dev/iax/wq1.0",
            "dsa:/dev/iax/wq1.0: it is of kind iax, not dsa; to change that: name it `iax:/dev/iax/wq1.0`".to_owned(),
        ),
        (
            "iax:/dev/fast",
            "iax:/dev/fast: it is of kind dsa, not iax; to change that: name it `dsa:/dev/dsa/wq2.0`".to_owned(),
        ),
        (
            "dsa:/dev/dsa/wq0.0,dsa:/dev/dsa/wq2.1",
            "dsa:/dev/dsa/wq2.1: disabled; to change that: `accel-config enable-wq dsa2/wq2.1`".to_owned(),
        ),
        (
            "dsa:/dev/dsa/wq0.1",
            "dsa:/dev/dsa/wq0.1: no node; to change that: udev makes it when the queue is enabled; in a container: \
             `--device /dev/dsa/wq0.1`"
                .to_owned(),
        ),
        (
            "dsa:/dev/dsa/wq2.0 dsa:/dev/fast",
            "dsa:/dev/fast: dsa2/wq2.0 was named before by another path; name each queue once".to_owned(),
        ),
    ];
    let host = Host::new("two-sockets").with_nodes(NODES);
    for (text, expected) in cases {
        assert_eq!(host.resolve(text).unwrap_err().to_string(), expected);
    }
    let error = host.resolve("dsa:/dev/dsa/wq2.2").unwrap_err();
    let ResolveError::Unusable { why, remedy, .. } = error else {
        panic!("{error}");
    };
    let driver = Some("dmaengine".to_owned());
    assert_eq!(why, Unusable::Kernel { driver });
    assert!(remedy.contains("-y user"), "{remedy}");

    let bare = Host::bare().resolve("dsa:/dev/dsa/wq0.0").unwrap_err();
    assert_eq!(
        bare.to_string(),
        "dsa:/dev/dsa/wq0.0: there is no such queue; there are: none: no device is bound to the idxd driver, or it is \
         not loaded"
    );
}

#[test]
fn a_node_has_to_be_that_of_the_queue_and_open() {
    let mut host = Host::new("two-sockets").with_nodes(NODES);
    let node = Node {
        is_device: true,
        number: (237, 0),
        may_open: false,
    };
    let cases = [
        (
            node,
            "permission denied; to change that: `chown USER /dev/dsa/wq0.0`",
        ),
        (
            Node {
                number: (1, 3),
                ..node
            },
            "its node is device 1:3, it is 237:0; to change that: remove `/dev/dsa/wq0.0` and enable the queue again, or \
             pass the node into the container again",
        ),
    ];
    for (node, why) in cases {
        host.set_node("dev/dsa/wq0.0", Ok(node));
        let error = host.resolve("dsa:/dev/dsa/wq0.0").unwrap_err();
        assert_eq!(error.to_string(), format!("dsa:/dev/dsa/wq0.0: {why}"));
    }
}

#[test]
fn the_file_system_is_asked_where_nobody_else_answers() {
    let host = Host::new("two-sockets");
    host.put("dsa0/cdev_major", b"1\n");
    host.put("wq0.0/cdev_minor", b"3\n");
    let nodes = host.root().join("dev/dsa");
    fs::create_dir_all(&nodes).unwrap();
    symlink("/dev/null", nodes.join("wq0.0")).unwrap();
    symlink("/dev/null", nodes.join("mine")).unwrap();
    symlink("/dev/zero", nodes.join("wq0.1")).unwrap();
    fs::write(nodes.join("wq2.0"), "").unwrap();
    let resolve = |text: &str| text.parse::<AccelPaths>().unwrap().resolve(&host.roots());

    for path in ["dsa:/dev/dsa/wq0.0", "dsa:/dev/dsa/mine"] {
        let queues = resolve(path).unwrap();
        assert_eq!(queues[0].to_string(), "dsa0/wq0.0", "{path}");
        assert!(queues[0].path.starts_with(host.root()), "{path}");
    }
    for (path, needle) in [
        ("dsa:/dev/dsa/wq0.1", "its node is device 1:5, it is 1:1"),
        ("dsa:/dev/dsa/wq2.0", "its node is no character device"),
        ("iax:/dev/iax/wq1.0", "no node"),
    ] {
        let error = resolve(path).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
}
