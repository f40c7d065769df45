// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What could not be read, and what is assumed instead.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Longest content that is repeated in an error, in characters.
const SHOWN: usize = 80;

/// A file that could not be read or understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {why}{}; {fallback}", path.display(), quoted(content))]
pub struct ReadError {
    path: PathBuf,
    content: String,
    why: Cow<'static, str>,
    fallback: &'static str,
    missing: bool,
}

impl ReadError {
    /// The file, as seen below the [`Root`](crate::Root).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found in it, shortened to about 80 characters; empty if nothing could be read.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// Why it could not be used.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What is assumed instead.
    pub fn fallback(&self) -> &str {
        self.fallback
    }

    /// Whether the file does not exist, which for many files is no fault at all.
    pub fn is_missing(&self) -> bool {
        self.missing
    }

    /// An error of the file system.
    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            _ => error.to_string().into(),
        };
        Self {
            path: path.to_owned(),
            content: String::new(),
            why,
            fallback: "nothing is assumed instead",
            missing: error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// A file whose content makes no sense.
    pub(crate) fn garbled(path: &Path, content: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: path.to_owned(),
            content: shortened(content),
            why: why.into(),
            fallback: "nothing is assumed instead",
            missing: false,
        }
    }

    /// Says what is assumed instead.
    pub(crate) fn fall_back(self, fallback: &'static str) -> Self {
        Self { fallback, ..self }
    }
}

/// About the first [`SHOWN`] characters, with everything unprintable escaped so that it fits in one line.
pub(crate) fn shortened(content: &str) -> String {
    let mut text = String::new();
    let mut room = SHOWN;
    for c in content.trim().chars() {
        if room == 0 {
            text.push('…');
            break;
        }
        let before = text.len();
        if c.is_control() {
            text.extend(c.escape_default());
            room = room.saturating_sub(text.len() - before);
        } else {
            text.push(c);
            room -= 1;
        }
    }
    text
}

fn quoted(content: &str) -> String {
    if content.is_empty() {
        String::new()
    } else {
        format!(": `{content}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_path_reason_content_and_fallback() {
        let error = ReadError::garbled(Path::new("/x/cpu.max"), "lots 0\n", "not a quota")
            .fall_back("this level is ignored");
        assert_eq!(
            error.to_string(),
            "/x/cpu.max: not a quota: `lots 0`; this level is ignored"
        );
    }

    #[test]
    fn content_is_short_and_in_one_line() {
        let short = shortened(&"a\0\n".repeat(1000));
        assert!(short.starts_with("a\\u{0}\\n"));
        assert!(short.ends_with('…'));
        assert!(short.chars().count() < 90);
        assert_eq!(shortened(" plain \n"), "plain");
    }
}
