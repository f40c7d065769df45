// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A tree of files for one test.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::root::Root;

/// A path below the tree, and what is in the file; `-> target` for a link.
pub(crate) type File = (&'static str, &'static str);

/// A directory that goes away with the test.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(parts: &[&[File]]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("parapin-cgroup-{}-{number}", process::id());
        let tree = Self(std::env::temp_dir().join(name));
        fs::create_dir(&tree.0).unwrap();
        for (path, text) in parts.iter().copied().flatten() {
            match text.strip_prefix("-> ") {
                Some(target) => symlink(target, tree.place(path)).unwrap(),
                None => tree.write(path, text),
            }
        }
        tree
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.place(path);
        // A file that is emptied and written anew would be flushed to the disk at once, by ext4 for one.
        let _ = fs::remove_file(&path);
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.0.join(path)).unwrap();
    }

    /// Makes a file that is as long as that, and takes no room.
    pub(crate) fn stretch(&self, path: &str, bytes: u64) {
        let file = fs::File::create(self.place(path)).unwrap();
        file.set_len(bytes).unwrap();
    }

    pub(crate) fn root(&self) -> Root {
        Root::at(&self.0)
    }

    fn place(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
