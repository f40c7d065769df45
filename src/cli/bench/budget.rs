// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether there is memory for a bench.

use cgroup::{Demand, LockRule, MemoryBudget};

use super::Refused;

/// Whether so many bytes may be touched: the kernel would kill somebody rather than refuse.
pub(super) fn check(bytes: u64) -> Result<(), Refused> {
    let demand = Demand {
        locked: 0,
        rule: LockRule::Exempt,
        fresh: bytes,
        huge: Vec::new(),
    };
    let shortages = match MemoryBudget::current().check(&demand) {
        Ok(()) => return Ok(()),
        Err(shortages) => shortages,
    };
    let mut refused = Refused::failed(shortages[0].to_string());
    refused.remedy = Some(format!(
        "choose a smaller --size, or: {}",
        shortages[0].remedy
    ));
    Err(refused)
}
