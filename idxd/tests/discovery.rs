// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which queues are found on trees of sysfs, with which limits, and why the others are left out.
//!
//! Whole outcomes are compared, so that a queue too many fails as well as one too few.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "discovery/accel_path.rs"]
mod accel_path;
#[path = "discovery/hosts.rs"]
mod hosts;

use std::{fs, io, os::unix::fs::PermissionsExt};

use hosts::Host;
use idxd::{Discovery, Kind, LiveNodes, Node, Nodes, Roots, Unusable};

/// The nodes of `two-sockets`.
const NODES: &[(&str, (u32, u32))] = &[
    ("dev/dsa/wq0.0", (237, 0)),
    ("dev/dsa/wq0.1", (237, 1)),
    ("dev/iax/wq1.0", (236, 0)),
    ("dev/dsa/wq2.0", (237, 2)),
    ("dev/dsa/wq2.3", (237, 3)),
];

/// Why each queue is left out, and what helps.
fn remedies(host: &Host) -> Vec<(String, String)> {
    let discovery = host.discover();
    let left_out = [Kind::Dsa, Kind::Iax]
        .into_iter()
        .flat_map(|kind| discovery.left_out(kind));
    left_out
        .map(|left_out| (left_out.to_string(), left_out.remedy()))
        .collect()
}

#[test]
fn queues_of_two_sockets() {
    let host = Host::new("two-sockets").with_nodes(NODES);
    let expected = [
        "dsa0",
        "dsa2",
        "dsa0/wq0.0 dev/dsa/wq0.0 shared size 16 batch 128 transfer 2097152 node 0",
        "dsa0/wq0.1 dev/dsa/wq0.1 dedicated size 8 batch 32 transfer 2147483648 node 0",
        "dsa2/wq2.0 dev/dsa/wq2.0 shared size 16 batch 1024 transfer 2097152 node 1",
        "wq0.2: not configured",
        "wq2.1: disabled",
        "wq2.2: set up for the kernel: dmaengine",
        "wq2.3: dedicated, and open elsewhere",
        "iax1",
        "iax1/wq1.0 dev/iax/wq1.0 shared size 128 batch - transfer 2097152 node 0",
    ];
    assert_eq!(host.lines(), expected);
}

#[test]
fn every_attribute_is_read() {
    let host = Host::new("two-sockets").with_nodes(NODES);
    host.put("iax1/iaa_cap", b"0x10e\n");
    let discovery = host.discover();
    let text = |queue: &idxd::WorkQueue| {
        let text = format!("{queue:?}");
        text.replace(&format!("{}", host.root().display()), "")
    };
    let dsa: Vec<String> = discovery.usable(Kind::Dsa).map(text).collect();
    let op_cap = "00000000,00000000,00000000,00000000,00000000,00000000,00000001,003f03fd";
    assert_eq!(
        dsa[1],
        format!(
            "WorkQueue {{ device: Device {{ kind: Dsa, id: 0, state: Some(Enabled), numa_node: Some(0), \
             version: Some(256), gen_cap: Some(277316829455), op_cap: Some(\"{op_cap}\"), iaa_cap: None, \
             max_batch_size: Some(1024), max_transfer_size: Some(2147483648), max_work_queues_size: Some(128), \
             max_engines: Some(4), pasid_enabled: Some(true), configurable: Some(true), cdev_major: Some(237) }}, \
             name: QueueName {{ device: 0, index: 1 }}, path: \"/dev/dsa/wq0.1\", seen: \"/dev/dsa/wq0.1\", \
             state: Some(Enabled), queue_type: Some(User), mode: Some(Dedicated), size: Some(8), threshold: None, \
             priority: Some(10), group: Some(0), block_on_fault: Some(true), max_batch_size: Some(32), \
             max_transfer_size: Some(2147483648), label: Some(\"copy-1\"), driver_name: Some(\"user\"), \
             clients: Some(0), cdev_minor: Some(1) }}"
        )
    );
    let iax = discovery.devices(Kind::Iax).next().unwrap();
    assert_eq!(iax.iaa_cap, Some(0x10e));
    assert_eq!(iax.max_batch_size, None);
    let queue = discovery.usable(Kind::Iax).next().unwrap();
    assert_eq!((queue.threshold, queue.max_batch()), (Some(127), None));
}

