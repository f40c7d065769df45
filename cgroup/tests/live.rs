// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine that the tests run on, whatever it is.

use std::thread;

use cgroup::{
    CpuBudget, Demand, LockRule, MemoryBudget, MemoryNodes, NiceScope, PendingSignals,
    ProcessMemory, Throttle,
};
use nix::sys::signal::{SigSet, Signal, raise};

#[test]
fn cpus() {
    let budget = CpuBudget::current();
    assert!(1 <= budget.threads().get());
    assert!(!budget.limits().is_empty(), "{:?}", budget.problems());
    assert!(["affinity", "online", "cfs-quota"].contains(&budget.limited_by().name()));
    assert_eq!(
        budget.cpus().unwrap().count() as u64,
        budget.limits()[0].allows.unwrap()
    );
    let mut watch = CpuBudget::watch();
    for _ in 0..2 {
        assert_eq!(watch.read().threads(), budget.threads());
    }
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

#[test]
fn every_cpu_is_near_a_node() {
    let nodes = MemoryNodes::current();
    assert_eq!(nodes.problems(), []);
    assert_ne!(nodes.allowed().count(), 0);
    let budget = CpuBudget::current();
    for cpu in budget.cpus().unwrap().iter() {
        assert!(nodes.node_of_cpu(cpu).is_some(), "CPU {cpu}");
    }
}

#[test]
fn niceness_counts_against_somebody() {
    NiceScope::current().unwrap();
}

#[test]
fn a_signal_waits_while_its_thread_blocks_it() {
    let block_and_raise = || {
        assert_eq!(PendingSignals::current().unwrap().termination(), None);
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        blocked.add(Signal::SIGHUP);
        blocked.thread_block().unwrap();
        raise(Signal::SIGHUP).unwrap();
        let hangup = PendingSignals::current().unwrap().termination();
        raise(Signal::SIGTERM).unwrap();
        let both = PendingSignals::current().unwrap();
        assert!(both.contains(Signal::SIGHUP as i32));
        (hangup, both.termination())
    };
    // The signals go away with their thread, before anybody takes them.
    let found = thread::scope(|scope| scope.spawn(block_and_raise).join().unwrap());
    assert_eq!(found, (Some(1), Some(15)));
    // What was sent to another thread is nothing to this one.
    assert_eq!(PendingSignals::current().unwrap().termination(), None);
}
