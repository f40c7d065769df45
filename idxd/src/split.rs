// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How the descriptors of a task are put into batches.

/// Writes the end of each batch of at most `max_batch` members into `ends`. What is behind the last one goes alone.
///
/// A batch of one is an error to a device, so that a lone rest takes one from the batch before it, or, where batches
/// hold no more than two, is a descriptor of its own.
pub(crate) fn into_batches(members: usize, max_batch: usize, ends: &mut Vec<usize>) {
    ends.clear();
    if max_batch < 2 {
        return;
    }
    let mut at = 0;
    while members - at >= 2 {
        let rest = members - at;
        let full = rest.min(max_batch);
        let size = if rest - full == 1 && full > 2 {
            full - 1
        } else {
            full
        };
        at += size;
        ends.push(at);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_in_one_batch_of_allowed_size_or_alone_at_the_end() {
        let mut ends = Vec::new();
        for members in 0..300 {
            for max_batch in [0, 1, 2, 3, 4, 7, 16, 31, 32, 128, 1024] {
                into_batches(members, max_batch, &mut ends);
                let mut at = 0;
                for end in &ends {
                    let size = end - at;
                    assert!(
                        (2..=max_batch).contains(&size),
                        "{members}/{max_batch}: {ends:?}"
                    );
                    at = *end;
                }
                let alone = members - at;
                let allowed = if max_batch < 2 { members } else { 1 };
                assert!(alone <= allowed, "{members}/{max_batch}: {ends:?}");
                // Only where nothing else is possible.
                if max_batch > 2 && members >= 2 {
                    assert_eq!(alone, 0, "{members}/{max_batch}: {ends:?}");
                    assert_eq!(ends.len(), members.div_ceil(max_batch));
                }
            }
        }
    }
}
