// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine of `cargo xtask vm`, seen from a test inside: see `vm/README.md`.

use std::{env, path::PathBuf};

use super::skip;

/// PCI addresses of the two `edu` devices that belong to vfio-pci.
pub(crate) const DEVICES: [&str; 2] = ["0000:00:02.0", "0000:00:03.0"];
/// Shared with the host, which finds it as `vm/out` in cargo's target directory.
pub(crate) const SHARE: &str = "/out";

/// Whether this runs inside; says why the test does nothing where it does not.
pub(crate) fn in_vm() -> bool {
    let inside = env::var_os("PARAPIN_VM").is_some();
    if !inside {
        skip("needs the VM: cargo xtask vm test");
    }
    inside
}

/// Announces a complaint in the kernel's log: one with `text` in any of its lines does not make this test fail.
///
/// It may come or not; whoever wants it to come looks for it.
pub(crate) fn expect_kernel(text: &str) {
    println!("expects-kernel: {text}");
}

/// Where sysfs keeps one of [`DEVICES`].
pub(crate) fn sysfs(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}
