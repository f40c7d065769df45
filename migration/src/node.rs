// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which memory node a thread runs on.

use std::fs;

/// The node of the CPU that the calling thread runs on now; none where the kernel does not tell.
pub(crate) fn of_calling_thread() -> Option<u32> {
    let cpu = rustix::thread::sched_getcpu();
    // A CPU has a link to its node: /sys/devices/system/cpu/cpu3/node0.
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    })
}
