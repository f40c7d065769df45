// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PageBitmap`]: one bit for each page of a batch, set where the page is zero.

use std::fmt;

/// One bit for each page of a batch.
///
/// Bits beyond its length do not exist: reading one is `false`, writing one panics.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    len: usize,
}

const BITS: usize = u64::BITS as usize;

impl PageBitmap {
    /// `len` bits, none of them set.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(BITS)],
            len,
        }
    }

    /// Makes it `len` bits, none of them set. Allocates only where it has never been as long before.
    pub fn reset(&mut self, len: usize) {
        self.words.clear();
        self.words.resize(len.div_ceil(BITS), 0);
        self.len = len;
    }

    /// How many bits there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bits at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether bit `index` is set; false beyond the end.
    #[must_use]
    #[inline]
    pub fn get(&self, index: usize) -> bool {
        self.words
            .get(index / BITS)
            .is_some_and(|word| word >> (index % BITS) & 1 == 1)
    }

    /// Sets bit `index`.
    ///
    /// # Panics
    ///
    /// If there is no such bit.
    #[inline]
    pub fn set(&mut self, index: usize) {
        assert!(index < self.len, "bit {index} of {}", self.len);
        self.words[index / BITS] |= 1 << (index % BITS);
    }

    /// Clears bit `index`.
    ///
    /// # Panics
    ///
    /// If there is no such bit.
    #[inline]
    pub fn clear(&mut self, index: usize) {
        assert!(index < self.len, "bit {index} of {}", self.len);
        self.words[index / BITS] &= !(1 << (index % BITS));
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The indices of the bits that are set, lowest first.
    pub fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        let words = self.words.iter().enumerate();
        words.flat_map(|(index, &word)| {
            let without_lowest = |&rest: &u64| Some(rest & rest.wrapping_sub(1));
            std::iter::successors(Some(word), without_lowest)
                .take_while(|&rest| rest != 0)
                .map(move |rest| index * BITS + rest.trailing_zeros() as usize)
        })
    }
}

impl fmt::Debug for PageBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBitmap({} of ", self.count())?;
        write!(f, "{}: ", self.len)?;
        f.debug_set().entries(self.ones()).finish()?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_small_numbers(len in 1_usize..300, steps in prop::collection::vec((any::<bool>(), 0_usize..300), 0..200)) {
            let mut bitmap = PageBitmap::new(len);
            let mut set = BTreeSet::new();
            for (add, index) in steps {
                let index = index % len;
                if add {
                    bitmap.set(index);
                    set.insert(index);
                } else {
                    bitmap.clear(index);
                    set.remove(&index);
                }
            }
            prop_assert!(bitmap.ones().eq(set.iter().copied()));
            prop_assert_eq!(bitmap.count(), set.len());
            prop_assert!((0..400).all(|index| bitmap.get(index) == set.contains(&index)));
        }
    }

    #[test]
    fn a_reset_one_is_like_new_and_stays_where_it_was() {
        let mut bitmap = PageBitmap::new(256);
        (0..256).for_each(|index| bitmap.set(index));
        let place = bitmap.words.as_ptr();
        for len in [256, 65, 0, 1, 200] {
            bitmap.reset(len);
            assert_eq!((bitmap.len(), bitmap.count()), (len, 0));
            assert_eq!(bitmap, PageBitmap::new(len));
        }
        assert_eq!(bitmap.words.as_ptr(), place);
        assert_eq!(format!("{bitmap:?}"), "PageBitmap(0 of 200: {})");
    }

    #[test]
    #[should_panic(expected = "bit 65 of 65")]
    fn no_bit_is_set_beyond_the_end() {
        PageBitmap::new(65).set(65);
    }
}
