// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`BitWriter`] and [`BitReader`]: bits of bytes in the order of DEFLATE, the lowest bit of a byte first.

use thiserror::Error;

/// Writes bits into a caller's bytes. What does not fit is counted and not written.
#[derive(Debug)]
pub struct BitWriter<'b> {
    bytes: &'b mut [u8],
    /// Bytes that are written.
    at: usize,
    /// Bits that are not: the lowest `count`.
    held: u64,
    count: u32,
    /// Bytes that found no room.
    lost: u64,
}

/// More bits than there was room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{needed} bytes do not fit into {room}: send the input as it is, or give more room")]
#[non_exhaustive]
pub struct DoesNotFit {
    /// Bytes that would have been written.
    pub needed: u64,
    /// Bytes that there was room for.
    pub room: usize,
}

impl<'b> BitWriter<'b> {
    /// Writes from the first of these bytes on.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            held: 0,
            count: 0,
            lost: 0,
        }
    }

    /// Writes the lowest `count` bits of `bits`, the lowest first. Others are ignored.
    ///
    /// # Panics
    ///
    /// If `count` is above 32.
    #[inline]
    pub fn put(&mut self, bits: u32, count: u32) {
        assert!(count <= 32, "{count} bits at once");
        let mask = (1_u64 << count) - 1;
        self.held |= (u64::from(bits) & mask) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.give_up(4);
        }
    }

    /// Writes the lowest `count` bytes of what is held.
    #[inline]
    fn give_up(&mut self, count: usize) {
        let bytes = self.held.to_le_bytes();
        if let Some(place) = self.bytes.get_mut(self.at..self.at + count) {
            place.copy_from_slice(&bytes[..count]);
            self.at += count;
        } else {
            self.give_up_what_fits(&bytes[..count]);
        }
        self.held >>= 8 * count;
        self.count = self
            .count
            .saturating_sub(8 * u32::try_from(count).unwrap_or(0));
    }

    #[cold]
    fn give_up_what_fits(&mut self, bytes: &[u8]) {
        let room = self.bytes.len() - self.at;
        let (fits, lost) = bytes.split_at(room.min(bytes.len()));
        self.bytes[self.at..self.at + fits.len()].copy_from_slice(fits);
        self.at += fits.len();
        self.lost += lost.len() as u64;
    }

    /// Writes everything that `reader` still has.
    pub fn append(&mut self, reader: &mut BitReader<'_>) {
        loop {
            reader.refill();
            let count = reader.available().min(32);
            if count == 0 {
                return;
            }
            self.put(reader.peek(count), count);
            reader.consume(count);
        }
    }

    /// Bits so far, also those that found no room.
    #[must_use]
    pub fn bits(&self) -> u64 {
        (self.at as u64 + self.lost) * 8 + u64::from(self.count)
    }

    /// Fills the last byte with zeroes, and says how many bytes there are.
    ///
    /// # Errors
    ///
    /// If there was no room for all of them; the bytes that fit are written.
    pub fn finish(mut self) -> Result<usize, DoesNotFit> {
        let rest = self.count.div_ceil(8) as usize;
        self.give_up(rest);
        if self.lost > 0 {
            return Err(DoesNotFit {
                needed: self.at as u64 + self.lost,
                room: self.bytes.len(),
            });
        }
        Ok(self.at)
    }
}

/// Reads bits of bytes. Behind their end there are zeroes, of which none is [available](Self::available).
#[derive(Debug, Clone)]
pub struct BitReader<'b> {
    bytes: &'b [u8],
    /// The byte that is loaded next.
    next: usize,
    /// Bits that are loaded: the lowest `count`. Those above are either zero, or the same that the next load brings.
    held: u64,
    count: u32,
}