#[test]
fn a_host_without_devices_has_none() {
    let host = Host::bare();
    assert_eq!(host.lines(), [""; 0]);
    fs::create_dir_all(host.attribute("")).unwrap();
    assert_eq!(host.lines(), [""; 0]);
}

#[test]
fn devices_that_cannot_be_listed_are_an_error() {
    let host = Host::bare();
    fs::create_dir_all(host.root().join("sys/bus/dsa")).unwrap();
    fs::write(host.root().join("sys/bus/dsa/devices"), "no directory").unwrap();
    let error = Discovery::read(&host.roots()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/sys/bus/dsa/devices: Not a directory (os error 20); let this process list the directory"
    );
}

#[test]
fn after_boot_all_has_to_be_configured() {
    let expected = [
        (
            "wq0.0: not configured",
            "`accel-config config-wq dsa0/wq0.0 -g 0 -s 16 -p 10 -m shared -t 16 --max-batch-size=128 -y user -n parapin \
             -d user; accel-config config-engine dsa0/engine0.0 -g 0; accel-config enable-device dsa0; \
             accel-config enable-wq dsa0/wq0.0`; then `chown USER /dev/dsa/wq0.0`",
        ),
        (
            "wq1.0: set up for the kernel: crypto",
            "`accel-config disable-wq iax1/wq1.0; accel-config config-wq iax1/wq1.0 -g 0 -p 10 -m shared -t 128 -y user \
             -n parapin -d user; accel-config enable-wq iax1/wq1.0`; then `chown USER /dev/iax/wq1.0`",
        ),
    ]
    .map(|(why, remedy)| (why.to_owned(), remedy.to_owned()));
    assert_eq!(remedies(&Host::new("after-boot")), expected);
}

#[test]
fn what_is_disabled_tells_the_step_that_is_missing() {
    let expected = [
        (
            "wq0.0: disabled, and the IOMMU gives the device no addresses of processes: pasid_enabled is 0",
            "boot with `intel_iommu=on,sm_on`, and with `no5lvl` if that is not enough",
        ),
        (
            "wq2.0: device disabled",
            "`accel-config config-wq dsa2/wq2.0 -g 0 -s 16 -p 10 -m shared -t 16 --max-batch-size=128 -y user -n parapin \
             -d user; accel-config config-engine dsa2/engine2.0 -g 0; accel-config enable-device dsa2; \
             accel-config enable-wq dsa2/wq2.0`; then `chown USER /dev/dsa/wq2.0`",
        ),
        (
            "wq4.0: disabled",
            "`accel-config config-wq dsa4/wq4.0 -g 1 -p 10 -m shared -t 32 --max-batch-size=128 -y user -n parapin -d user; \
             accel-config enable-wq dsa4/wq4.0`; then `chown USER /dev/dsa/wq4.0`",
        ),
        (
            "wq1.0: device disabled",
            "`accel-config enable-device iax1; accel-config enable-wq iax1/wq1.0`",
        ),
    ]
    .map(|(why, remedy)| (why.to_owned(), remedy.to_owned()));
    assert_eq!(remedies(&Host::new("disabled")), expected);

    let host = Host::new("two-sockets").with_nodes(NODES);
    let remedies = remedies(&host);
    assert_eq!(remedies[1].1, "`accel-config enable-wq dsa2/wq2.1`");
    assert_eq!(
        remedies[3].1,
        "end the process that has it open, or configure the queue as shared"
    );
    // Its size cannot be set while the device is enabled.
    assert!(
        remedies[0].1.starts_with(
            "`accel-config disable-device dsa0; accel-config config-wq dsa0/wq0.2 -g 0 -s 16"
        ),
        "{remedies:?}"
    );
}

#[test]
fn a_halted_device_needs_a_reset() {
    let host = Host::new("halted").with_nodes(&[("dev/dsa/wq0.0", (237, 0))]);
    assert_eq!(
        remedies(&host),
        [(
            "wq0.0: device halted by an error".to_owned(),
            "`echo 1 > /sys/bus/dsa/devices/dsa0/../reset`, then configure the device anew"
                .to_owned()
        )]
    );
}

