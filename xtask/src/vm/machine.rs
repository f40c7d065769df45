// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine: what QEMU is told to emulate.
//!
//! Always by emulation of the CPU, also where the host could do better: so it is the same machine everywhere, its
//! AMD virtualization included.

use std::{path::Path, process::Command};

use parapin_vm::{Boot, Job, Mode};

use super::child::tied;

/// What goes into a machine, and where its parts leave their traces.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Shared with the guest.
    pub(crate) share: &'a Path,
    /// Takes what the kernel prints.
    pub(crate) console: &'a Path,
    pub(crate) boot: Boot,
    /// CPUs for benches.
    pub(crate) cpus: u32,
}

/// 4 CPUs on 2 nodes, so that tests find both.
const FOR_TESTS: [&str; 14] = [
    "-smp",
    // A socket for each node: the kernel warns of a cache that two nodes share.
    "4,sockets=2,cores=2",
    "-m",
    "3G",
    "-object",
    "memory-backend-ram,id=m0,size=1536M",
    "-object",
    "memory-backend-ram,id=m1,size=1536M",
    "-numa",
    "node,nodeid=0,cpus=0-1,memdev=m0",
    "-numa",
    "node,nodeid=1,cpus=2-3,memdev=m1",
    "-device",
    "intel-iommu,intremap=on,caching-mode=off",
];
/// CPUs beside equal memory, so that times are even.
const FOR_BENCHES: [&str; 4] = [
    "-m",
    "3G",
    "-device",
    "intel-iommu,intremap=on,caching-mode=off",
];
// On a busy host the emulated timer is late, and the kernel would take it for broken.
const KERNEL: &str = "console=ttyS0 panic=-1 hugepages=64 no_timer_check";

impl Machine<'_> {
    /// The command that boots it. Its standard output is the port that takes the lines.
    pub(crate) fn command(&self, mode: Mode) -> Command {
        let mut qemu = self.hardware(mode);
        qemu.args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-chardev",
            // `stdio` would close the port at the end of standard input, and the guest would wait for it for ever.
            "file,id=results,path=/dev/stdout",
        ]);
        // A second boot goes on where the first one ended.
        qemu.arg("-chardev")
            .arg(option("file,id=console,append=on,path=", self.console));
        qemu.args(["-serial", "chardev:console"]);
        self.port(&mut qemu, "results");
        qemu
    }

    /// The command that boots it with its console on the terminal.
    pub(crate) fn at_terminal(&self) -> Command {
        let mut qemu = self.hardware(Mode::Shell);
        qemu.args([
            "-nographic",
            "-serial",
            "mon:stdio",
            "-chardev",
            // Not `null`, which is never open.
            "file,id=results,path=/dev/null",
        ]);
        self.port(&mut qemu, "results");
        qemu
    }

    fn hardware(&self, mode: Mode) -> Command {
        let mut qemu = tied("qemu-system-x86_64");
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-vga",
            "none",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35,kernel-irqchip=split",
        ])
        .args(["-cpu", "max,+svm"])
        .args(match mode {
            Mode::Bench => &FOR_BENCHES[..],
            Mode::Test | Mode::Script | Mode::Shell => &FOR_TESTS[..],
        });
        if mode == Mode::Bench {
            qemu.arg("-smp").arg(self.cpus.to_string());
        }
        for address in Job::DEVICES {
            // Function 0 of a slot of the root bus: `0000:00:02.0` is `2.0` here.
            let slot = address
                .rsplit(':')
                .next()
                .unwrap_or(address)
                .trim_start_matches('0');
            qemu.arg("-device")
                .arg(format!("edu,addr={slot},dma_mask=0xffffffffffffffff"));
        }
        qemu.arg("-fsdev")
            .arg(option("local,id=out,security_model=none,path=", self.share));
        qemu.arg("-device").arg(format!(
            "virtio-9p-pci,fsdev=out,mount_tag={},addr=4.0",
            Job::SHARE_TAG
        ));
        qemu.arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs);
        // At a terminal the kernel's chatter would be in the way.
        let verbosity = if mode == Mode::Shell { " quiet" } else { "" };
        qemu.arg("-append")
            .arg(format!("{KERNEL} {}{verbosity}", self.boot.options()));
        qemu
    }

    fn port(&self, qemu: &mut Command, chardev: &str) {
        qemu.args(["-device", "virtio-serial-pci,addr=5.0", "-device"])
            .arg(format!(
                "virtserialport,chardev={chardev},name={}",
                Job::PORT
            ));
    }
}

/// An option of QEMU that ends with a path, whose commas would end it.
fn option(before: &str, path: &Path) -> String {
    format!("{before}{}", path.to_string_lossy().replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mode: Mode, boot: Boot) -> String {
        let path = Path::new("/a,b");
        let machine = Machine {
            kernel: path,
            initramfs: path,
            share: path,
            console: path,
            boot,
            cpus: 2,
        };
        let command = machine.command(mode);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        words.join(" ")
    }

    #[test]
    fn devices_are_where_the_tests_look_for_them() {
        let line = line(Mode::Test, Boot::Usual);
        assert!(
            line.contains("edu,addr=2.0,") && line.contains("edu,addr=3.0,"),
            "{line}"
        );
        assert!(line.contains("path=/a,,b"), "{line}");
    }

    #[test]
    fn the_kernel_is_told_which_boot_it_is() {
        for boot in Boot::ALL {
            let line = line(Mode::Test, boot);
            assert_eq!(Boot::of_options(&line), Some(boot), "{line}");
        }
    }

    #[test]
    fn benches_have_one_node() {
        assert!(line(Mode::Test, Boot::Usual).contains("-numa"));
        assert!(!line(Mode::Bench, Boot::Usual).contains("-numa"));
    }
}
