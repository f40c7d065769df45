// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Discovery`]: the devices of this host, and which of their queues this process may use.
//!
//! ```text
//!  /sys/bus/dsa/devices/dsa0    state enabled ┐
//!                       wq0.1   state enabled ├─► usable    /dev/dsa/wq0.1
//!                               type user     ┘
//!                       wq0.2   type kernel   ──► left out  set up for the kernel: dmaengine
//!                       iax1, wq1.0, …              (of IAA: /dev/iax/wq1.0)
//! ```
//!
//! Nothing is opened, so that nothing is taken from anybody. Between this and the opening everything can change.

use std::{fmt, fs, io, path::Path};

use thiserror::Error;

use crate::{
    Device, Kind, LiveNodes, Nodes, QueueName, Roots, Unusable, WorkQueue,
    attribute::{Attributes, decimal},
    unusable::{closed, refused, untold},
};

const DEVICES: &str = "/sys/bus/dsa/devices";
/// Bound of the listing, in entries; a device has some 20.
const ENTRIES_BOUND: usize = 1 << 14;

/// The devices of a host and their queues, as they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    devices: Vec<Device>,
    usable: Vec<WorkQueue>,
    left_out: Vec<LeftOut>,
}

impl Discovery {
    /// Looks at the host, for this process. A host without the idxd driver has no devices.
    ///
    /// # Errors
    ///
    /// The devices cannot be listed.
    pub fn read(roots: &Roots) -> Result<Self, DiscoveryError> {
        Self::read_with(roots, &LiveNodes)
    }

    /// The same, with somebody else to tell what the nodes are.
    ///
    /// # Errors
    ///
    /// The devices cannot be listed.
    pub fn read_with(roots: &Roots, nodes: &dyn Nodes) -> Result<Self, DiscoveryError> {
        let Survey { devices, queues } = Survey::read(roots)?;
        let mut discovery = Self {
            devices,
            usable: Vec::new(),
            left_out: Vec::new(),
        };
        for queue in queues {
            let judged = refused(&queue)
                .and_then(|()| untold(&queue))
                .and_then(|()| closed(&queue, nodes));
            match judged {
                Ok(()) => discovery.usable.push(queue),
                Err(why) => discovery.left_out.push(LeftOut { queue, why }),
            }
        }
        Ok(discovery)
    }

    /// The devices of a kind, by number.
    pub fn devices(&self, kind: Kind) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |found| found.kind == kind)
    }

    /// The queues of a kind that this process may use, by name.
    pub fn usable(&self, kind: Kind) -> impl Iterator<Item = &WorkQueue> {
        self.usable.iter().filter(move |found| found.kind() == kind)
    }

    /// The other queues of a kind, by name.
    pub fn left_out(&self, kind: Kind) -> impl Iterator<Item = &LeftOut> {
        let is = move |found: &&LeftOut| found.queue.kind() == kind;
        self.left_out.iter().filter(is)
    }
}

/// A queue that this process cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOut {
    /// The queue.
    pub queue: WorkQueue,
    /// Why it cannot be used.
    pub why: Unusable,
}

impl LeftOut {
    /// What makes it usable, as far as a command can.
    #[must_use]
    pub fn remedy(&self) -> String {
        self.why.remedy(&self.queue)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.queue.name, self.why)
    }
}

/// The devices of a host cannot be listed.
#[derive(Debug, Error)]
#[error("{path}: {source}; let this process list the directory")]
#[non_exhaustive]
pub struct DiscoveryError {
    /// The directory.
    pub path: &'static str,
    /// What the file system says.
    pub source: io::Error,
}

/// Everything that sysfs has, before anybody asks what of it is of use.
#[derive(Debug)]
pub(crate) struct Survey {
    devices: Vec<Device>,
    pub(crate) queues: Vec<WorkQueue>,
}

impl Survey {
    pub(crate) fn read(roots: &Roots) -> Result<Self, DiscoveryError> {
        let names = names(&roots.resolve(Path::new(DEVICES)))?;
        let attributes = |name: &str| {
            let directory = Path::new(DEVICES).join(name);
            Attributes::of(roots.resolve(&directory))
        };
        let mut devices: Vec<Device> = names
            .iter()
            .filter_map(|name| {
                let (kind, id) = device_name(name)?;
                Some(Device::read(kind, id, &attributes(name)))
            })
            .collect();
        devices.sort_by_key(|device| (device.id, device.kind));
        let mut queues: Vec<WorkQueue> = names
            .iter()
            .filter_map(|text| {
                let name: QueueName = text.parse().ok()?;
                let device = devices.iter().find(|device| device.id == name.device)?;
                Some(WorkQueue::read(device, name, &attributes(text), roots))
            })
            .collect();
        queues.sort_by_key(|queue| queue.name);
        Ok(Self { devices, queues })
    }
}

fn names(directory: &Path) -> Result<Vec<String>, DiscoveryError> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .take(ENTRIES_BOUND)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(DiscoveryError {
            path: DEVICES,
            source,
        }),
    }
}

/// The kind and the number in `dsa0` or `iax1`.
fn device_name(name: &str) -> Option<(Kind, u32)> {
    [Kind::Dsa, Kind::Iax].into_iter().find_map(|kind| {
        let number = decimal(name.strip_prefix(kind.name())?)?;
        Some((kind, u32::try_from(number).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!(device_name("dsa12"), Some((Kind::Dsa, 12)));
        assert_eq!(device_name("iax1"), Some((Kind::Iax, 1)));
        for name in ["dsa", "dsa1a", "dsa01", "iaa1", "dsa4294967296", "wq0.0"] {
            assert_eq!(device_name(name), None, "{name}");
        }
    }
}