#[test]
fn missing_attributes_mean_defaults_but_not_that_a_queue_is_enabled() {
    let host = Host::new("sparse").with_nodes(&[
        ("dev/dsa/wq0.0", (1, 3)),
        ("dev/dsa/wq0.1", (1, 3)),
        ("dev/iax/wq1.0", (1, 3)),
    ]);
    let expected = [
        "dsa0",
        "dsa0/wq0.0 dev/dsa/wq0.0 - size - batch 32 transfer 2097152 node -",
        "wq0.1: its type cannot be read, or makes no sense",
        "wq0.2: its state cannot be read, or makes no sense",
        "iax1",
        "wq1.0: its device's state cannot be read, or makes no sense",
    ];
    assert_eq!(host.lines(), expected);
    assert_eq!(
        remedies(&host)[0].1,
        "let this process read `/sys/bus/dsa/devices`, or name the queue: `--accel-path dsa:/dev/dsa/wq0.1`"
    );
}

#[test]
fn nonsense_counts_as_missing() {
    let nodes = [0, 1, 2, 3, 4].map(|index| format!("dev/dsa/wq0.{index}"));
    let nodes = nodes.each_ref().map(|path| (path.as_str(), (9, 9)));
    let host = Host::new("nonsense").with_nodes(&nodes);
    let expected = [
        "dsa0",
        "dsa0/wq0.0 dev/dsa/wq0.0 - size - batch 32 transfer 2097152 node -",
        "dsa0/wq0.1 dev/dsa/wq0.1 shared size 16 batch - transfer 4096 node -",
        "dsa0/wq0.2 dev/dsa/wq0.2 shared size 16 batch 2048 transfer 2147483648 node -",
        "wq0.3: its state cannot be read, or makes no sense",
        "wq0.4: its type cannot be read, or makes no sense",
    ];
    assert_eq!(host.lines(), expected);
    let discovery = host.discover();
    let queue = discovery.usable(Kind::Dsa).next().unwrap();
    let device = &queue.device;
    let words = (
        queue.threshold,
        queue.priority,
        queue.group,
        queue.block_on_fault,
    );
    assert_eq!(words, (None, None, None, None));
    assert_eq!((&queue.label, &queue.driver_name), (&None, &None));
    assert_eq!((queue.clients, queue.cdev_minor), (None, None));
    assert_eq!((device.version, device.gen_cap), (None, None));
    assert_eq!((&device.op_cap, device.max_engines), (&None, None));
    assert_eq!((device.pasid_enabled, device.configurable), (None, None));
    assert_eq!(
        (device.cdev_major, device.max_work_queues_size),
        (None, None)
    );
}

#[test]
fn limits_are_the_least_of_queue_and_device() {
    let cases = [
        ("128", "1024", "2097152", "2147483648", (Some(128), 2 << 20)),
        ("1024", "64", "2147483648", "4096", (Some(64), 4096)),
        ("", "16", "", "", (Some(16), 2 << 20)),
        ("", "", "", "65536", (Some(32), 65536)),
        ("2", "1", "1", "", (None, 1)),
        ("1", "", "", "", (None, 2 << 20)),
    ];
    for (batch, device_batch, transfer, device_transfer, expected) in cases {
        let host = Host::new("two-sockets").with_nodes(NODES);
        host.put("wq0.0/max_batch_size", batch.as_bytes());
        host.put("dsa0/max_batch_size", device_batch.as_bytes());
        host.put("wq0.0/max_transfer_size", transfer.as_bytes());
        host.put("dsa0/max_transfer_size", device_transfer.as_bytes());
        // What the driver hides from sysfs decides nothing: here it hides batches.
        host.put("wq0.0/op_config", b"00000000\n");
        let discovery = host.discover();
        let queue = discovery.usable(Kind::Dsa).next().unwrap();
        assert_eq!((queue.max_batch(), queue.max_transfer()), expected);
    }
}

