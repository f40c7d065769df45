// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `cargo metadata` knows of the workspace and its dependencies.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::CommandLine;

/// The answer of `cargo metadata`.
#[derive(Debug)]
pub(crate) struct Metadata(Value);

/// One package of the workspace or below it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package<'a>(&'a Value);

/// What a manifest declares under a `[dependencies]` of any kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dependency<'a> {
    pub(crate) name: &'a str,
    /// The name on the left of the `=`.
    pub(crate) key: &'a str,
    pub(crate) is_dev: bool,
}

impl Metadata {
    pub(crate) fn new(answer: Value) -> Self {
        Self(answer)
    }

    pub(crate) fn read() -> Result<Self> {
        let command = CommandLine::new("cargo metadata --format-version 1 --locked --all-features");
        let text = command.read()?;
        let answer = serde_json::from_str(&text)
            .with_context(|| format!("cannot read the answer of: {command}"))?;
        Ok(Self::new(answer))
    }

    /// The packages of the workspace.
    pub(crate) fn members(&self) -> Vec<Package<'_>> {
        list(&self.0["workspace_members"])
            .filter_map(|id| self.package(text(id)))
            .collect()
    }

    pub(crate) fn package(&self, id: &str) -> Option<Package<'_>> {
        list(&self.0["packages"])
            .find(|package| package["id"] == id)
            .map(Package::new)
    }

    /// The ids of what a package needs to be built and run, without what only its tests need.
    pub(crate) fn needs(&self, id: &str) -> Vec<&str> {
        list(&self.0["resolve"]["nodes"])
            .filter(|node| node["id"] == id)
            .flat_map(|node| list(&node["deps"]))
            .filter(|edge| list(&edge["dep_kinds"]).any(|kind| kind["kind"] != "dev"))
            .map(|edge| text(&edge["pkg"]))
            .collect()
    }
}

impl<'a> Package<'a> {
    /// One entry of `packages`.
    pub(crate) fn new(entry: &'a Value) -> Self {
        Self(entry)
    }

    pub(crate) fn id(self) -> &'a str {
        text(&self.0["id"])
    }

    pub(crate) fn name(self) -> &'a str {
        text(&self.0["name"])
    }

    pub(crate) fn version(self) -> &'a str {
        text(&self.0["version"])
    }

    pub(crate) fn rust_version(self) -> Option<&'a str> {
        self.0["rust_version"].as_str()
    }

    pub(crate) fn manifest(self) -> &'a Path {
        Path::new(text(&self.0["manifest_path"]))
    }

    /// Whether it may go to a registry.
    pub(crate) fn is_published(self) -> bool {
        self.0["publish"].is_null()
    }

    /// The first file of each library, program, test, …
    pub(crate) fn entry_points(self) -> Vec<PathBuf> {
        list(&self.0["targets"])
            .map(|target| PathBuf::from(text(&target["src_path"])))
            .collect()
    }

    /// The names of all targets of a kind: `test`, `bench`, `example`, …
    pub(crate) fn targets(self, kind: &str) -> Vec<&'a str> {
        list(&self.0["targets"])
            .filter(|target| list(&target["kind"]).any(|of| of == kind))
            .map(|target| text(&target["name"]))
            .collect()
    }

    pub(crate) fn dependencies(self) -> impl Iterator<Item = Dependency<'a>> {
        list(&self.0["dependencies"]).map(|dependency| {
            let name = text(&dependency["name"]);
            let key = dependency["rename"].as_str().unwrap_or(name);
            Dependency {
                name,
                key,
                is_dev: dependency["kind"] == "dev",
            }
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
