// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The file system that everything is read from.
//!
//! ```text
//! Root::live()      /proc/thread-self/status ─► /proc/thread-self/status
//! Root::at("tree")  /proc/thread-self/status ─► tree/proc/thread-self/status
//! ```
//!
//! Every file is read up to a bound, because a recorded tree, or a file system that somebody mounted
//! over `/proc`, can hold anything.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use crate::error::ReadError;

/// Bound of every file but mountinfo, in bytes.
const FILE_BOUND: usize = 1 << 20;
/// Bound of mountinfo, in bytes: hosts of many containers have tens of thousands of mounts.
const MOUNTINFO_BOUND: usize = 4 << 20;
/// Bound of a directory listing, in entries: a host with virtual functions has thousands of IOMMU groups.
const ENTRIES_BOUND: usize = 1 << 14;

/// The root of the file system that limits are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// The machine this runs on.
    pub fn live() -> Self {
        Self::at("/")
    }

    /// A recorded tree, or the root of another mount namespace.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Reads a file as text; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is one line without an end.
    pub fn text(&self, path: &Path) -> Result<String, ReadError> {
        let bytes = self.bytes(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a file as it is.
    ///
    /// Of a file above the bound the whole lines within it are taken.
    pub(crate) fn bytes(&self, path: &Path) -> Result<Vec<u8>, ReadError> {
        let bound = if path.ends_with("mountinfo") {
            MOUNTINFO_BOUND
        } else {
            FILE_BOUND
        };
        let mut bytes =
            read_bounded(&self.resolve(path), bound).map_err(|e| ReadError::io(path, &e))?;
        if bound < bytes.len() {
            let Some(end) = bytes[..bound].iter().rposition(|&b| b == b'\n') else {
                let start = String::from_utf8_lossy(&bytes[..256]);
                return Err(ReadError::garbled(path, &start, "one endless line"));
            };
            bytes.truncate(end + 1);
        }
        Ok(bytes)
    }

    /// Reads a file of the calling thread, or of its process where `/proc/thread-self` has none.
    ///
    /// Returns the path that was read as well.
    pub(crate) fn own_bytes(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ReadError> {
        let thread = Path::new("/proc/thread-self").join(name);
        let of_thread = match self.bytes(&thread) {
            Ok(bytes) => return Ok((thread, bytes)),
            Err(error) => error,
        };
        let process = Path::new("/proc/self").join(name);
        match self.bytes(&process) {
            Ok(bytes) => Ok((process, bytes)),
            // A file that is there tells more than one that is not.
            Err(of_process) if of_thread.is_missing() && !of_process.is_missing() => {
                Err(of_process)
            }
            Err(_) => Err(of_thread),
        }
    }

    /// Like [`own_bytes`](Self::own_bytes), as text.
    pub(crate) fn own_text(&self, name: &str) -> Result<(PathBuf, String), ReadError> {
        let (path, bytes) = self.own_bytes(name)?;
        Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Where a symbolic link points to.
    ///
    /// # Errors
    ///
    /// There is no such link, or it cannot be read.
    pub fn link(&self, path: &Path) -> Result<PathBuf, ReadError> {
        fs::read_link(self.resolve(path)).map_err(|e| ReadError::io(path, &e))
    }

    /// The sorted names in a directory, at most 16,384; those that are not UTF-8 are left out.
    ///
    /// # Errors
    ///
    /// There is no such directory, or it cannot be listed.
    pub fn names(&self, path: &Path) -> Result<Vec<String>, ReadError> {
        let entries = fs::read_dir(self.resolve(path)).map_err(|e| ReadError::io(path, &e))?;
        let mut names: Vec<String> = entries
            .take(ENTRIES_BOUND)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Places an absolute path below this root; `..` cannot lead out of it.
    ///
    /// For what is asked of a file other than its content, such as who may open it.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let below = path.components().filter_map(|c| match c {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let mut resolved = self.path.clone();
        resolved.extend(below);
        resolved
    }
}

/// Reads at most one byte more than `bound`, so that the caller can tell that there is more.
fn read_bounded(path: &Path, bound: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Root::at("/tree");
        let cases = [
            ("/proc/self", "/tree/proc/self"),
            ("/../../etc", "/tree/etc"),
            ("/a/./b//c", "/tree/a/b/c"),
            ("/", "/tree"),
        ];
        for (path, resolved) in cases {
            assert_eq!(root.resolve(Path::new(path)), Path::new(resolved), "{path}");
        }
        assert_eq!(Root::live().resolve(Path::new("/proc")), Path::new("/proc"));
    }

    #[test]
    fn a_directory_and_a_missing_file_are_errors() {
        let root = Root::at(env!("CARGO_MANIFEST_DIR"));
        assert!(!root.text(Path::new("/src")).unwrap_err().is_missing());
        assert!(root.text(Path::new("/nothing")).unwrap_err().is_missing());
        assert!(root.names(Path::new("/nothing")).unwrap_err().is_missing());
        assert!(root.link(Path::new("/Cargo.toml")).is_err());
    }
}
