// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Joins the limits of `cgroup` to the questions that `pinning` and the memory check ask.

use std::cell::RefCell;

use cgroup::{CpuBudget, CpuWatch, Demand, HugeDemand, LockRule, Root};
use pinning::{Allowance, Budget, Jobs};
use vfio::{Accounting, BackingKind, Found, Regions, Survey};

/// The jobs of this process, which share the CPUs that it may use.
pub(crate) static JOBS: Jobs = Jobs::new();

/// The CPU budget in the words of the engine.
pub(crate) struct CpuAllowance<'a>(pub(crate) &'a CpuBudget);

impl Budget for CpuAllowance<'_> {
    fn allowance(&self) -> Allowance {
        Allowance {
            threads: self.0.threads(),
            limited_by: self.0.limited_by().name(),
        }
    }
}

/// The limits on CPUs as they are at each question, for a job that runs.
#[derive(Debug)]
pub(crate) struct LiveAllowance(RefCell<CpuWatch>);

impl LiveAllowance {
    pub(crate) fn new() -> Self {
        Self(RefCell::new(CpuWatch::new(Root::live())))
    }
}

impl Budget for LiveAllowance {
    fn allowance(&self) -> Allowance {
        CpuAllowance(&self.0.borrow_mut().read()).allowance()
    }
}

/// What pinning `regions` will ask of memory, given what `survey` found to be there already.
pub(crate) fn demand(regions: &Regions, survey: &Survey, accounting: Accounting) -> Demand {
    let mut demand = locked(regions, accounting);
    for (region, found) in regions.iter().zip(survey.found()) {
        demand.fresh += found.missing + overhead(region.size(), found, accounting);
        for &(page, bytes) in &found.missing_huge {
            take_huge(&mut demand.huge, page.bytes(), bytes);
        }
    }
    demand
}

/// What the kernel needs beside the pages, and charges to the same memory cgroup: a guest that fits its limit to the
/// byte would be killed while it is faulted in.
fn overhead(size: u64, found: &Found, accounting: Accounting) -> u64 {
    if found.backing.kind == BackingKind::Hugetlb {
        return 0;
    }
    // 8 bytes a base page; of transparent huge pages each keeps a page table in reserve, which is as much.
    let page_tables = found.missing / 512;
    // io_uring keeps 16 bytes (struct bio_vec) for each page of a buffer.
    let buffers = match accounting {
        Accounting::User => size / found.backing.page_size.bytes() * 16,
        // The IOMMU's page tables: 8 bytes a page.
        Accounting::Process => size / found.backing.page_size.bytes() * 8,
        Accounting::Nothing => 0,
    };
    page_tables + buffers
}

/// The part of the demand that counts against `RLIMIT_MEMLOCK`.
pub(crate) fn locked(regions: &Regions, accounting: Accounting) -> Demand {
    let (rule, locked) = match accounting {
        Accounting::Nothing => (LockRule::Exempt, 0),
        Accounting::User => (LockRule::User, regions.size()),
        Accounting::Process => (LockRule::Process, regions.size()),
    };
    Demand {
        locked,
        rule,
        fresh: 0,
        huge: Vec::new(),
    }
}

fn take_huge(huge: &mut Vec<HugeDemand>, page_size: u64, bytes: u64) {
    match huge.iter_mut().find(|demand| demand.page_size == page_size) {
        Some(demand) => demand.bytes += bytes,
        None => huge.push(HugeDemand { page_size, bytes }),
    }
}

#[cfg(test)]
mod tests {
    use vfio::{Backing, PageSize};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn found(kind: BackingKind, page_size: PageSize, missing: u64) -> Found {
        Found {
            backing: Backing {
                kind,
                page_size,
                shared: false,
            },
            resident: GIB - missing,
            missing,
            missing_huge: Vec::new(),
        }
    }

    #[test]
    fn the_kernels_own_needs_are_counted() {
        let base = found(BackingKind::Anonymous, PageSize::SIZE_4K, GIB);
        assert_eq!(overhead(GIB, &base, Accounting::Nothing), 2 << 20);
        assert_eq!(overhead(GIB, &base, Accounting::User), 6 << 20);
        let resident = found(BackingKind::Anonymous, PageSize::SIZE_4K, 0);
        assert_eq!(overhead(GIB, &resident, Accounting::Nothing), 0);
        let huge = found(BackingKind::Hugetlb, PageSize::SIZE_1G, GIB);
        assert_eq!(overhead(GIB, &huge, Accounting::User), 0);
    }

    #[test]
    fn pools_are_summed_up_by_page() {
        let mut huge = Vec::new();
        take_huge(&mut huge, 2 << 20, 4 << 20);
        take_huge(&mut huge, 1 << 30, 1 << 30);
        take_huge(&mut huge, 2 << 20, 2 << 20);
        let sums: Vec<_> = huge
            .iter()
            .map(|demand| (demand.page_size, demand.bytes))
            .collect();
        assert_eq!(sums, [(2 << 20, 6 << 20), (1 << 30, 1 << 30)]);
    }
}
