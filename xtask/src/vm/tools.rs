// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What has to be installed, and which Debian package has it.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::kernel;

/// A command, or a file by its absolute path, and the package that has it.
type Need = (&'static str, &'static str);

/// To build the kernel or its headers.
const BUILD: [Need; 11] = [
    (kernel::SOURCE, kernel::PACKAGE),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("make", "build-essential"),
    ("gcc", "build-essential"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("rsync", "rsync"),
    ("/usr/include/gelf.h", "libelf-dev"),
    ("dpkg-query", "dpkg"),
];
/// To boot it and to have something to work with inside.
const RUN: [Need; 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dash", "dash"),
    ("setpriv", "util-linux"),
    ("prlimit", "util-linux"),
    ("taskset", "util-linux"),
    ("strace", "strace"),
];

pub(crate) fn need_to_build() -> Result<()> {
    need(&absent(&BUILD))
}

pub(crate) fn need_to_run() -> Result<()> {
    let mut needs = absent(&RUN);
    if !kernel::is_cached() {
        needs.extend(absent(&BUILD));
    }
    need(&needs)
}

/// What is missing to run the machine, in one line; nothing if it can run.
pub(crate) fn missing() -> Option<String> {
    need_to_run().err().map(|error| error.to_string())
}

/// Where a command is.
pub(crate) fn find(command: &str) -> Option<PathBuf> {
    if command.starts_with('/') {
        return Path::new(command).exists().then(|| command.into());
    }
    let path = env::var_os("PATH")?;
    // Where Debian puts what is for root, which an ordinary user's path may leave out.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(command))
        .find(|file| file.is_file())
}

fn absent(needs: &[Need]) -> Vec<Need> {
    let needs = needs.iter().copied();
    needs.filter(|(what, _)| find(what).is_none()).collect()
}

fn need(absent: &[Need]) -> Result<()> {
    if absent.is_empty() {
        return Ok(());
    }
    bail!("{}", explain(absent));
}

fn explain(absent: &[Need]) -> String {
    let commands: Vec<_> = absent.iter().map(|(what, _)| *what).collect();
    let mut packages: Vec<_> = absent.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut text = format!(
        "missing: {}; apt-get install {}",
        commands.join(", "),
        packages.join(" ")
    );
    if packages.contains(&kernel::PACKAGE) {
        text += &format!(
            " ({} is in Debian 12's suites bookworm-security and bookworm-backports)",
            kernel::PACKAGE
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        assert_eq!(
            explain(&[
                ("make", "build-essential"),
                ("flex", "flex"),
                ("gcc", "build-essential")
            ]),
            "missing: make, flex, gcc; apt-get install build-essential flex"
        );
        let text = explain(&[(kernel::SOURCE, kernel::PACKAGE)]);
        assert!(text.contains("bookworm-security"), "{text}");
    }

    #[test]
    fn commands_are_found_in_the_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-command").is_none());
        assert!(find("/no/such/file").is_none());
    }
}
