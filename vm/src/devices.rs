// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The two `edu` devices, which no driver takes by itself, are given to vfio-pci.

use std::{fs, io, path::PathBuf};

use parapin_vm::Job;

const DRIVER: &str = "vfio-pci";

/// Returns what did not work; the suite says the rest.
pub(crate) fn give_to_vfio() -> Vec<String> {
    let tries = Job::DEVICES.iter().map(|address| (address, bind(address)));
    tries
        .filter_map(|(address, tried)| {
            let error = tried.err()?;
            Some(format!("{address} is not given to {DRIVER}: {error}"))
        })
        .collect()
}

fn bind(address: &str) -> io::Result<()> {
    let device = PathBuf::from("/sys/bus/pci/devices").join(address);
    fs::write(device.join("driver_override"), DRIVER)?;
    fs::write("/sys/bus/pci/drivers_probe", address)?;
    let driver = fs::read_link(device.join("driver"))?;
    if driver.ends_with(DRIVER) {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} has it", driver.display())))
    }
}
