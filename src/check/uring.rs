// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Can io_uring be used, which pins without any device?

use std::io;

use super::{host::Host, row::Row};

const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
const NEEDED: &str = "`parapin pin` pins through it where no device is involved";

pub(super) fn row(host: &Host<'_>, device_asked: bool) -> Row {
    let id = "io-uring";
    let error = match host.probe.io_uring() {
        Ok(()) => return Row::ok(id, "can be set up", NEEDED),
        Err(error) => error,
    };
    let (why, remedy) = explain(host, &error);
    Row::missing(id, !device_asked, format!("refused: {why}"), NEEDED, remedy)
}

fn explain(host: &Host<'_>, error: &io::Error) -> (String, &'static str) {
    let disabled = host.number(DISABLED).ok().flatten();
    match disabled {
        Some(1) => (
            "kernel.io_uring_disabled is 1".to_owned(),
            "run as root, as a member of kernel.io_uring_group, or `sysctl kernel.io_uring_disabled=0`",
        ),
        Some(2) => (
            "kernel.io_uring_disabled is 2".to_owned(),
            "`sysctl kernel.io_uring_disabled=0`",
        ),
        _ if is_filtered(host) => (
            format!("{error}, by a seccomp filter"),
            "allow io_uring_setup and io_uring_register in the seccomp profile of the container",
        ),
        _ if error.kind() == io::ErrorKind::OutOfMemory => (
            error.to_string(),
            "raise RLIMIT_MEMLOCK, against which old kernels count the rings: `ulimit -l`",
        ),
        _ => (error.to_string(), "use a kernel with CONFIG_IO_URING"),
    }
}

/// Whether the process runs under a seccomp filter.
fn is_filtered(host: &Host<'_>) -> bool {
    let status = host.text("/proc/self/status").ok().flatten();
    let status = status.unwrap_or_default();
    let mut lines = status.lines();
    lines.any(|line| line.strip_prefix("Seccomp:").map(str::trim) == Some("2"))
}
