// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much of a range is mapped in, from `/proc/self/pagemap` (proc(5)), where `mincore` may not be called.
//!
//! A page of a file that is in the page cache, and that this process has not touched yet, counts as not there.

use std::{fs::File, os::unix::fs::FileExt};

use crate::PageSize;

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries that are read at a time.
const ENTRIES: u64 = 1 << 13;
/// The bit of an entry that says that the page is there; readable without privileges, unlike what page it is.
const PRESENT: u64 = 1 << 63;

/// Bytes from `start` on that are there; `None` where the file cannot be read.
pub(crate) fn resident(start: u64, size: u64) -> Option<u64> {
    let page = PageSize::base().bytes();
    let file = File::open("/proc/self/pagemap").ok()?;
    let mut buffer = vec![0; usize::try_from(ENTRIES * ENTRY).ok()?];
    let (mut at, end) = (start / page, (start + size) / page);
    let mut pages = 0;
    while at < end {
        let count = ENTRIES.min(end - at);
        let bytes = &mut buffer[..usize::try_from(count * ENTRY).ok()?];
        file.read_exact_at(bytes, at * ENTRY).ok()?;
        pages += bytes
            .chunks_exact(8)
            .filter_map(|entry| Some(u64::from_ne_bytes(entry.try_into().ok()?)))
            .filter(|entry| entry & PRESENT != 0)
            .count() as u64;
        at += count;
    }
    Some(pages * page)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Iova, Mapping, Pages, Region};

    #[test]
    fn what_is_touched_is_counted() {
        const PAGES: u64 = 20_000;
        let page = PageSize::base().bytes();
        let memory = Arc::new(Mapping::anonymous(PAGES * page, Pages::Small).unwrap());
        let region = Region::of_mapping(memory, Iova(0)).unwrap();
        let start = region.hva().0;
        assert_eq!(resident(start, region.size()), Some(0));
        region.populate(3 * page, 9_000 * page).unwrap();
        assert_eq!(resident(start, region.size()), Some(9_000 * page));
        assert_eq!(resident(start + 2 * page, 2 * page), Some(page));
        assert_eq!(
            resident(start, region.size()),
            region.resident(0, region.size())
        );
    }
}
