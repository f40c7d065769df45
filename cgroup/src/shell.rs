// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Paths in commands that a person is to copy into a shell.
//!
//! ```text
//! /sys/fs/cgroup/vmm                                      as it is
//! /sys/fs/cgroup/machine.slice/machine-qemu\x2d1.scope ►  '/sys/fs/cgroup/machine.slice/machine-qemu\x2d1.scope'
//! /sys/fs/cgroup/a⏎b                                   ►  $'/sys/fs/cgroup/a\x0ab'
//! ```

use std::{fmt, fmt::Write, os::unix::ffi::OsStrExt, path::Path};

/// A path as one word of a shell, in one line and without anything that a terminal would act on.
#[derive(Clone, Copy, Debug)]
pub struct ShellPath<'a>(pub &'a Path);

impl fmt::Display for ShellPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_os_str().as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-:@,+%".contains(byte);
        let printable = |byte: &u8| (b' '..=b'~').contains(byte);
        if !bytes.is_empty() && bytes.iter().all(plain) {
            return f.write_str(&String::from_utf8_lossy(bytes));
        }
        let escaped = !bytes.iter().all(printable);
        f.write_str(if escaped { "$'" } else { "'" })?;
        for byte in bytes {
            match byte {
                b'\'' if !escaped => f.write_str(r"'\''")?,
                b'\'' | b'\\' if escaped => write!(f, "\\{}", char::from(*byte))?,
                byte if printable(byte) => f.write_char(char::from(*byte))?,
                byte => write!(f, "\\x{byte:02x}")?,
            }
        }
        f.write_char('\'')
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn one_word_whatever_is_in_it() {
        let cases: [(&[u8], &str); 9] = [
            (
                b"/sys/fs/cgroup/vmm@1.service",
                "/sys/fs/cgroup/vmm@1.service",
            ),
            (b"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            (b"/a/qemu\\x2d1.scope", "'/a/qemu\\x2d1.scope'"),
            (b"/control groups", "'/control groups'"),
            (b"/$(reboot)", "'/$(reboot)'"),
            (b"/it's", r"'/it'\''s'"),
            (b"/a\nb's \\", r"$'/a\x0ab\'s \\'"),
            (b"/\x1b[2J\xc3\xa9\xff", r"$'/\x1b[2J\xc3\xa9\xff'"),
            (b"", "''"),
        ];
        for (path, expected) in cases {
            let shown = ShellPath(Path::new(OsStr::from_bytes(path))).to_string();
            assert_eq!(shown, expected);
        }
    }
}
