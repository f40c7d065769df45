// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that cannot be started mean fewer helpers, not a failure.
//!
//! One test in a process of its own: it takes the address space away that thread stacks need.

use std::num::NonZeroUsize;

use fakes::FakeKernel;
use pinning::{Allowance, Constraints, Crew, Job, Limit, NICEST, Plan, Range, Watch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_crew_is_as_large_as_the_system_lets_it_be() {
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