impl<'b> BitReader<'b> {
    /// Reads from the first of these bytes on.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self {
            bytes,
            next: 0,
            held: 0,
            count: 0,
        }
    }

    /// Loads bits: at least 56 are [available](Self::available) then, or as many as there are.
    #[inline]
    pub fn refill(&mut self) {
        let rest = self.bytes.get(self.next..).unwrap_or(&[]);
        if let Some(word) = rest.first_chunk() {
            self.held |= u64::from_le_bytes(*word) << self.count;
            self.next += (63 - self.count) as usize >> 3;
            self.count |= 56;
            return;
        }
        for byte in rest {
            if self.count > 56 {
                return;
            }
            self.held |= u64::from(*byte) << self.count;
            self.count += 8;
            self.next += 1;
        }
    }

    /// Bits that are loaded.
    #[must_use]
    #[inline]
    pub fn available(&self) -> u32 {
        self.count
    }

    /// The next `count` bits, up to 32, which stay there. Zeroes where none are loaded.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked to 32 bits at most")]
    pub fn peek(&self, count: u32) -> u32 {
        (self.held & ((1 << count) - 1)) as u32
    }

    /// Goes on by `count` bits.
    ///
    /// # Panics
    ///
    /// If fewer are [available](Self::available).
    #[inline]
    pub fn consume(&mut self, count: u32) {
        assert!(count <= self.count, "{count} of {} bits", self.count);
        // All 64 of them may be there.
        self.held = self.held.checked_shr(count).unwrap_or(0);
        self.count -= count;
    }

    /// The next `count` bits, up to 32. None if there are fewer.
    #[inline]
    pub fn take(&mut self, count: u32) -> Option<u32> {
        if self.count < count {
            self.refill();
        }
        if self.count < count {
            return None;
        }
        let bits = self.peek(count);
        self.consume(count);
        Some(bits)
    }

    /// Bits that were read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next as u64 * 8 - u64::from(self.count)
    }

    /// Goes on to the next whole byte.
    pub fn align(&mut self) {
        self.consume(self.count % 8);
    }

    /// The next `count` bytes, from the next whole byte on. None if there are fewer; it is at a whole byte then, too.
    pub fn bytes(&mut self, count: usize) -> Option<&'b [u8]> {
        self.align();
        let start = self.next - self.count as usize / 8;
        let end = start.checked_add(count)?;
        let bytes = self.bytes.get(start..end)?;
        self.next = end;
        self.held = 0;
        self.count = 0;
        Some(bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_bit_comes_first_and_the_rest_is_zero() {
        let mut bytes = [0xff; 3];
        let mut writer = BitWriter::new(&mut bytes);
        writer.put(0b1, 1);
        writer.put(0b01, 2);
        writer.put(0xffff_ffff, 7);
        assert_eq!(writer.bits(), 10);
        assert_eq!(writer.finish(), Ok(2));
        assert_eq!(bytes, [0xfb, 0x03, 0xff]);
    }

    #[test]
    fn nothing_is_written_behind_the_end_and_what_is_missing_is_told() {
        let mut bytes = [0xee; 8];
        let mut writer = BitWriter::new(&mut bytes[..6]);
        for _ in 0..3 {
            writer.put(0x1234_5678, 32);
        }
        writer.put(1, 1);
        assert_eq!(writer.bits(), 97);
        assert_eq!(
            writer.finish(),
            Err(DoesNotFit {
                needed: 13,
                room: 6
            })
        );
        assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12, 0x78, 0x56, 0xee, 0xee]);
    }

    #[test]
    fn there_are_no_bits_behind_the_end() {
        let mut reader = BitReader::new(&[0xff]);
        assert_eq!(reader.take(9), None);
        assert_eq!(reader.take(8), Some(0xff));
        assert_eq!(reader.take(1), None);
        assert_eq!(reader.take(0), Some(0));
        assert_eq!((reader.peek(32), reader.position()), (0, 8));
        assert_eq!(reader.bytes(1), None);
        assert_eq!(reader.bytes(0), Some(&[][..]));
    }

    proptest! {
        /// What is written is read, in pieces of any size, also whole bytes of it.
        #[test]
        fn what_is_written_is_read(
            pieces in prop::collection::vec((any::<u32>(), 0..=32_u32), 0..100),
            skip in 0..40_u32,
        ) {
            let mut bytes = [0; 512];
            let mut writer = BitWriter::new(&mut bytes);
            for (bits, count) in &pieces {
                writer.put(*bits, *count);
            }
            let bits = writer.bits();
            let len = writer.finish().unwrap();
            prop_assert_eq!(len as u64, bits.div_ceil(8));
            let mut reader = BitReader::new(&bytes[..len]);
            let mut position = 0;
            for (bits, count) in &pieces {
                prop_assert_eq!(reader.position(), position);
                let mask = (1_u64 << count) - 1;
                prop_assert_eq!(reader.take(*count).map(u64::from), Some(u64::from(*bits) & mask));
                position += u64::from(*count);
            }
            prop_assert_eq!(reader.position(), bits);
            let mut reader = BitReader::new(&bytes[..len]);
            if reader.take(skip.min(32)).is_some() {
                let from = skip.min(32).div_ceil(8) as usize;
                let mut copy = reader.clone();
                prop_assert_eq!(copy.bytes(len - from), Some(&bytes[from..len]));
                prop_assert_eq!(copy.position(), len as u64 * 8);
                // The same by bits.
                let mut shifted = [0; 520];
                let mut writer = BitWriter::new(&mut shifted);
                writer.append(&mut reader);
                prop_assert_eq!(writer.bits(), len as u64 * 8 - u64::from(skip.min(32)));
                let end = writer.finish().unwrap();
                let mut again = BitReader::new(&shifted[..end]);
                let mut plain = BitReader::new(&bytes[..len]);
                plain.take(skip.min(32)).unwrap();
                while let Some(bit) = plain.take(1) {
                    prop_assert_eq!(again.take(1), Some(bit));
                }
            }
        }
    }
}
