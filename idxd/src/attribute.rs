// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Attributes`]: the files of one directory of sysfs, each of which may be missing, refuse to be read, or hold anything.
//!
//! ```text
//!  "128\n"   number(1..=65535) ─► Some(128)       "0x40915f010f\n"  hexadecimal() ─► Some(…)
//!  "-1\n"    number(0..=1023)  ─► None            "enabled\n"       word(…)       ─► Some(Enabled)
//! ```
//!
//! What does not have exactly the kernel's format counts as missing.

use std::{fs::File, io::Read, ops::RangeInclusive, path::PathBuf};

/// Bytes that an attribute may have: sysfs gives it one page.
const BOUND: u64 = 4096;

/// The attributes of a device or of a queue.
#[derive(Debug)]
pub(crate) struct Attributes {
    directory: PathBuf,
}

impl Attributes {
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The one line that the attribute has, without its end.
    pub(crate) fn line(&self, name: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.directory.join(name)).ok()?;
        file.take(BOUND + 1).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let fits = text.len() as u64 <= BOUND && !line.contains(char::is_control);
        fits.then(|| line.to_owned())
    }

    /// A decimal number within a range; there is none outside of it that a device could mean.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        decimal(&self.line(name)?).filter(|number| range.contains(number))
    }

    /// Like [`number`](Self::number), of 32 bits.
    pub(crate) fn small(&self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        u32::try_from(self.number(name, range)?).ok()
    }

    /// A number as `%#x` prints it: `0x` and digits, or `0`.
    pub(crate) fn hexadecimal(&self, name: &str) -> Option<u64> {
        let line = self.line(name)?;
        if line == "0" {
            return Some(0);
        }
        let digits = line.strip_prefix("0x")?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| plain)
    }

    /// 0 or 1.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.word(name, &[("0", false), ("1", true)])
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let line = self.line(name)?;
        let found = words.iter().find(|(word, _)| *word == line)?;
        Some(found.1)
    }

    /// A name that somebody chose: not empty, short, and fit for a terminal and a shell.
    pub(crate) fn name(&self, name: &str) -> Option<String> {
        const LONGEST: usize = 64;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        self.line(name)
            .filter(|line| !line.is_empty() && line.len() <= LONGEST && line.bytes().all(plain))
    }
}

/// A number as `%u` prints it: digits alone, and no zero before others.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| digits && !padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain() {
        let cases = [
            ("0", Some(0)),
            ("128", Some(128)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("01", None),
            ("00", None),
            ("1 ", None),
            ("0x10", None),
            ("١", None),
        ];
        for (text, number) in cases {
            assert_eq!(decimal(text), number, "{text:?}");
        }
    }
}
