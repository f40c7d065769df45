// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Unusable`]: why this process cannot use a queue, and what would change that.
//!
//! ```text
//!  type user ──► device enabled ─► queue enabled ─► node there ─► is that device ─► may open ─► nobody has it
//!     │                │                │               │              │               │             │
//!  Kernel,        NoAddresses,     QueueDisabled     NoNode       NotADevice,       Denied         Busy
//!  Unconfigured   DeviceDisabled                                  OtherDevice
//! ```

use std::io;

use thiserror::Error;

use crate::{DeviceState, Kind, Mode, Nodes, QueueState, QueueType, WorkQueue};

/// Why this process cannot use a queue.
///
/// In the order of the steps that make a queue usable: the greater one is nearer to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
#[non_exhaustive]
pub enum Unusable {
    /// Another kind was asked for.
    #[error("it is of kind {is}, not {asked}")]
    WrongKind {
        /// What its device is.
        is: Kind,
        /// What was asked for.
        asked: Kind,
    },
    /// Its device is halted.
    #[error("device halted by an error")]
    Halted,
    /// It is for drivers.
    #[error("set up for the kernel{}", driver.as_deref().map(|name| format!(": {name}")).unwrap_or_default())]
    Kernel {
        /// Which driver.
        driver: Option<String>,
    },
    /// It is for nobody yet.
    #[error("not configured")]
    Unconfigured,
    /// Its device cannot work on addresses of processes.
    #[error(
        "disabled, and the IOMMU gives the device no addresses of processes: pasid_enabled is 0"
    )]
    NoAddresses,
    /// Its device is disabled.
    #[error("device disabled")]
    DeviceDisabled,
    /// It is disabled itself.
    #[error("disabled")]
    QueueDisabled,
    /// What has to be known is not told.
    #[error("its {attribute} cannot be read, or makes no sense")]
    Untold {
        /// Which attribute.
        attribute: &'static str,
    },
    /// It has no node.
    #[error("no node")]
    NoNode,
    /// Its node cannot be looked at.
    #[error("its node cannot be looked at: {why}")]
    Unseen {
        /// What the file system says.
        why: String,
    },
    /// There is something else where its node belongs.
    #[error("its node is no character device")]
    NotADevice,
    /// Its node is that of another device.
    #[error("its node is device {}:{}, it is {}:{}", found.0, found.1, own.0, own.1)]
    OtherDevice {
        /// Major and minor number of the node.
        found: (u32, u32),
        /// Major and minor number of the queue.
        own: (u32, u32),
    },
    /// This process may not open its node.
    #[error("permission denied")]
    Denied,
    /// It is dedicated, and somebody has it open.
    #[error("dedicated, and open elsewhere")]
    Busy,
}

impl Unusable {
    /// What makes `queue` usable, as far as a command can.
    #[must_use]
    pub fn remedy(&self, queue: &WorkQueue) -> String {
        let (device, node) = (&queue.device, queue.seen.display());
        match self {
            Self::WrongKind { is, .. } => format!("name it `{is}:{node}`"),
            Self::Halted => format!(
                "`echo 1 > /sys/bus/dsa/devices/{device}/../reset`, then configure the device anew"
            ),
            Self::Kernel { .. } | Self::Unconfigured => queue.setup_commands(),
            Self::NoAddresses => {
                "boot with `intel_iommu=on,sm_on`, and with `no5lvl` if that is not enough"
                    .to_owned()
            }
            Self::DeviceDisabled if queue.is_configured() => {
                format!("`accel-config enable-device {device}; accel-config enable-wq {queue}`")
            }
            Self::QueueDisabled if queue.is_configured() => {
                format!("`accel-config enable-wq {queue}`")
            }
            Self::DeviceDisabled | Self::QueueDisabled => queue.setup_commands(),
            Self::Untold { .. } => format!(
                "let this process read `/sys/bus/dsa/devices`, or name the queue: `--accel-path {}:{node}`",
                queue.kind()
            ),
            Self::NoNode => format!(
                "udev makes it when the queue is enabled; in a container: `--device {node}`"
            ),
            Self::Unseen { .. } => format!("let this process look at `{node}`"),
            Self::NotADevice | Self::OtherDevice { .. } => format!(
                "remove `{node}` and enable the queue again, or pass the node into the container again"
            ),
            Self::Denied => format!("`chown USER {node}`"),
            Self::Busy => {
                "end the process that has it open, or configure the queue as shared".to_owned()
            }
        }
    }
}

/// What sysfs says against a queue.
pub(crate) fn refused(queue: &WorkQueue) -> Result<(), Unusable> {
    let device = &queue.device;
    let enabled = queue.state == Some(QueueState::Enabled);
    if device.state == Some(DeviceState::Halted) {
        return Err(Unusable::Halted);
    }
    match queue.queue_type {
        Some(QueueType::Kernel) => {
            return Err(Unusable::Kernel {
                driver: queue.driver_name.clone(),
            });
        }
        Some(QueueType::None) => return Err(Unusable::Unconfigured),
        Some(QueueType::User) | None => {}
    }
    if device.pasid_enabled == Some(false) && !enabled {
        return Err(Unusable::NoAddresses);
    }
    if device.state == Some(DeviceState::Disabled) {
        return Err(Unusable::DeviceDisabled);
    }
    if queue.state == Some(QueueState::Disabled) {
        return Err(Unusable::QueueDisabled);
    }
    Ok(())
}

/// What sysfs does not say for a queue, though somebody who did not name it has to know.
pub(crate) fn untold(queue: &WorkQueue) -> Result<(), Unusable> {
    let known = [
        ("type", queue.queue_type.is_some()),
        ("device's state", queue.device.state.is_some()),
        ("state", queue.state.is_some()),
    ];
    match known.into_iter().find(|(_, known)| !known) {
        Some((attribute, _)) => Err(Unusable::Untold { attribute }),
        None => Ok(()),
    }
}

/// What its node says against a queue.
pub(crate) fn closed(queue: &WorkQueue, nodes: &dyn Nodes) -> Result<(), Unusable> {
    let node = nodes
        .node(&queue.path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unusable::NoNode,
            io::ErrorKind::PermissionDenied => Unusable::Denied,
            _ => Unusable::Unseen {
                why: error.to_string(),
            },
        })?;
    if !node.is_device {
        return Err(Unusable::NotADevice);
    }
    if let Some(own) = queue.number().filter(|own| *own != node.number) {
        let found = node.number;
        return Err(Unusable::OtherDevice { found, own });
    }
    if !node.may_open {
        return Err(Unusable::Denied);
    }
    // The kernel lets one process at a time open a dedicated queue, and one only once.
    let taken = queue.clients.is_some_and(|clients| clients > 0);
    if queue.mode == Some(Mode::Dedicated) && taken {
        return Err(Unusable::Busy);
    }
    Ok(())
}
