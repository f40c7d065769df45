// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine that the tests run on, whatever it is.

use cgroup::{CpuBudget, Demand, LockRule, MemoryBudget, ProcessMemory, Throttle};

#[test]
fn cpus() {
    let budget = CpuBudget::current();
    assert!(1 <= budget.threads().get());
    assert!(!budget.limits().is_empty(), "{:?}", budget.problems());
    assert!(["affinity", "online", "cfs-quota"].contains(&budget.limited_by().name()));
    if let Some(earlier) = Throttle::current() {
        let later = Throttle::current().unwrap();
        assert!(later.since(&earlier).periods <= later.periods);
    }
}

#[test]
fn memory() {
    let budget = MemoryBudget::current();
    assert!(!budget.limits().is_empty(), "{:?}", budget.problems());
    assert!(budget.available().is_some(), "{:?}", budget.problems());
    let process = ProcessMemory::current().unwrap();
    assert!(0 < process.resident);
    let nothing = Demand {
        locked: 0,
        rule: LockRule::Process,
        fresh: 0,
        huge: Vec::new(),
    };
    assert_eq!(budget.check(&nothing), Ok(()));
    let everything = Demand {
        locked: 0,
        rule: LockRule::Exempt,
        fresh: u64::MAX,
        huge: Vec::new(),
    };
    assert!(budget.check(&everything).is_err());
}
