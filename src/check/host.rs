// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a host's files are read: anything in them may be missing, garbage, or written to confuse.
//!
//! ```text
//!  /sys/…/state ─► line()  ─► first line, printable, at most 60 characters
//!  /sys/…/driver ► link()  ─► name of what it points to      ┐ a file that is not there is None,
//!  /sys/…/devices ► list() ─► names without anything odd     ┘ one that cannot be read an error
//! ```

use std::{fmt, path::Path};

use cgroup::{ReadError, Root};

use super::probe::Probe;

/// Longest text of a file that is shown, in characters.
const SHOWN: usize = 60;

/// What a file has, if it exists.
pub(super) type Found<T> = Result<Option<T>, Unreadable>;

/// A file that could not be read, or that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    path: String,
    why: String,
}

impl Unreadable {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Text that is not what the file should have.
    pub(super) fn garbled(path: &str, text: &str) -> Self {
        let why = if text.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("`{}` makes no sense", printable(text))
        };
        Self {
            path: path.to_owned(),
            why,
        }
    }
}

impl From<&ReadError> for Unreadable {
    fn from(error: &ReadError) -> Self {
        let content = match error.content() {
            "" => String::new(),
            content => format!(": `{content}`"),
        };
        Self {
            path: shown(error.path()),
            why: format!("{}{content}", error.why()),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// The files of a host, and what only its kernel can tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) root: &'a Root,
    pub(super) probe: &'a dyn Probe,
}

impl Host<'_> {
    /// The whole text of a file.
    pub(super) fn text(&self, path: &str) -> Found<String> {
        found(self.root.text(Path::new(path)))
    }

    /// The first line of a file, fit for a terminal.
    pub(super) fn line(&self, path: &str) -> Found<String> {
        let text = self.text(path)?;
        Ok(text.map(|text| printable(text.lines().next().unwrap_or_default())))
    }

    /// A number: decimal, or hexadecimal behind `0x`.
    pub(super) fn number(&self, path: &str) -> Found<u64> {
        let Some(line) = self.line(path)? else {
            return Ok(None);
        };
        match line.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => line.parse(),
        }
        .map(Some)
        .map_err(|_| Unreadable::garbled(path, &line))
    }

    /// A parameter of a module that is Y or N.
    pub(super) fn flag(&self, path: &str) -> Found<bool> {
        match self.line(path)?.as_deref() {
            None => Ok(None),
            Some("Y" | "1") => Ok(Some(true)),
            Some("N" | "0") => Ok(Some(false)),
            Some(other) => Err(Unreadable::garbled(path, other)),
        }
    }

    /// The name of what a symbolic link of sysfs points to.
    pub(super) fn link(&self, path: &str) -> Found<String> {
        let Some(target) = found(self.root.link(Path::new(path)))? else {
            return Ok(None);
        };
        match target.file_name().and_then(|name| name.to_str()) {
            Some(name) if is_plain(name) => Ok(Some(name.to_owned())),
            _ => Err(Unreadable::garbled(path, &target.to_string_lossy())),
        }
    }

    /// The names in a directory that the kernel could have given.
    pub(super) fn list(&self, path: &str) -> Found<Vec<String>> {
        let names = found(self.root.names(Path::new(path)))?;
        Ok(names.map(|names| names.into_iter().filter(|name| is_plain(name)).collect()))
    }

    /// Whether there is something at `path`, as far as can be told.
    pub(super) fn has(&self, path: &str) -> bool {
        !matches!(self.list(path), Ok(None))
    }
}

fn found<T>(read: Result<T, ReadError>) -> Found<T> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(Unreadable::from(&error)),
    }
}

/// Whether a name is short and has nothing in it that a shell or a terminal would take for more than text.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+@,!".contains(&byte);
    !name.is_empty() && name.len() <= SHOWN && name.bytes().all(plain)
}

/// The text in one line, with what is not printable escaped, and not too long.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        if index == SHOWN {
            shown.push('…');
            break;
        }
        if character.is_control() || is_invisible(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A path, fit for a terminal; for a command it is a [`cgroup::ShellPath`].
pub(super) fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// Marks that turn the direction of the text around them, or have no width.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Names in a list, the first few of many.
pub(super) fn some_of(names: &[String]) -> String {
    const MANY: usize = 4;
    let shown = names[..names.len().min(MANY)].join(", ");
    match names.len().saturating_sub(MANY) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    humansize::format_size(bytes, humansize::BINARY)
}

/// A number of things.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_cannot_confuse() {
        assert_eq!(printable(" a\x1b[31m\n"), "a\\u{1b}[31m");
        assert_eq!(printable("\u{202e}abc"), "\\u{202e}abc");
        assert!(printable(&"x".repeat(1000)).chars().count() == SHOWN + 1);
    }

    #[test]
    fn names_the_kernel_could_not_have_given_are_refused() {
        for name in ["0000:01:00.0", "vfio-pci", "snd_hda_intel", "wq0.0"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "a b", "$(reboot)", "`x`", "a\nb", "é", &"x".repeat(61)] {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn many_names_are_cut() {
        let names: Vec<String> = (0..6).map(|n| format!("dmar{n}")).collect();
        assert_eq!(some_of(&names[..2]), "dmar0, dmar1");
        assert_eq!(some_of(&names), "dmar0, dmar1, dmar2, dmar3 and 2 more");
    }
}
