// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors as the bytes that they are.

use std::slice;

use crate::Descriptor;

/// What `write` is given.
pub(crate) fn as_bytes(descriptors: &[Descriptor]) -> &[u8] {
    // SAFETY: a descriptor is 64 bytes of integers without a gap, which a test shows.
    unsafe { slice::from_raw_parts(descriptors.as_ptr().cast(), size_of_val(descriptors)) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_bytes_of_their_fields() {
        let two = [
            Descriptor::compval(0x0102_0304_0506_0708, 0x1112_1314, 0x2122_2324_2526_2728)
                .completing_at(0x3132_3334_3536_3738),
            Descriptor::noop(),
        ];
        let expected = [two[0].to_bytes(), two[1].to_bytes()].concat();
        assert_eq!(as_bytes(&two), expected);
    }
}
