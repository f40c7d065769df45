// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Intel DSA and IAA: is there a work queue that this process may use, and how well?
//!
//! ```text
//!  idxd::Discovery ─► usable queues ─► mode, size, limits, node ─┐
//!                  └► left out ──────► why, and what helps ──────┼─► rows dsa, iaa
//!  CapEff of /proc/self/status ─► CAP_SYS_RAWIO: portals ────────┘
//! ```

use std::{io, path::Path};

use cgroup::Root;
use idxd::{Device, Discovery, DiscoveryError, Kind, LeftOut, Nodes, Roots, Unusable, WorkQueue};
use rustix::fs::{major, minor};

use super::{
    host::{Host, printable, size, some_of},
    probe::Probe,
    row::Row,
};

const CAP_SYS_RAWIO: u32 = 17;
/// What `/proc/self/ns/user` points to in the namespace that the capability has to be of.
const INITIAL: &str = "user:[4026531837]";
/// Descriptors in a batch below which submitting costs more than it needs to.
const GOOD_BATCH: u32 = 128;

pub(super) fn rows(host: &Host<'_>) -> Vec<Row> {
    let roots = Roots::at(host.root.resolve(Path::new("/")));
    let discovery = Discovery::read_with(&roots, &Probed(host.probe));
    let portals = may_map_portals(host.root);
    [Kind::Dsa, Kind::Iax]
        .into_iter()
        .map(|kind| match &discovery {
            Ok(discovery) => row(kind, discovery, portals),
            Err(error) => unlisted(kind, error),
        })
        .collect()
}

/// The stable name of the row, and what the kind is needed for.
fn about(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Dsa => (
            "dsa",
            "finds zero pages for a migration; software does without it",
        ),
        Kind::Iax => (
            "iaa",
            "compresses pages for a migration; software does without it",
        ),
    }
}

fn unlisted(kind: Kind, error: &DiscoveryError) -> Row {
    let (id, needed) = about(kind);
    let path = error.path;
    let why = printable(&error.source.to_string());
    Row::warn(
        id,
        format!("could not be read: {path}: {why}"),
        needed,
        format!("let this user read `{path}`, or look into it"),
    )
}

fn row(kind: Kind, discovery: &Discovery, portals: bool) -> Row {
    let (id, needed) = about(kind);
    let devices: Vec<String> = discovery.devices(kind).map(Device::to_string).collect();
    if devices.is_empty() {
        return Row::absent(id, "no such device", needed);
    }
    let devices = some_of(&devices);
    let left_out: Vec<&LeftOut> = discovery.left_out(kind).collect();
    let usable: Vec<&WorkQueue> = discovery.usable(kind).collect();
    let reasons = reasons(&left_out);
    if usable.is_empty() {
        let why = match reasons.as_slice() {
            [] => "none is configured".to_owned(),
            reasons => some_of(reasons),
        };
        return Row::warn(
            id,
            format!("{devices}: no queue that this process may use ({why})"),
            needed,
            nearest(&left_out),
        );
    }
    let described: Vec<String> = usable.iter().map(|queue| describe(queue)).collect();
    let mut found = format!("{devices} with {}", some_of(&described));
    if !reasons.is_empty() {
        found += &format!("; not usable: {}", some_of(&reasons));
    }
    let mut remedies = Vec::new();
    if !portals {
        found += match kind {
            Kind::Dsa => "; through write() only, without batches, as CAP_SYS_RAWIO is missing",
            Kind::Iax => "; through write() only, as CAP_SYS_RAWIO is missing",
        };
        remedies.push(
            "`AmbientCapabilities=CAP_SYS_RAWIO` in the systemd unit, `--cap-add SYS_RAWIO` for a container (not in a user \
             namespace of its own); it can be dropped when the queues are open"
                .to_owned(),
        );
    }
    let small = |queue: &&&WorkQueue| queue.max_batch().is_none_or(|batch| batch < GOOD_BATCH);
    let small = usable.iter().find(small).filter(|_| kind == Kind::Dsa);
    remedies.extend(small.map(|queue| queue.setup_commands()));
    if remedies.is_empty() {
        return Row::ok(id, found, needed);
    }
    Row::warn(id, found, needed, remedies.join("; and "))
}

/// A queue with what is known of it.
fn describe(queue: &WorkQueue) -> String {
    let mut known: Vec<String> = Vec::new();
    known.extend(queue.mode.map(|mode| mode.to_string()));
    known.extend(queue.size.map(|size| format!("size {size}")));
    if queue.kind() == Kind::Dsa {
        known.push(match queue.max_batch() {
            Some(batch) => format!("batches of {batch}"),
            None => "no batches".to_owned(),
        });
    }
    known.push(format!("{} at once", size(queue.max_transfer())));
    known.extend(queue.numa_node().map(|node| format!("node {node}")));
    format!("{} ({})", queue.name, known.join(", "))
}

/// Why queues are left out. Those that nobody configured are not worth a word beside others: most are.
fn reasons(left_out: &[&LeftOut]) -> Vec<String> {
    let told = left_out
        .iter()
        .filter(|left_out| left_out.why != Unusable::Unconfigured);
    told.map(ToString::to_string).collect()
}

/// What helps the first of those that lack least.
fn nearest(left_out: &[&LeftOut]) -> String {
    let nearest = left_out
        .iter()
        .rev()
        .filter(|one| one.why != Unusable::Unconfigured || has_room(&one.queue.device, left_out))
        .max_by_key(|one| &one.why);
    nearest.map_or_else(
        || "`accel-config list -i` tells what the device has".to_owned(),
        |nearest| nearest.remedy(),
    )
}

/// Whether a device has entries left for one more queue. The driver gives all of an IAA's to the kernel at start.
fn has_room(device: &Device, queues: &[&LeftOut]) -> bool {
    let of_device = queues.iter().filter(|one| one.queue.device.id == device.id);
    let taken: u32 = of_device.filter_map(|one| one.queue.size).sum();
    device.max_work_queues_size.is_none_or(|all| taken < all)
}

/// Whether this process may map portals: it has `CAP_SYS_RAWIO` in the initial user namespace.
fn may_map_portals(root: &Root) -> bool {
    let status = root.text(Path::new("/proc/self/status"));
    let capable = status.is_ok_and(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        set.is_some_and(|set| set >> CAP_SYS_RAWIO & 1 == 1)
    });
    let namespace = root.link(Path::new("/proc/self/ns/user"));
    capable && namespace.is_ok_and(|namespace| namespace.as_os_str() == INITIAL)
}

/// Nodes as a check's probe sees them.
#[derive(Debug)]
struct Probed<'a>(&'a dyn Probe);

impl Nodes for Probed<'_> {
    fn node(&self, path: &Path) -> io::Result<idxd::Node> {
        let node = self.0.node(path)?;
        Ok(idxd::Node {
            is_device: node.is_device,
            number: (major(node.number), minor(node.number)),
            may_open: node.may_open,
        })
    }
}
