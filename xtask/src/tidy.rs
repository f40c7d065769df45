// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! House rules that neither the compiler nor clippy knows. Each breach is one line: `file:line: what`.

mod code_map;
mod edge;
mod licence;
mod orphan;
mod source;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{command::root, metadata::Metadata};

/// One breach of a rule.
#[derive(Debug)]
struct Finding {
    /// Relative to the root of the workspace.
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Prints every breach of every rule.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let metadata = Metadata::read()?;
    let sources = sources(root)?;
    let mut findings = Vec::new();
    for file in &sources {
        findings.extend(source::check(file, &read(&root.join(file))?));
    }
    findings.extend(orphan::check(root, &sources, &metadata)?);
    findings.extend(code_map::check(root));
    findings.extend(edge::check(root, &metadata)?);
    findings.extend(licence::check(root));
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!(
            "{} found in {} source files; repeat with: cargo xtask ci --only tidy",
            findings.len(),
            sources.len()
        );
    }
    Ok(())
}

/// All `.rs` files below the root and relative to it, in order.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
            let path = entry.path();
            let kind = entry
                .file_type()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if kind.is_dir() && !is_foreign(&path) {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs")
            {
                sources.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// Version control, and what was built: cargo tags its target directories.
fn is_foreign(directory: &Path) -> bool {
    directory.ends_with(".git") || directory.join("CACHEDIR.TAG").exists()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
