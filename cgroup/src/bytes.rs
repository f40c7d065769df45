// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sizes as people read them, and exact.

use std::fmt;

const UNITS: [(u64, &str); 6] = [
    (1 << 60, "EiB"),
    (1 << 50, "PiB"),
    (1 << 40, "TiB"),
    (1 << 30, "GiB"),
    (1 << 20, "MiB"),
    (1 << 10, "KiB"),
];

/// Up to this many of a unit are still easy to read.
const READABLE: u64 = 10_240;

/// A size that is shown in the largest unit that is exact, or rounded with the bytes beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let exact = UNITS
            .iter()
            .find(|(unit, _)| bytes != 0 && bytes % unit == 0 && bytes / unit < READABLE);
        if let Some((unit, name)) = exact {
            return write!(f, "{} {name}", bytes / unit);
        }
        let Some((unit, name)) = UNITS
            .iter()
            .find(|(unit, _)| READABLE <= bytes && *unit <= bytes)
        else {
            return match bytes {
                0 => write!(f, "0"),
                _ => write!(f, "{bytes} bytes"),
            };
        };
        // The remainder is below 2^60, so a hundred of it needs more than 64 bits.
        let hundredths = u128::from(bytes % unit) * 100 / u128::from(*unit);
        write!(f, "{}.{hundredths:02} {name} ({bytes} bytes)", bytes / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_and_exact() {
        let cases = [
            (0, "0"),
            (1, "1 bytes"),
            (1000, "1000 bytes"),
            (1024, "1 KiB"),
            (64 << 20, "64 MiB"),
            (3 << 19, "1536 KiB"),
            ((8 << 20) + 4096, "8196 KiB"),
            ((8 << 30) + 4096, "8.00 GiB (8589938688 bytes)"),
            (65_537, "64.00 KiB (65537 bytes)"),
            (1 << 60, "1 EiB"),
            (u64::MAX, "15.99 EiB (18446744073709551615 bytes)"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }
}
