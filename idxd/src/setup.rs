// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The commands that make a queue one that processes may use.
//!
//! ```text
//!  disable-wq ─► disable-device ─► config-wq, config-engine ─► enable-device ─► enable-wq ─► chown
//!   if enabled    if the size is     the driver forgot all      if it is not      makes the
//!                 to be set          but size and group                           node anew
//! ```

use std::fmt::Write;

use crate::{DeviceState, Kind, QueueState, WorkQueue};

/// Entries of a queue that has none yet, of 128 that a device shares out.
const SIZE: u32 = 16;
/// Descriptors in a batch that make submitting cheap.
const BATCH: u32 = 128;

impl WorkQueue {
    /// Commands that make it a shared queue for processes, with large batches, whatever it is now.
    ///
    /// What they disable loses its settings, and whoever uses it is cut off.
    #[must_use]
    pub fn setup_commands(&self) -> String {
        let device = &self.device;
        let is_on = device.state == Some(DeviceState::Enabled);
        // The driver refuses a size while the device is enabled, and keeps the size of a queue that is disabled.
        let resize = self.size.is_none() || !is_on;
        let mut commands = Vec::new();
        if self.state == Some(QueueState::Enabled) {
            commands.push(format!("accel-config disable-wq {self}"));
        }
        if is_on && resize {
            commands.push(format!("accel-config disable-device {device}"));
        }
        commands.push(self.config_command(resize));
        if resize {
            commands.push(format!(
                "accel-config config-engine {device}/engine{}.0 -g {}",
                device.id,
                self.group.unwrap_or(0)
            ));
            commands.push(format!("accel-config enable-device {device}"));
        }
        commands.push(format!("accel-config enable-wq {self}"));
        let node = self.seen.display();
        format!("`{}`; then `chown USER {node}`", commands.join("; "))
    }

    fn config_command(&self, resize: bool) -> String {
        let size = self.size.unwrap_or(SIZE);
        let group = self.group.unwrap_or(0);
        let mut command = format!("accel-config config-wq {self} -g {group}");
        if resize {
            let _ = write!(command, " -s {size}");
        }
        let _ = write!(command, " -p 10 -m shared -t {size}");
        if self.kind() == Kind::Dsa {
            let _ = write!(command, " --max-batch-size={BATCH}");
        }
        command + " -y user -n parapin -d user"
    }

    /// Whether it has all that the driver asks for before it enables a queue, as far as that is told.
    pub(crate) fn is_configured(&self) -> bool {
        self.size.is_some() && self.label.is_some() && self.group.is_some()
    }
}
