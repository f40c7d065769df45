// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is built to run inside: static programs, since there is no library in the machine that they could load.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use parapin_vm::names;
use serde_json::Value;

use crate::{
    command::{CommandLine, target_directory},
    metadata::Metadata,
};

/// What begins like this needs the machine, and so runs in it.
const PREFIX: &str = "vm_";
/// Tests that run anywhere, and see more inside: another kernel, cgroup v2, nobody else who pins.
const ANYWHERE: [&str; 2] = ["memlock", "pins"];
/// Benches of the same kind.
const BENCHES_ANYWHERE: [&str; 1] = ["polite"];
/// A triple of its own, so that flags for the programs do not reach procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program, by its name and where it is.
pub(crate) type Program = (String, PathBuf);

/// Everything of ours that goes into the machine.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) parapin: PathBuf,
    pub(crate) tests: Vec<Program>,
    pub(crate) benches: Vec<Program>,
    pub(crate) examples: Vec<Program>,
}

/// The directory for everything that has to do with the machine.
pub(crate) fn directory() -> PathBuf {
    target_directory().join("vm")
}

/// Builds the tests that one of `filters` may select, and what they need.
pub(crate) fn for_tests(filters: &[String]) -> Result<Programs> {
    let built = build_tests(filters)?;
    Ok(Programs {
        parapin: parapin(&built)?,
        tests: executables(&built, "test"),
        benches: Vec::new(),
        examples: examples()?,
        init: init()?,
    })
}

/// Builds the benches, with optimization, and what they need.
pub(crate) fn for_benches() -> Result<Programs> {
    let mut benches = targets("bench")?;
    benches.retain(|name| name.starts_with(PREFIX) || BENCHES_ANYWHERE.contains(&name.as_str()));
    ensure!(
        !benches.is_empty(),
        "no bench of the package begins with `{PREFIX}`"
    );
    let built = build(&format!(
        "bench --no-run -p parapin{}",
        options("bench", &benches)
    ))?;
    Ok(Programs {
        parapin: parapin(&built)?,
        tests: Vec::new(),
        benches: executables(&built, "bench"),
        examples: Vec::new(),
        init: init()?,
    })
}

/// The names of all tests that one of `filters` may select, as the machine would say them.
pub(crate) fn list_tests(filters: &[String]) -> Result<Vec<String>> {
    list(&executables(&build_tests(filters)?, "test"))
}

/// The names of all tests in `programs`, which run on the host as well.
pub(crate) fn list(programs: &[Program]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (program, path) in programs {
        let output = Command::new(path)
            .args(["--list", "--format", "terse"])
            .output();
        let output = output.with_context(|| format!("cannot start {}", path.display()))?;
        ensure!(
            output.status.success(),
            "{program} cannot list its tests: {}",
            output.status
        );
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        all.extend(names(&listing).map(|test| format!("{program}::{test}")));
    }
    Ok(all)
}

/// Integration tests bring `parapin` along.
fn build_tests(filters: &[String]) -> Result<String> {
    let mut tests = targets("test")?;
    tests.retain(|name| name.starts_with(PREFIX) || ANYWHERE.contains(&name.as_str()));
    let words = options("test", &wanted(tests, filters));
    build(&format!("test --no-run -p parapin{words}"))
}

/// Without those that no filter can mean: where all filters begin with whole names of programs, it is these alone.
fn wanted(programs: Vec<String>, filters: &[String]) -> Vec<String> {
    let named: Vec<_> = filters
        .iter()
        .filter_map(|filter| filter.split("::").next())
        .collect();
    let all_named = named
        .iter()
        .all(|name| programs.iter().any(|program| program == name));
    if filters.is_empty() || !all_named {
        return programs;
    }
    let mut programs = programs;
    programs.retain(|program| named.contains(&program.as_str()));
    programs
}

fn options(kind: &str, names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!(" --{kind} {name}"))
        .collect()
}

fn init() -> Result<PathBuf> {
    one("init", &build("build -p parapin-vm --bin init")?)
}

fn parapin(built: &str) -> Result<PathBuf> {
    one("parapin", built)
}

fn examples() -> Result<Vec<Program>> {
    if targets("example")?.is_empty() {
        return Ok(Vec::new());
    }
    let built = build("build -p parapin --examples")?;
    Ok(executables(&built, "example"))
}

fn one(name: &str, built: &str) -> Result<PathBuf> {
    let found = executables(built, "bin")
        .into_iter()
        .find(|(of, _)| of == name);
    let (_, path) = found.with_context(|| format!("cargo did not say where `{name}` is"))?;
    Ok(path)
}

/// The names of the root package's targets of a kind.
fn targets(kind: &str) -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    let members = metadata.members();
    let package = members.iter().find(|package| package.name() == "parapin");
    let package = package.context("the workspace has no package `parapin`")?;
    Ok(package
        .targets(kind)
        .into_iter()
        .map(str::to_owned)
        .collect())
}

/// Runs cargo, and returns its messages.
fn build(task: &str) -> Result<String> {
    let directory = directory();
    let command = CommandLine::new(format!(
        "cargo {task} --target {TARGET} --message-format=json-render-diagnostics"
    ))
    .flags("RUSTFLAGS", "-C target-feature=+crt-static")
    // An emulated CPU takes more than twice as long for what is not optimized at all.
    .variable("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
    // A panic's place is in its message; the rest would fill the machine's memory.
    .variable("CARGO_PROFILE_DEV_DEBUG", "0")
    .variable("CARGO_PROFILE_DEV_STRIP", "debuginfo")
    .variable("CARGO_TARGET_DIR", directory.to_string_lossy());
    command.listen()
}

/// The programs of a kind, in the order of their names.
fn executables(messages: &str, kind: &str) -> Vec<Program> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs: Vec<_> = messages
        .filter(|message| {
            let kinds = message["target"]["kind"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(|of| of == kind))
        })
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, Path::new(message["executable"].as_str()?).to_owned()))
        })
        .collect();
    programs.sort();
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_of_programs_keep_others_from_being_built() {
        let all = ["pins", "vm_a", "vm_b"].map(str::to_owned).to_vec();
        let wanted = |filters: &[&str]| {
            let filters: Vec<_> = filters.iter().map(|&filter| filter.to_owned()).collect();
            wanted(all.clone(), &filters)
        };
        assert_eq!(wanted(&[]), all);
        assert_eq!(wanted(&["vm_a", "pins::memfd"]), ["pins", "vm_a"]);
        assert_eq!(wanted(&["vm_a", "memfd"]), all);
        assert_eq!(wanted(&["vm_"]), all);
    }

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"parapin"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"parapin"},"executable":"/t/parapin"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"vm_b"},"executable":"/t/deps/vm_b-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"pins"},"executable":"/t/deps/pins-2"}
{"reason":"build-finished","success":true}
"#;
        let expected = [("pins", "/t/deps/pins-2"), ("vm_b", "/t/deps/vm_b-1")];
        let expected = expected.map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
        assert_eq!(executables(messages, "test"), expected);
    }
}
