// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which published crate of ours may need which other one. Development dependencies are free.

use std::path::Path;

use anyhow::Result;

use super::{Finding, read};
use crate::metadata::{Metadata, Package};

const PREFIX: &str = "parapin";

/// A crate, and those of ours that it may need.
const EDGES: [(&str, &[&str]); 6] = [
    ("parapin-cgroup", &[]),
    ("parapin-pinning", &[]),
    ("parapin-vfio", &["parapin-pinning"]),
    ("parapin-idxd", &[]),
    ("parapin-migration", &["parapin-pinning", "parapin-idxd"]),
    (
        "parapin",
        &[
            "parapin-cgroup",
            "parapin-pinning",
            "parapin-vfio",
            "parapin-idxd",
            "parapin-migration",
        ],
    ),
];

pub(super) fn check(root: &Path, metadata: &Metadata) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in metadata
        .members()
        .into_iter()
        .filter(|package| package.is_published())
    {
        let manifest = read(package.manifest())?;
        findings.extend(breaches(package).into_iter().map(|(key, what)| {
            Finding {
                file: package
                    .manifest()
                    .strip_prefix(root)
                    .unwrap_or(package.manifest())
                    .to_owned(),
                line: line_of(&manifest, key),
                what,
            }
        }));
    }
    Ok(findings)
}

/// The key of the manifest that is at fault, and why.
fn breaches(package: Package<'_>) -> Vec<(&str, String)> {
    let name = package.name();
    let Some((_, allowed)) = EDGES.iter().find(|(of, _)| *of == name) else {
        return vec![(
            "name",
            format!("no rule says which crates of ours {name} may need"),
        )];
    };
    let needed = package
        .dependencies()
        .filter(|needed| !needed.is_dev && needed.name.starts_with(PREFIX));
    needed
        .filter(|needed| !allowed.contains(&needed.name))
        .map(|needed| (needed.key, format!("{name} must not need {}", needed.name)))
        .collect()
}

/// The line that begins with the key, below the `[package]` of a manifest that may be the workspace's too.
fn line_of(manifest: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        line.strip_prefix(key)
            .is_some_and(|rest| rest.starts_with([' ', '.', '=']))
    };
    let lines = manifest
        .lines()
        .enumerate()
        .skip_while(|(_, line)| *line != "[package]");
    lines
        .filter(|(_, line)| is_key(line))
        .map(|(index, _)| index + 1)
        .next()
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_key_is_found_after_the_workspace() {
        let manifest = "[workspace.dependencies]\nvfio = 1\n[package]\nname = \"x\"\n[dependencies]\nvfio.workspace = true\n";
        assert_eq!(line_of(manifest, "vfio"), 6);
        assert_eq!(line_of(manifest, "name"), 4);
        assert_eq!(line_of(manifest, "absent"), 1);
    }

    #[test]
    fn a_forbidden_edge_is_found() {
        let package = serde_json::json!({ "name": "parapin-cgroup", "dependencies": [
            { "name": "parapin-pinning", "rename": "pinning", "kind": null },
            { "name": "parapin-fakes", "rename": "fakes", "kind": "dev" },
            { "name": "libc", "rename": null, "kind": "build" },
        ]});
        let found = breaches(Package::new(&package));
        assert_eq!(
            found,
            [(
                "pinning",
                "parapin-cgroup must not need parapin-pinning".to_owned()
            )]
        );
    }
}
