// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers, and lines of a key and a value, as `/proc` and cgroup files have them.
//!
//! ```text
//! VmLck:         8 kB      memory of a process, /proc/meminfo
//! nr_throttled 3           cpu.stat, memory.stat
//! ```

/// A decimal number and nothing else: no sign, no space, at most `u64::MAX`.
pub(crate) fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// A hexadecimal number and nothing else: neither sign nor `0x`, at most 64 bits.
pub(crate) fn hexadecimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_hexdigit()) {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// What follows `key` and white space, on the first line that starts with them.
///
/// A key of `/proc` includes its colon.
pub(crate) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        let value = rest.trim();
        let separated = rest.starts_with(char::is_whitespace) || rest.is_empty();
        separated.then_some(value)
    })
}

/// What an error about `key` shows: its value, or the whole text if it has none.
pub(crate) fn shown<'a>(text: &'a str, key: &str) -> &'a str {
    value(text, key).unwrap_or(text)
}

/// The number that follows `key`.
pub(crate) fn count(text: &str, key: &str) -> Option<u64> {
    number(value(text, key)?)
}

/// The size in bytes that follows `key`, which the file gives in kB.
pub(crate) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let kilobytes = value(text, key)?.strip_suffix("kB")?.trim_end();
    number(kilobytes)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases = [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("", None),
            ("1\0", None),
            ("٣", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn hexadecimal_numbers() {
        let cases = [
            ("0000000000004000", Some(0x4000)),
            ("FFFFffffffffffff", Some(u64::MAX)),
            ("1ffffffffffffffff", None),
            ("+1", None),
            ("0x1", None),
            (" 1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(hexadecimal(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lines() {
        let text =
            "VmLckX:\t9 kB\nVmLck:\t       8 kB\nVmPin:\t18446744073709551615 kB\nnr 3\nbare\n";
        assert_eq!(kilobytes(text, "VmLck:"), Some(8192));
        assert_eq!(kilobytes(text, "VmPin:"), None);
        assert_eq!(kilobytes(text, "VmRSS:"), None);
        assert_eq!(count(text, "nr"), Some(3));
        assert_eq!(count(text, "n"), None);
        assert_eq!(shown(text, "nr"), "3");
        assert_eq!(shown(text, "n"), text);
        assert_eq!(value(text, "bare"), Some(""));
        assert_eq!(count(text, "bare"), None);
    }
}
