// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every path that the code map of `ARCHITECTURE.md` names exists, so that the map cannot go stale.
//!
//! A path stands in backticks, and has a slash in it or ends like a file of ours. It is looked for at the root of the
//! workspace, and then in the folder that was named last before it, so that a list below a folder's name can be short.

use std::{fs, path::Path};

use super::Finding;

const FILE: &str = "ARCHITECTURE.md";
const HEADING: &str = "code map";
const ENDINGS: [&str; 4] = [".rs", ".toml", ".md", "/"];

pub(super) fn check(root: &Path) -> Vec<Finding> {
    match fs::read_to_string(root.join(FILE)) {
        Ok(text) => check_text(&text, &|path| root.join(path).exists()),
        Err(error) => vec![finding(1, format!("cannot be read: {error}"))],
    }
}

fn check_text(text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let lines = code_map(text);
    let paths = lines
        .iter()
        .flat_map(|(number, line)| paths(line).map(move |path| (*number, path)));
    let mut findings = Vec::new();
    let (mut folder, mut count) = (String::new(), 0);
    for (number, path) in paths {
        count += 1;
        let below = format!("{folder}{path}");
        let Some(found) = [path, &below].into_iter().find(|path| exists(path)) else {
            findings.push(finding(number, format!("`{path}` does not exist")));
            continue;
        };
        if path.ends_with('/') {
            folder = found.to_owned();
        }
    }
    if count == 0 {
        let line = lines.first().map_or(1, |(number, _)| *number);
        findings.push(finding(
            line,
            format!("no heading `{HEADING}`, or no path in backticks below it"),
        ));
    }
    findings
}

fn finding(line: usize, what: String) -> Finding {
    Finding {
        file: FILE.into(),
        line,
        what,
    }
}

/// The numbered lines from the heading of the code map to the next one that is not below it.
fn code_map(text: &str) -> Vec<(usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    let mut lines =
        lines.skip_while(|(_, line)| level(line) == 0 || !line.to_lowercase().contains(HEADING));
    let Some(heading) = lines.next() else {
        return Vec::new();
    };
    let rest = lines.take_while(|(_, line)| level(line) == 0 || level(line) > level(heading.1));
    std::iter::once(heading).chain(rest).collect()
}

/// How many `#` a heading has; 0 if it is none.
fn level(line: &str) -> usize {
    let level = line.len() - line.trim_start_matches('#').len();
    if line[level..].starts_with(' ') {
        level
    } else {
        0
    }
}

/// The paths in backticks; paths of the system and patterns are not ours.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let spans = line.split('`').skip(1).step_by(2);
    spans.filter(|span| {
        let is_path = span.contains('/') || ENDINGS.iter().any(|ending| span.ends_with(ending));
        is_path
            && !span.starts_with('/')
            && !span.contains(|c: char| c.is_whitespace() || "*{<$:".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Architecture\n`gone.rs`\n\n## Code map\n\n`vfio/`: `lib.rs`, `sys/mod.rs`, `/dev/vfio`\n\
                        ### `vfio/gone.rs` and `Cargo.toml`\n`a/*.rs` `Iova` `cargo a/b`\n## Next\n`gone.md`\n";

    fn found(text: &str) -> Vec<String> {
        let exists =
            |path: &str| ["vfio/", "vfio/lib.rs", "vfio/sys/mod.rs", "Cargo.toml"].contains(&path);
        check_text(text, &exists)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_stale_path_is_found() {
        assert_eq!(
            found(TEXT),
            ["ARCHITECTURE.md:7: `vfio/gone.rs` does not exist"]
        );
    }

    #[test]
    fn a_map_without_paths_is_found() {
        let what = "no heading `code map`, or no path in backticks below it";
        assert_eq!(
            found("# Architecture\n"),
            [format!("ARCHITECTURE.md:1: {what}")]
        );
        assert_eq!(
            found("#\n## The code map\ntext\n"),
            [format!("ARCHITECTURE.md:2: {what}")]
        );
    }
}
