// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `init` of the virtual machine: sets it up, runs what the job says, tells the host line by line, and powers off.
//!
//! The kernel panics if its first process ends, so nothing here may end it: errors and panics are told to the host, and
//! then the machine goes off.
#![forbid(unsafe_code)]

mod bench;
mod devices;
mod kernel_messages;
mod live;
mod mounts;
mod process;
mod program;
mod results;
mod shell;
mod suite;
mod threads;

use std::{
    fs,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};
use parapin_vm::{Boot, Job, Mode};

use results::Results;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        // Elsewhere it would mount over what is there.
        return ExitCode::from(2);
    }
    let mut results = None;
    let done = catch_unwind(AssertUnwindSafe(|| work(&mut results)));
    let cause = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some("it panicked; the message is on the console".to_owned()),
    };
    match (cause, &mut results) {
        (Some(cause), Some(results)) => results.note(format!("init: {cause}")),
        // The console is all there is.
        (Some(cause), None) => _ = writeln!(io::stderr(), "init: {cause}"),
        (None, _) => {}
    }
    power_off()
}

fn work(port: &mut Option<Results>) -> Result<()> {
    mounts::early()?;
    let results = port.insert(Results::open()?);
    let boot = this_boot()?;
    mounts::late(boot)?;
    let job =
        fs::read_to_string(Job::FILE).with_context(|| format!("cannot read {}", Job::FILE))?;
    let job = Job::parse(&job)?;
    // Without an IOMMU vfio-pci refuses them, and no test there wants them.
    if boot.has_iommu() {
        for problem in devices::give_to_vfio() {
            results.note(problem);
        }
    }
    results.note(booted());
    match job.mode {
        Mode::Test => suite::run(&job, boot, results),
        Mode::Bench => bench::run(&job, results),
        Mode::Script => shell::script(&job, results),
        Mode::Shell => shell::interactive(),
    }
}

fn this_boot() -> Result<Boot> {
    let options =
        fs::read_to_string("/proc/cmdline").context("cannot read the kernel's options")?;
    Boot::of_options(&options).with_context(|| format!("no boot is named: {}", options.trim()))
}

/// Which kernel this is, and how long it took to come here.
fn booted() -> String {
    let line = |path| fs::read_to_string(path).unwrap_or_default();
    let (release, uptime) = (line("/proc/sys/kernel/osrelease"), line("/proc/uptime"));
    let seconds = uptime.split(' ').next().unwrap_or("?");
    format!("Linux {} is up after {seconds} s", release.trim())
}

/// Does not return: without power-off the host's deadline ends the machine.
fn power_off() -> ! {
    loop {
        nix::unistd::sync();
        let _ = reboot(RebootMode::RB_POWER_OFF);
        thread::sleep(Duration::from_secs(1));
    }
}
