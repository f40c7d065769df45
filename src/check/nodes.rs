// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device nodes that lead to a pin, and whether this process may open them.
//!
//! ```text
//!  by group    /dev/vfio/vfio ──── /dev/vfio/12               type1, or iommufd in its clothes
//!  by device   /dev/iommu ──────── /dev/vfio/devices/vfio0    iommufd
//! ```
//!
//! One complete way is enough. Where there is none, the one that lacks less fails.
//!
//! # Gotchas
//!
//! A node can be there without a driver: `/dev/vfio/vfio` is made at boot, so that opening it loads the module.
//! Opening is what this must not do; `/sys/class/misc` tells whether the driver has come.
//!
//! `/dev/vfio/vfio` has the same number whoever provides it. If it is `/dev/iommu` under another name, or if there is
//! no `vfio_iommu_type1`, without which VFIO's own container pins nothing, it is iommufd's.

use std::{io, path::Path};

use super::{
    device::Device,
    host::{Found, Host},
    row::Row,
};

const CONTAINER: &str = "/dev/vfio/vfio";
const IOMMUFD: &str = "/dev/iommu";
const MISC: &str = "/sys/class/misc";

const CONTAINER_NEEDED: &str = "the container of the device's group, if /dev/iommu is not used; type1 pins for one thread at a time";
const IOMMUFD_NEEDED: &str =
    "pins for many threads at once, for devices with a character device of their own";
const NODE_NEEDED: &str = "this process may open the device by its group, or by itself";

/// What is at the path of a device node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// A device of this number, that this process may open.
    Usable(u64),
    Missing,
    /// A file or a directory.
    NoDevice,
    Denied,
    /// A node whose module is not loaded.
    NoDriver,
    Unknown(String),
}

impl State {
    fn is_usable(&self) -> bool {
        matches!(self, Self::Usable(_))
    }

    fn text(&self) -> String {
        match self {
            Self::Usable(_) => "usable".to_owned(),
            Self::Missing => "does not exist".to_owned(),
            Self::NoDevice => "is not a device node".to_owned(),
            Self::Denied => "may not be opened by this user".to_owned(),
            Self::NoDriver => "exists, but its module is not loaded".to_owned(),
            Self::Unknown(why) => format!("could not be read: {why}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DeviceNode {
    path: String,
    state: State,
}

/// Who answers at `/dev/vfio/vfio`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Type1,
    Iommufd,
}

/// A way to a device, and what is lacking on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Group,
    Device,
}

/// All nodes that matter.
#[derive(Debug)]
pub(super) struct Nodes {
    container: DeviceNode,
    provider: Option<Provider>,
    iommufd: DeviceNode,
    /// Whether a device was asked for.
    asked: bool,
    /// Whether VFIO holds that device, so that its nodes should be there.
    held: bool,
    group: Option<DeviceNode>,
    device: Option<DeviceNode>,
}

impl Nodes {
    pub(super) fn read(host: &Host<'_>, asked: bool, device: Option<&Device>) -> Self {
        let mut container = misc(host, CONTAINER, "vfio");
        let iommufd = misc(host, IOMMUFD, "iommu");
        let provider = provider(host, &container.state, &iommufd.state);
        if container.state.is_usable() && provider.is_none() {
            container.state = State::NoDriver;
        }
        let held = device.is_some_and(Device::is_held_by_vfio);
        let group = device.and_then(|device| group_node(host, &device.group));
        let cdev = device.and_then(|device| device.cdev.clone().ok()?);
        let device = cdev.map(|name| plain(host, format!("/dev/vfio/devices/{name}")));
        Self {
            container,
            provider,
            iommufd,
            asked,
            held,
            group,
            device,
        }
    }

    /// Who provides `/dev/vfio/vfio`, if anybody.
    pub(super) fn provider(&self) -> Option<Provider> {
        self.provider
    }

    /// Whether the device will be reached through iommufd itself, which counts pins for each user.
    pub(super) fn counts_by_user(&self) -> bool {
        self.asked && self.is_complete(Way::Device)
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = vec![self.container_row(), self.iommufd_row()];
        if self.asked {
            rows.push(self.node_row());
        }
        rows
    }

    fn entry(&self, way: Way) -> &DeviceNode {
        match way {
            Way::Group => &self.container,
            Way::Device => &self.iommufd,
        }
    }

    fn node(&self, way: Way) -> Option<&DeviceNode> {
        match way {
            Way::Group => self.group.as_ref(),
            Way::Device => self.device.as_ref(),
        }
    }

    fn is_complete(&self, way: Way) -> bool {
        self.lacks(way) == 0
    }

    /// How much has to change on a way; nodes of a device count from when VFIO holds it.
    fn lacks(&self, way: Way) -> usize {
        let usable = |node: &DeviceNode| node.state.is_usable();
        let node = !self.held || self.node(way).is_some_and(usable);
        usize::from(!usable(self.entry(way))) + usize::from(!node)
    }

    /// The way that has to be repaired; none if one is complete, or nothing was asked for.
    fn broken(&self) -> Option<Way> {
        let (group, device) = (self.lacks(Way::Group), self.lacks(Way::Device));
        match (group, device) {
            _ if !self.asked => None,
            (0, _) | (_, 0) => None,
            _ if group <= device => Some(Way::Group),
            _ => Some(Way::Device),
        }
    }

