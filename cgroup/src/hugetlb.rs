// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pools of huge pages.
//!
//! ```text
//! nr_hugepages ──┬─ free ──┬─ reserved by mappings that exist
//!                │         └─ for anybody
//!                └─ in use              surplus ≤ nr_overcommit: pages beyond the pool's own size
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    demand::HugeDemand,
    error::ReadError,
    keyed::number,
    limit::Limit,
    root::Root,
    shortage::{Shortage, ShortageKind},
};

const POOLS: &str = "/sys/kernel/mm/hugepages";

const POOL_IGNORED: &str = "this pool is not checked";

/// The pool of one page size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Bytes of one page.
    pub(crate) page_size: u64,
    pub(crate) directory: PathBuf,
    /// None if it could not be read.
    pub(crate) pages: Option<Pages>,
}

/// Numbers of pages in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// In the pool, surplus included.
    pub(crate) total: u64,
    /// Not in use, reserved ones included.
    pub(crate) free: u64,
    /// Promised to mappings that exist.
    pub(crate) reserved: u64,
    /// How many more the kernel would try to add on demand.
    pub(crate) growth: u64,
}

impl Pages {
    /// Pages that a mapping which has reserved them can take.
    pub(crate) fn available(self) -> u64 {
        self.free.saturating_add(self.growth)
    }

    pub(crate) fn in_use(self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

impl Pool {
    pub(crate) fn limit(&self) -> Option<Limit> {
        let pages = self.pages?;
        let Pages {
            total,
            free,
            reserved,
            growth,
        } = pages;
        Some(Limit {
            name: "free_hugepages",
            value: format!("{free} of {total} free, {reserved} reserved, {growth} on demand"),
            allows: Some(pages.available().saturating_mul(self.page_size)),
            source: self.directory.join("free_hugepages"),
        })
    }

    /// Whether so many bytes can be taken; yes if the pool could not be read.
    fn check(&self, needed: u64) -> Option<Shortage> {
        let pages = self.pages?;
        let missing = needed
            .div_ceil(self.page_size)
            .saturating_sub(pages.available());
        if missing == 0 {
            return None;
        }
        let size = |pages: u64| pages.saturating_mul(self.page_size);
        let source = self.directory.join("nr_hugepages");
        // The kernel first turns surplus pages into regular ones and then adds as many as are missing,
        // so the number to write counts from the total.
        let enough = pages.total.saturating_add(missing);
        Some(Shortage {
            kind: ShortageKind::Hugetlb,
            limit: "nr_hugepages",
            value: size(pages.in_use().saturating_add(pages.available())),
            used: size(pages.in_use()),
            needed,
            remedy: format!("`echo {enough} > {}`", source.display()),
            source,
        })
    }
}

/// Which pools are too small for the demands.
pub(crate) fn check(pools: &[Pool], demands: &[HugeDemand]) -> Vec<Shortage> {
    // Several mappings may draw on one pool.
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for demand in demands {
        let sum = sums.entry(demand.page_size).or_default();
        let bytes = demand
            .bytes
            .checked_next_multiple_of(demand.page_size.max(1));
        *sum = sum.saturating_add(bytes.unwrap_or(u64::MAX));
    }
    let needed = sums.into_iter().filter(|&(_, bytes)| bytes != 0);
    needed
        .filter_map(|(page_size, bytes)| {
            match pools.iter().find(|pool| pool.page_size == page_size) {
                Some(pool) => pool.check(bytes),
                None => Some(no_pool(page_size, bytes)),
            }
        })
        .collect()
}

fn no_pool(page_size: u64, needed: u64) -> Shortage {
    let pages = needed.div_ceil(page_size.max(1));
    let size = page_size / 1024;
    Shortage {
        kind: ShortageKind::Hugetlb,
        limit: "nr_hugepages",
        value: 0,
        used: 0,
        needed,
        source: directory(page_size),
        remedy: format!(
            "boot with `hugepagesz={size}K hugepages={pages}` if the CPU has that size"
        ),
    }
}

/// The directory of the pool of a page size, whether or not there is one.
pub(crate) fn directory(page_size: u64) -> PathBuf {
    Path::new(POOLS).join(format!("hugepages-{}kB", page_size / 1024))
}

/// All pools by ascending page size; none if they cannot be listed.
pub(crate) fn read(root: &Root, problems: &mut Vec<ReadError>) -> Option<Vec<Pool>> {
    let names = match root.names(Path::new(POOLS)) {
        Ok(names) => names,
        Err(error) => {
            problems.push(error.fall_back("pools of huge pages are not checked"));
            return None;
        }
    };
    let sizes = names.iter().filter_map(|name| parse_name(name));
    let mut pools: Vec<Pool> = sizes.map(|size| read_pool(root, size, problems)).collect();
    pools.sort_by_key(|pool| pool.page_size);
    Some(pools)
}

fn read_pool(root: &Root, page_size: u64, problems: &mut Vec<ReadError>) -> Pool {
    let directory = directory(page_size);
    let pages = read_pages(root, &directory)
        .map_err(|error| problems.push(error.fall_back(POOL_IGNORED)))
        .ok();
    Pool {
        page_size,
        directory,
        pages,
    }
}

fn read_pages(root: &Root, directory: &Path) -> Result<Pages, ReadError> {
    let read = |name: &str| {
        let path = directory.join(name);
        let text = root.text(&path)?;
        number(text.trim()).ok_or_else(|| ReadError::garbled(&path, &text, "no number of pages"))
    };
    let surplus = read("surplus_hugepages")?;
    Ok(Pages {
        total: read("nr_hugepages")?,
        free: read("free_hugepages")?,
        reserved: read("resv_hugepages")?,
        growth: read("nr_overcommit_hugepages")?.saturating_sub(surplus),
    })
}

/// The page size in bytes that a name such as `hugepages-2048kB` tells.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    // A leading zero would name a second pool of the same size.
    let bytes = number(kilobytes).filter(|_| !kilobytes.starts_with('0'))?;
    bytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases = [
            ("hugepages-2048kB", Some(2 << 20)),
            ("hugepages-1048576kB", Some(1 << 30)),
            ("hugepages-0kB", None),
            ("hugepages-02048kB", None),
            ("hugepages-18446744073709551615kB", None),
            ("hugepages-kB", None),
            ("hugepages-2048", None),
            ("other", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_name(name), expected, "{name}");
            if let Some(size) = expected {
                assert!(directory(size).ends_with(name));
            }
        }
    }

    #[test]
    fn sums_do_not_overflow() {
        let pages = Pages {
            total: 1,
            free: u64::MAX,
            reserved: 0,
            growth: u64::MAX,
        };
        assert_eq!(pages.available(), u64::MAX);
        assert_eq!(pages.in_use(), 0);
        let directory = directory(1 << 30);
        let pool = Pool {
            page_size: 1 << 30,
            directory,
            pages: Some(pages),
        };
        assert_eq!(pool.limit().unwrap().allows, Some(u64::MAX));
    }
}
