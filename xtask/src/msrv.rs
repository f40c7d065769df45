// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The oldest compiler that the published packages promise, against what their dependencies ask for.
//!
//! Development dependencies may ask for more: they reach nobody who uses the packages.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::{
    ci::Outcome,
    command::CommandLine,
    metadata::{Metadata, Package},
};

/// Prints each dependency that needs a newer compiler; builds with the promised one where it is installed.
pub(crate) fn check() -> Result<Outcome> {
    let metadata = Metadata::read()?;
    let published: Vec<_> = metadata
        .members()
        .into_iter()
        .filter(|package| package.is_published())
        .collect();
    let promised = published
        .iter()
        .filter_map(|package| package.rust_version())
        .min_by_key(|version| numbers(version))
        .context("no published package has a `rust-version`")?;
    let offenders = offenders(&metadata, &published, promised);
    for package in &offenders {
        let needed = package.rust_version().unwrap_or_default();
        println!(
            "{} {} needs Rust {needed}, {promised} is promised",
            package.name(),
            package.version()
        );
    }
    if !offenders.is_empty() {
        bail!(
            "{} too new for Rust {promised}; repeat with: cargo xtask ci --only msrv",
            offenders.len()
        );
    }
    build(promised)
}

fn build(promised: &str) -> Result<Outcome> {
    let rustup = CommandLine::new("rustup toolchain list");
    let toolchains = if rustup.succeeds() {
        rustup.read()?
    } else {
        String::new()
    };
    let Some(toolchain) = find(&toolchains, promised) else {
        return Ok(Outcome::Partly(format!(
            "toolchain {promised} is not installed"
        )));
    };
    CommandLine::new(format!("cargo +{toolchain} check --workspace --lib --bins")).read()?;
    Ok(Outcome::Passed)
}

/// What the packages need that asks for a newer compiler; who names none asks for none.
fn offenders<'a>(metadata: &'a Metadata, from: &[Package<'a>], promised: &str) -> Vec<Package<'a>> {
    let packages = tree(metadata, from)
        .into_iter()
        .filter_map(|id| metadata.package(id));
    packages
        .filter(|package| {
            package
                .rust_version()
                .is_some_and(|needed| numbers(needed) > numbers(promised))
        })
        .collect()
}

/// The ids of the packages and of all that they need.
fn tree<'a>(metadata: &'a Metadata, from: &[Package<'a>]) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = from.iter().map(|package| package.id()).collect();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(metadata.needs(id));
        }
    }
    seen
}

/// The first toolchain of `rustup toolchain list` that is of this version, whatever its patch level and host.
fn find<'a>(toolchains: &'a str, version: &str) -> Option<&'a str> {
    toolchains
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| {
            name.strip_prefix(version)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
        })
}

/// `1.85` and `1.85.0` are the same version.
fn numbers(version: &str) -> [u32; 3] {
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(version.split('.')) {
        *number = part.parse().unwrap_or(0);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(numbers("1.85"), numbers("1.85.0"));
        assert!(numbers("1.100") > numbers("1.85.1"));
        assert!(numbers("1.9") < numbers("1.85"));
    }

    #[test]
    fn what_only_tests_need_may_be_newer() {
        let edge = |to: &str, kind: Option<&str>| serde_json::json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] });
        let package = |id: &str, needed: &str| serde_json::json!({ "id": id, "name": id, "rust_version": needed });
        let metadata = Metadata::new(serde_json::json!({
            "workspace_members": ["ours"],
            "packages": [package("ours", "1.85"), package("old", "1.85.0"), package("new", "1.86"),
                         package("generator", "1.87"), package("bench", "1.90")],
            "resolve": { "nodes": [
                { "id": "ours", "deps": [edge("old", None), edge("bench", Some("dev"))] },
                { "id": "old", "deps": [edge("new", None), edge("generator", Some("build"))] },
            ]},
        }));
        let found = offenders(&metadata, &metadata.members(), "1.85");
        assert_eq!(
            found
                .iter()
                .map(|package| package.name())
                .collect::<Vec<_>>(),
            ["generator", "new"]
        );
    }

    #[test]
    fn a_toolchain_of_another_version_is_not_taken() {
        let list = "stable-x86_64-unknown-linux-gnu (active)\n1.850.0-x\n1.85.1-x86_64-unknown-linux-gnu\n";
        assert_eq!(find(list, "1.85"), Some("1.85.1-x86_64-unknown-linux-gnu"));
        assert_eq!(find(list, "1.84"), None);
    }
}
