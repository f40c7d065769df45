// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`crc32`]: the CRC-32 of RFC 1952, which an IAA gives for what is not compressed.

/// The remainders of each byte with so many zero bytes behind it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        tables[0][byte as usize] = rest;
        byte += 1;
    }
    let mut zeroes = 1;
    while zeroes < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeroes - 1][byte];
            tables[zeroes][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeroes += 1;
    }
    tables
}

/// Goes on from `crc`, which is 0 at the start. Eight bytes at a time: the model's thread shares the CPUs with what it is
/// there to measure.
pub(super) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let mut rest = !crc;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut next = 0;
        let mixed = rest.to_le_bytes();
        for (at, byte) in word.iter().enumerate() {
            let byte = byte ^ mixed.get(at).copied().unwrap_or(0);
            next ^= TABLES[7 - at][usize::from(byte)];
        }
        rest = next;
    }
    for byte in words.remainder() {
        let [low, ..] = rest.to_le_bytes();
        rest = rest >> 8 ^ TABLES[0][usize::from(low ^ byte)];
    }
    !rest
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_known_one_in_pieces_of_any_size() {
        // The check value of this CRC in the catalogues.
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(0, b""), 0);
        let bytes: Vec<u8> = (0..=255).collect();
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(crc32(crc32(0, left), right), 0x2905_8c73, "{cut}");
        }
    }
}
