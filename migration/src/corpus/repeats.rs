// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages that are the hardest for the headers of DEFLATE.

use super::random::Random;

/// Values that occur.
const VALUES: u64 = 8;
/// How far back a repetition reaches at most, in bytes.
const FARTHEST: u64 = 32;

/// Short repetitions of what lies 1 to 32 bytes before, and up to three new values between them.
///
/// Few literals, and lengths and distances that all occur about as often, so that their codes are of one length: then a run
/// of code lengths can go on from one tree into the other. Of libdeflate's streams for such pages 1 in 20 does so, and of
/// those for other classes 1 in 50,000.
pub(super) fn fill(random: &mut Random, page: &mut [u8]) {
    let mut at = 0;
    while at < page.len() {
        for _ in 0..=random.below(3) {
            put(page, &mut at, random.below(VALUES).to_le_bytes()[0]);
        }
        let distance = usize::try_from(1 + random.below(FARTHEST)).unwrap_or(1);
        for _ in 0..3 + random.below(30) {
            let before = at.checked_sub(distance).and_then(|from| page.get(from));
            if let Some(value) = before.copied() {
                put(page, &mut at, value);
            }
        }
    }
}

fn put(page: &mut [u8], at: &mut usize, value: u8) {
    if let Some(place) = page.get_mut(*at) {
        *place = value;
    }
    *at += 1;
}
