// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ErrorCode`]: why an IAA could not do an operation, of the second byte of a completion record.

use std::fmt;

/// What an IAA says beside [`Status::ANALYTICS_ERROR`](crate::Status::ANALYTICS_ERROR).
///
/// Numbers and meanings are those of `hw_status.h` in Intel's Query Processing Library.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(u8);

impl ErrorCode {
    /// None.
    pub const NONE: Self = Self(0);
    /// The header of a block is not there to its end, or larger than the device can hold.
    pub const BIG_HEADER: Self = Self(1);
    /// A code for code lengths that is not defined.
    pub const UNDEFINED_CODE_LENGTH_CODE: Self = Self(2);
    /// The first code length of the literal/length tree repeats the one before it.
    pub const FIRST_LITERAL_CODE_REPEATS: Self = Self(3);
    /// The first code length of the distance tree repeats the one before it.
    pub const FIRST_DISTANCE_CODE_REPEATS: Self = Self(4);
    /// The literal/length tree is empty.
    pub const NO_LITERAL_CODE: Self = Self(5);
    /// A run of code lengths goes on behind the end of the literal/length tree.
    pub const WRONG_LITERAL_COUNT: Self = Self(6);
    /// A run of code lengths goes on behind the end of the distance tree.
    pub const WRONG_DISTANCE_COUNT: Self = Self(7);
    /// More codes for code lengths than their lengths allow.
    pub const BAD_CODE_LENGTH_LENGTHS: Self = Self(8);
    /// More literal/length codes than their lengths allow.
    pub const BAD_LITERAL_LENGTHS: Self = Self(9);
    /// More distance codes than their lengths allow.
    pub const BAD_DISTANCE_LENGTHS: Self = Self(10);
    /// A literal/length code that is not defined.
    pub const BAD_LITERAL_CODE: Self = Self(11);
    /// A distance code that is not defined.
    pub const BAD_DISTANCE_CODE: Self = Self(12);
    /// Block type 3.
    pub const BAD_BLOCK_TYPE: Self = Self(13);
    /// The length of a stored block and its complement differ.
    pub const BAD_STORED_LENGTH: Self = Self(14);
    /// The stream ends without the end of its last block.
    pub const BAD_END: Self = Self(15);
    /// A match of no byte, or of more than 258.
    pub const BAD_LENGTH: Self = Self(16);
    /// A distance of 0, or farther than the history reaches.
    pub const BAD_DISTANCE: Self = Self(17);
    /// A distance to before the first byte.
    pub const BEFORE_START: Self = Self(18);
    /// The device came no further.
    pub const NO_PROGRESS: Self = Self(19);
    /// Input that is not in the PRLE format.
    pub const BAD_PRLE_FORMAT: Self = Self(20);
    /// A result that does not fit into the output's width.
    pub const OUTPUT_WIDTH: Self = Self(21);
    /// The AECS makes no sense.
    pub const BAD_AECS: Self = Self(22);
    /// Source 1 is too short.
    pub const SOURCE_1_TOO_SMALL: Self = Self(23);
    /// Source 2 is too short.
    pub const SOURCE_2_TOO_SMALL: Self = Self(24);
    /// The output does not fit: what was compressed became too long.
    pub const OUTPUT_OVERFLOW: Self = Self(25);
    /// A match whose distance reaches into another mini-block.
    pub const MINI_BLOCK_DISTANCE: Self = Self(26);
    /// A match whose length reaches into another mini-block.
    pub const MINI_BLOCK_LENGTH: Self = Self(27);
    /// The size of a mini-block.
    pub const MINI_BLOCK_SIZE: Self = Self(28);
    /// What was compressed did not decompress to the same.
    pub const VERIFY: Self = Self(29);
    /// A symbol was to be coded that the AECS has no code for.
    pub const NO_CODE_FOR_SYMBOL: Self = Self(30);
    /// The bit width of PRLE input.
    pub const BAD_PRLE_WIDTH: Self = Self(31);
    /// Fewer elements than the descriptor says.
    pub const TOO_FEW_ELEMENTS: Self = Self(32);
    /// The header of a Z-compressed stream.
    pub const BAD_Z_HEADER: Self = Self(34);
    /// More than 286 literal/length codes.
    pub const TOO_MANY_LITERAL_CODES: Self = Self(35);
    /// More than 30 distance codes.
    pub const TOO_MANY_DISTANCE_CODES: Self = Self(36);

    /// The one with that number.
    #[must_use]
    pub const fn of(code: u8) -> Self {
        Self(code)
    }

    /// Its number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// What it means.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "none",
            1 => "block header too big or cut off",
            2 => "undefined code for a code length",
            3 => "first code of the literal/length tree repeats",
            4 => "first code of the distance tree repeats",
            5 => "no literal/length code",
            6 => "wrong number of literal/length codes",
            7 => "wrong number of distance codes",
            8 => "over-subscribed code length codes",
            9 => "over-subscribed literal/length codes",
            10 => "over-subscribed distance codes",
            11 => "undefined literal/length code",
            12 => "undefined distance code",
            13 => "undefined block type",
            14 => "stored length does not match its complement",
            15 => "stream ends inside of a block",
            16 => "bad match length",
            17 => "distance beyond the history",
            18 => "reference before the start",
            19 => "no progress",
            20 => "not in PRLE format",
            21 => "output width too small",
            22 => "invalid AECS",
            23 => "source 1 too small",
            24 => "source 2 too small",
            25 => "output does not fit",
            26 => "distance spans mini-blocks",
            27 => "length spans mini-blocks",
            28 => "invalid mini-block size",
            29 => "verification failed",
            30 => "no code for a symbol",
            31 => "invalid PRLE bit width",
            32 => "too few elements",
            34 => "invalid Z header",
            35 => "more than 286 literal/length codes",
            36 => "more than 30 distance codes",
            _ => "unknown error",
        }
    }

    /// Whether the input was compressed, and became longer than allowed: it is to be sent as it is.
    #[must_use]
    pub const fn does_not_fit(self) -> bool {
        self.0 == Self::OUTPUT_OVERFLOW.0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} ({})", self.0, self.name())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_number_and_a_name_of_its_own() {
        assert_eq!(
            ErrorCode::FIRST_DISTANCE_CODE_REPEATS.to_string(),
            "0x04 (first code of the distance tree repeats)"
        );
        assert_eq!(ErrorCode::of(33).to_string(), "0x21 (unknown error)");
        let mut names: Vec<_> = (0..=36).map(|code| ErrorCode::of(code).name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 37);
        for code in 0..=u8::MAX {
            assert_eq!(ErrorCode::of(code).code(), code);
            assert_eq!(ErrorCode::of(code).does_not_fit(), code == 25);
        }
    }
}
