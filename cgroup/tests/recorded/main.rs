// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Recorded trees of `/proc` and `/sys`, each with everything that is read from it.
//!
//! Whole outcomes are compared, so that an entry too many fails as well as one too few.

mod check;
mod cpu;
mod memory;
mod nodes;
mod pending;

use std::path::Path;

use cgroup::{Limit, ReadError, Root};

/// A tree in `tests/trees`.
fn tree(name: &str) -> Root {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/trees")
        .join(name);
    assert!(path.is_dir(), "no tree {name}");
    Root::at(path)
}

/// One line for each limit: name, value, what it allows, source.
fn limit_lines(limits: &[Limit]) -> Vec<String> {
    let line = |limit: &Limit| {
        let allows = limit.allows.map_or("-".to_owned(), |n| n.to_string());
        let source = limit.source.display();
        format!("{} | {} | {allows} | {source}", limit.name, limit.value)
    };
    limits.iter().map(line).collect()
}

/// One line for each problem, as a user sees it.
fn problem_lines(problems: &[ReadError]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}
