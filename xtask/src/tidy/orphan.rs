// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Source files below a crate's `src/` that no `mod` leads to: they look like product code and are never compiled.
//!
//! Gotcha: a `mod name;` inside an inline `mod … { }` is looked for beside the outer file, not in the inner folder.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Finding;
use crate::metadata::Metadata;

pub(super) fn check(root: &Path, sources: &[PathBuf], metadata: &Metadata) -> Result<Vec<Finding>> {
    let members = metadata.members();
    let compiled = reach(
        members
            .iter()
            .flat_map(|package| package.entry_points())
            .collect(),
    );
    let mut findings = Vec::new();
    for package in members {
        let directory = package.manifest().with_file_name("src");
        let directory = directory.strip_prefix(root)?;
        let orphans = sources
            .iter()
            .filter(|file| file.starts_with(directory) && !compiled.contains(&root.join(file)));
        findings.extend(orphans.map(|file| Finding {
            file: file.clone(),
            line: 1,
            what: "no `mod` leads to this file, so it is never compiled".into(),
        }));
    }
    Ok(findings)
}

/// Follows `mod name;` from the entry points.
fn reach(entry_points: Vec<PathBuf>) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = entry_points.into_iter().map(|file| (file, true)).collect();
    while let Some((file, is_entry_point)) = open.pop() {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let directory = if is_entry_point || file.ends_with("mod.rs") {
            file.with_file_name("")
        } else {
            file.with_extension("")
        };
        for module in modules(&text) {
            let files = match module {
                Module::Named(name) => vec![
                    directory.join(format!("{name}.rs")),
                    directory.join(name).join("mod.rs"),
                ],
                Module::At(path) => vec![file.with_file_name(path)],
            };
            open.extend(
                files
                    .into_iter()
                    .filter(|file| !seen.contains(file))
                    .map(|file| (file, false)),
            );
        }
        seen.insert(file);
    }
    seen
}

#[derive(Debug, PartialEq, Eq)]
enum Module<'a> {
    Named(&'a str),
    At(&'a str),
}

/// The modules that a file declares and does not contain.
fn modules(text: &str) -> Vec<Module<'_>> {
    let mut path = None;
    let mut modules = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            path = rest.split('"').next();
        } else if let Some(name) = module(line) {
            modules.push(path.take().map_or(Module::Named(name), Module::At));
        }
    }
    modules
}

/// `name` of `mod name;`, `pub mod name;`, `pub(in …) mod name;`.
fn module(line: &str) -> Option<&str> {
    let line = line
        .split_once("//")
        .map_or(line, |(code, _)| code)
        .trim_end();
    let (before, name) = line.strip_suffix(';')?.rsplit_once(' ')?;
    let is_plain = before == "mod" || (before.starts_with("pub") && before.ends_with(" mod"));
    is_plain.then(|| name.trim_start_matches("r#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_found() {
        let text = "mod a;\n// mod b;\npub mod c; // why\n    pub(in crate::x) mod d;\n#[path = \"x/y.rs\"]\nmod e;\nmod f {\nlet mod_g = h;\n";
        let expected = [
            Module::Named("a"),
            Module::Named("c"),
            Module::Named("d"),
            Module::At("x/y.rs"),
        ];
        assert_eq!(modules(text), expected);
    }

    #[test]
    fn this_file_is_reached_from_main() {
        let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs");
        let orphan = main.with_file_name("tidy").join("orphan.rs");
        assert!(reach(vec![main]).contains(&orphan));
    }
}