    fn container_row(&self) -> Row {
        let id = "vfio-container";
        let by = match self.provider {
            Some(Provider::Type1) => "VFIO (vfio_iommu_type1)",
            Some(Provider::Iommufd) if self.same_number() => "iommufd (it is /dev/iommu)",
            Some(Provider::Iommufd) => "iommufd (there is no vfio_iommu_type1)",
            None => "nobody",
        };
        if self.container.state.is_usable() {
            return Row::ok(
                id,
                format!("{CONTAINER}, provided by {by}"),
                CONTAINER_NEEDED,
            );
        }
        let remedy = match self.container.state {
            State::NoDriver => "`modprobe vfio_iommu_type1`",
            State::Missing => "`modprobe vfio-pci` (in a container: `--device /dev/vfio/vfio`)",
            State::NoDevice => "pass the device node into the container: `--device /dev/vfio/vfio`",
            _ => "`chmod 666 /dev/vfio/vfio`, which is its usual mode",
        };
        self.unusable(id, Way::Group, CONTAINER_NEEDED, remedy)
    }

    fn same_number(&self) -> bool {
        self.container.state == self.iommufd.state
    }

    fn iommufd_row(&self) -> Row {
        let id = "iommufd";
        if self.iommufd.state.is_usable() {
            return Row::ok(id, IOMMUFD, IOMMUFD_NEEDED);
        }
        let remedy = match self.iommufd.state {
            State::NoDriver => "`modprobe iommufd`",
            State::Missing => {
                "`modprobe iommufd`, of a kernel 6.2 or later with CONFIG_IOMMUFD (in a container: `--device /dev/iommu`)"
            }
            State::NoDevice => "pass the device node into the container: `--device /dev/iommu`",
            _ => "`chown USER /dev/iommu`, or a udev rule: KERNEL==\"iommu\", OWNER=\"USER\"",
        };
        self.unusable(id, Way::Device, IOMMUFD_NEEDED, remedy)
    }

    /// The row of an entry that is of no use: fatal only where no way is left.
    fn unusable(&self, id: &str, way: Way, needed: &str, remedy: &str) -> Row {
        let node = self.entry(way);
        let found = format!("{} {}", node.path, node.state.text());
        match node.state {
            _ if self.broken() == Some(way) => Row::fail(id, found, needed, remedy),
            State::Missing | State::NoDriver => Row::optional(id, found, needed, remedy),
            _ => Row::warn(id, found, needed, remedy),
        }
    }

    fn node_row(&self) -> Row {
        let id = "device-node";
        let known: Vec<&DeviceNode> = [Way::Group, Way::Device]
            .into_iter()
            .filter_map(|way| self.node(way))
            .collect();
        let shown: Vec<String> = known
            .iter()
            .map(|node| match node.state {
                State::Usable(_) => node.path.clone(),
                _ => format!("{} {}", node.path, node.state.text()),
            })
            .collect();
        let shown = shown.join(", ");
        if !self.held {
            return Row::absent(
                id,
                "none before a VFIO driver holds the device",
                NODE_NEEDED,
            );
        }
        let node = self.broken().map(|way| self.node(way));
        match node {
            Some(Some(node)) if !node.state.is_usable() => {
                Row::fail(id, shown, NODE_NEEDED, open_up(node))
            }
            Some(None) => Row::fail(
                id,
                "VFIO has made no node for the device",
                NODE_NEEDED,
                "use a kernel with CONFIG_VFIO_GROUP or CONFIG_VFIO_DEVICE_CDEV",
            ),
            _ => Row::ok(id, shown, NODE_NEEDED),
        }
    }
}

/// How to get at the node of a device.
fn open_up(node: &DeviceNode) -> String {
    let path = &node.path;
    match node.state {
        State::Denied => format!(
            "`chown USER {path}`; to keep it so, a udev rule: SUBSYSTEM==\"vfio\", OWNER=\"USER\""
        ),
        _ => format!("have udev or devtmpfs make the node; in a container: `--device {path}`"),
    }
}

fn plain(host: &Host<'_>, path: String) -> DeviceNode {
    let state = match host.probe.node(&host.root.resolve(Path::new(&path))) {
        Ok(node) if !node.is_device => State::NoDevice,
        Ok(node) if !node.may_open => State::Denied,
        Ok(node) => State::Usable(node.number),
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Missing,
        Err(error) => State::Unknown(error.to_string()),
    };
    DeviceNode { path, state }
}

/// A node of a driver that registers itself below `/sys/class/misc`.
fn misc(host: &Host<'_>, path: &str, name: &str) -> DeviceNode {
    let mut node = plain(host, path.to_owned());
    let registered = |name: &str| host.has(&format!("{MISC}/{name}"));
    let is_alias = path == CONTAINER && same(host, CONTAINER, IOMMUFD) && registered("iommu");
    if node.state.is_usable() && host.has(MISC) && !registered(name) && !is_alias {
        node.state = State::NoDriver;
    }
    node
}

/// Whether two names lead to one device.
fn same(host: &Host<'_>, one: &str, other: &str) -> bool {
    let number = |path: &str| {
        let node = host.probe.node(&host.root.resolve(Path::new(path)));
        node.ok().map(|node| node.number)
    };
    number(one).is_some() && number(one) == number(other)
}

fn group_node(host: &Host<'_>, group: &Found<u32>) -> Option<DeviceNode> {
    let group = group.as_ref().ok().copied().flatten()?;
    let unsafe_node = plain(host, format!("/dev/vfio/noiommu-{group}"));
    if unsafe_node.state == State::Missing {
        return Some(plain(host, format!("/dev/vfio/{group}")));
    }
    Some(unsafe_node)
}

fn provider(host: &Host<'_>, container: &State, iommufd: &State) -> Option<Provider> {
    if !container.is_usable() {
        return None;
    }
    if container == iommufd {
        return Some(Provider::Iommufd);
    }
    if host.has("/sys/module/vfio_iommu_type1") {
        return Some(Provider::Type1);
    }
    host.has("/sys/module/iommufd").then_some(Provider::Iommufd)
}
