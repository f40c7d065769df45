// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The examples, as programs of their own: they end as they promise on both targets, also where the pin fails.
#![expect(clippy::print_stdout, reason = "shown where the test fails later")]

mod machine;

use std::process::{Command, Output};

use machine::{
    describe,
    vm::{DEVICES, in_vm},
};

/// Where the machine has the examples.
const DIRECTORY: &str = "/examples";
const VFIO_TARGETS: [&str; 2] = ["type1", "iommufd"];
const NOTHING: &str = "the kernel counts VmLck: 0 kB VmPin: 0 kB";
/// root is exempt from RLIMIT_MEMLOCK by a capability.
const LITTLE_MEMLOCK: [&str; 5] = [
    "/bin/setpriv",
    "--bounding-set=-ipc_lock",
    "/bin/prlimit",
    "--memlock=8388608",
    "--",
];

struct Ended(Output);

impl Ended {
    /// Runs an example with its arguments, behind the words of a command that runs it.
    fn run(wrapper: &[&str], name: &str, target: &str, arguments: &[&str]) -> Self {
        let program = format!("{DIRECTORY}/{name}");
        let mut words = wrapper.to_vec();
        words.extend([&program, "--target", target, "--device", DEVICES[0]]);
        words.extend(arguments);
        let output = Command::new(words[0]).args(&words[1..]).output();
        let ended = Self(output.unwrap_or_else(|error| panic!("{}: {error}", words.join(" "))));
        println!("{}\n{}", words.join(" "), describe(&ended.0));
        ended
    }

    fn with(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code));
        self
    }

    /// On standard output.
    fn said(self, text: &str) -> Self {
        assert!(self.has(text), "it did not say: {text}");
        self
    }

    /// On standard error.
    fn complained(self, text: &str) -> Self {
        let errors = String::from_utf8_lossy(&self.0.stderr).into_owned();
        assert!(errors.contains(text), "it did not complain: {text}");
        self
    }

    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.stdout).contains(text)
    }
}

fn small_vmm_works(target: &str) {
    Ended::run(&[], "small_vmm", target, &[])
        .with(0)
        .said(&format!("pinned 192 MiB of 3 regions by {target} ("))
        .said("the guest says of the device's DMA: ok")
        .said("unpinned 192 MiB");
}

#[test]
fn a_guest_drives_its_device_by_type1() {
    if in_vm() {
        small_vmm_works("type1");
    }
}

#[test]
fn a_guest_drives_its_device_by_iommufd() {
    if in_vm() {
        small_vmm_works("iommufd");
    }
}

#[test]
fn a_guest_whose_memory_the_device_cannot_reach_is_not_started() {
    if !in_vm() {
        return;
    }
    for target in VFIO_TARGETS {
        let ended = Ended::run(&[], "small_vmm", target, &["--layout", "flat"])
            .with(1)
            .said(&format!("not pinned; {NOTHING}"))
            .complained("it overlaps the interrupt window of x86 (MSI), 0xfee00000..=0xfeefffff")
            .complained("remedy: leave a hole for it in the guest's memory layout");
        assert!(!ended.has("the guest says"));
        // The device is free again.
        small_vmm_works(target);
    }
}

#[test]
fn a_guest_larger_than_the_limit_is_not_started() {
    if !in_vm() {
        return;
    }
    for target in VFIO_TARGETS {
        let ended = Ended::run(&LITTLE_MEMLOCK, "small_vmm", target, &[])
            .with(1)
            .said(&format!("not pinned; {NOTHING}"))
            .complained("192 MiB needed, 8 MiB allowed by RLIMIT_MEMLOCK")
            .complained("remedy: `ulimit -l 196608`");
        assert!(!ended.has("the guest says"));
        small_vmm_works(target);
    }
}

fn memory_comes_and_goes(target: &str) {
    Ended::run(&[], "hot_plug", target, &[])
        .with(0)
        .said("40 blocks lie in 2 places")
        .said("half of a chunk is not removed: could not be unpinned: ")
        .said("the rest stays: ")
        .said("something else is mapped in this range of IOVAs; it was left as it is; ")
        .said("the guest has what it had: ")
        .said("all blocks are removed: ");
}

#[test]
fn memory_comes_and_goes_by_type1() {
    if in_vm() {
        memory_comes_and_goes("type1");
    }
}

#[test]
fn memory_comes_and_goes_by_iommufd() {
    if in_vm() {
        memory_comes_and_goes("iommufd");
    }
}

#[test]
fn a_pin_is_joined_after_the_other_work() {
    if !in_vm() {
        return;
    }
    for target in ["io-uring", "type1", "iommufd"] {
        Ended::run(
            &[],
            "early_start",
            target,
            &["--size", "64", "--boots", "1"],
        )
        .with(0)
        .said("one after the other: pin ")
        .said("started early: pin ");
    }
}

#[test]
fn a_boot_that_fails_cancels_its_pin() {
    if !in_vm() {
        return;
    }
    for target in ["io-uring", "type1", "iommufd"] {
        Ended::run(
            &[],
            "early_start",
            target,
            &["--size", "128", "--bad-kernel"],
        )
        .with(1)
        .said(NOTHING)
        .complained("the kernel image is not the one that shall be booted");
    }
}
