// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Joins the limits of `cgroup` to the questions that `pinning` and the memory check ask.

use cgroup::{CpuBudget, Demand, HugeDemand, LockRule};
use pinning::{Allowance, Budget};
use vfio::{Accounting, Backing, BackingKind, Regions, Survey};

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

/// What pinning `regions` will ask of memory, given what `survey` found to be there already.
pub(crate) fn demand(regions: &Regions, survey: &Survey, accounting: Accounting) -> Demand {
    let mut demand = locked(regions, accounting);
    for (region, found) in regions.iter().zip(survey.found()) {
        let missing = region.size().saturating_sub(found.resident);
        let backing = region.backing().unwrap_or(found.backing);
        if backing.kind == BackingKind::Hugetlb {
            take_huge(&mut demand.huge, backing, missing);
        } else {
            demand.fresh += missing;
        }
    }
    demand
}

/// The part of the demand that counts against `RLIMIT_MEMLOCK`.
pub(crate) fn locked(regions: &Regions, accounting: Accounting) -> Demand {
    let (rule, locked) = match accounting {
        Accounting::Nothing => (LockRule::Exempt, 0),
        Accounting::User => (LockRule::User, regions.size()),
    };
    Demand {
        locked,
        rule,
        fresh: 0,
        huge: Vec::new(),
    }
}

fn take_huge(huge: &mut Vec<HugeDemand>, backing: Backing, bytes: u64) {
    let page_size = backing.page_size.bytes();
    match huge.iter_mut().find(|demand| demand.page_size == page_size) {
        Some(demand) => demand.bytes += bytes,
        None => huge.push(HugeDemand { page_size, bytes }),
    }
}
