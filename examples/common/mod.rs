// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What every example needs and none is about: its arguments, how it ends, and what the kernel counts.
#![allow(
    dead_code,
    reason = "every example compiles this and uses its own part"
)]

use std::{env, error::Error, fs, io, path::PathBuf, process::ExitCode};

use parapin::PinError;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) const MIB: u64 = 1 << 20;

/// The value behind `--name` on the command line.
pub(crate) fn value(name: &str) -> Option<String> {
    env::args().skip_while(|word| word != name).nth(1)
}

/// Whether `--name` is on the command line.
pub(crate) fn flag(name: &str) -> bool {
    env::args().any(|word| word == name)
}

/// Where the device of `--device`, such as `0000:00:02.0`, is in sysfs. It must have been given to vfio-pci.
pub(crate) fn device() -> Result<PathBuf> {
    let address = value("--device").ok_or("say which device: --device 0000:00:02.0")?;
    let path = PathBuf::from("/sys/bus/pci/devices").join(address);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("{} does not exist", path.display()).into()),
    }
}

/// What the kernel counts as pinned for this process: by type1 as `VmLck`, by iommufd and io_uring as `VmPin`.
pub(crate) fn pinned_by_kernel() -> io::Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let counters = status
        .lines()
        .filter(|line| line.starts_with("VmLck:") || line.starts_with("VmPin:"));
    let words = counters.flat_map(str::split_whitespace);
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Ends a program: a failed pin says what to change on the host, and the user should see it.
#[expect(clippy::print_stderr, reason = "tells why the example failed")]
pub(crate) fn exit(done: Result<()>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    if let Some(remedy) = error.downcast_ref().and_then(PinError::remedy) {
        eprintln!("remedy: {remedy}");
    }
    ExitCode::FAILURE
}
