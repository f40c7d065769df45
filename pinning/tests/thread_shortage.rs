// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that cannot be started mean fewer helpers, not a failure.
//!
//! One test in a process of its own: it takes the address space away that thread stacks need.

use std::{env, num::NonZeroUsize, process::Command};

use fakes::FakeKernel;
use pinning::{Allowance, Constraints, Crew, Job, Limit, NICEST, Plan, Range, Watch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_crew_is_as_large_as_the_system_lets_it_be() {
    // One arena for all threads: each would reserve address space for one of its own, and glibc aborts where there is none
    // left for a thread's first allocation.
    if env::var_os("MALLOC_ARENA_MAX").is_none() {
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_crew_is_as_large_as_the_system_lets_it_be"])
            .env("MALLOC_ARENA_MAX", "1")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    // Free memory inside of that arena, below an allocation that keeps it there.
    let mut blocks: Vec<Box<[u8]>> = (0..16_384).map(|_| vec![0; 1024].into()).collect();
    let _last = blocks.pop();
    drop(blocks);

    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let size_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap();
    let limit = getrlimit(Resource::As);
    // Room for some stacks of 2 MiB, and enough beside them for allocators.
    let little = Rlimit {
        current: Some((size_kib << 10) + (96 << 20)),
        maximum: limit.maximum,
    };
    setrlimit(Resource::As, little).unwrap();
    let crew = Crew::new(200, NICEST);
    setrlimit(Resource::As, limit).unwrap();

    assert_eq!(crew.helpers_wanted(), 200);
    assert!((1..200).contains(&crew.helpers()), "{}", crew.helpers());

    let job = Job::new([Range::new(0, 64 << 30, 4096).unwrap()]).unwrap();
    let budget = Allowance {
        threads: NonZeroUsize::new(201).unwrap(),
        limited_by: "affinity",
    };
    let plan = Plan::new(&job, &Constraints::default(), &budget).unwrap();
    let kernel = FakeKernel::new();
    let finished = pinning::run(&plan, Some(&crew), &kernel, Watch::default()).unwrap();
    assert_eq!(finished.report.helpers_wanted, 200);
    assert_eq!(finished.report.helpers_started, crew.helpers());
    assert_eq!(finished.report.limited_by, Limit::ThreadsUnavailable);
    assert_eq!(kernel.held(), [(0, 64 << 30)]);
}