#[test]
fn huge_and_binary_files_are_survived() {
    let host = Host::new("two-sockets").with_nodes(NODES);
    let (all, files) = (host.lines(), ["type", "mode", "size", "max_batch_size"]);
    for file in files {
        let endless = fs::File::create(host.attribute(&format!("wq0.0/{file}"))).unwrap();
        endless.set_len(1 << 40).unwrap();
    }
    let mut lines = host.lines();
    lines.retain(|line| !all.contains(line));
    assert_eq!(lines, ["wq0.0: its type cannot be read, or makes no sense"]);

    let padded = [b"user\n".as_slice(), &[b' '; 5000]].concat();
    for content in [
        b"\xff\xfe".as_slice(),
        b"user\n\n",
        b"user\0",
        b" user",
        b"",
        &padded,
    ] {
        host.put("wq0.0/type", content);
        let mut lines = host.lines();
        lines.retain(|line| !all.contains(line));
        assert_eq!(lines, ["wq0.0: its type cannot be read, or makes no sense"]);
    }
    // A file that no read works on.
    fs::remove_file(host.attribute("wq0.0/type")).unwrap();
    fs::create_dir(host.attribute("wq0.0/type")).unwrap();
    assert!(host.lines().contains(&lines[0]));
}

#[test]
fn nodes_decide_last() {
    let node = Node {
        is_device: true,
        number: (237, 0),
        may_open: true,
    };
    let cases: [(Result<Node, io::ErrorKind>, &str, &str); 6] = [
        (
            Err(io::ErrorKind::NotFound),
            "wq0.0: no node",
            "udev makes it when the queue is enabled; in a container: `--device /dev/dsa/wq0.0`",
        ),
        (
            Err(io::ErrorKind::PermissionDenied),
            "wq0.0: permission denied",
            "`chown USER /dev/dsa/wq0.0`",
        ),
        (
            Err(io::ErrorKind::TimedOut),
            "wq0.0: its node cannot be looked at: timed out",
            "let this process look at `/dev/dsa/wq0.0`",
        ),
        (
            Ok(Node {
                may_open: false,
                ..node
            }),
            "wq0.0: permission denied",
            "`chown USER /dev/dsa/wq0.0`",
        ),
        (
            Ok(Node {
                is_device: false,
                ..node
            }),
            "wq0.0: its node is no character device",
            "remove `/dev/dsa/wq0.0` and enable the queue again, or pass the node into the container again",
        ),
        (
            Ok(Node {
                number: (1, 3),
                ..node
            }),
            "wq0.0: its node is device 1:3, it is 237:0",
            "remove `/dev/dsa/wq0.0` and enable the queue again, or pass the node into the container again",
        ),
    ];
    let mut host = Host::new("two-sockets").with_nodes(NODES);
    for (node, why, remedy) in cases {
        host.set_node("dev/dsa/wq0.0", node);
        let expected = (why.to_owned(), remedy.to_owned());
        assert_eq!(remedies(&host)[0], expected);
    }
    // Where the driver does not tell the numbers, any device will do.
    fs::remove_file(host.attribute("wq0.0/cdev_minor")).unwrap();
    assert_eq!(host.discover().usable(Kind::Dsa).count(), 3);
}

#[test]
fn the_nearest_to_usable_is_the_greatest() {
    let steps = [
        Unusable::Halted,
        Unusable::Kernel { driver: None },
        Unusable::Unconfigured,
        Unusable::DeviceDisabled,
        Unusable::QueueDisabled,
        Unusable::NoNode,
        Unusable::Denied,
        Unusable::Busy,
    ];
    assert!(steps.is_sorted());
}

#[test]
fn live_nodes_are_looked_at_and_not_opened() {
    let host = Host::bare();
    let null = LiveNodes.node("/dev/null".as_ref()).unwrap();
    let expected = Node {
        is_device: true,
        number: (1, 3),
        may_open: true,
    };
    assert_eq!(null, expected);

    let plain = host.root().join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o000)).unwrap();
    let node = LiveNodes.node(&plain).unwrap();
    assert!(!node.is_device);
    let missing = LiveNodes.node(&host.root().join("missing")).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may open everything, so no permission is missing");
        return;
    }
    assert!(!node.may_open);
}

#[test]
fn this_machine_is_looked_at() {
    let discovery = Discovery::read(&Roots::live()).unwrap();
    let kinds = [Kind::Dsa, Kind::Iax];
    let devices: usize = kinds
        .map(|kind| discovery.devices(kind).count())
        .iter()
        .sum();
    if devices == 0 {
        println!("skipped: no DSA or IAA here");
        return;
    }
    for queue in kinds.iter().flat_map(|&kind| discovery.usable(kind)) {
        println!("{queue}: {queue:?}");
        assert!(LiveNodes.node(&queue.path).unwrap().may_open);
    }
}
