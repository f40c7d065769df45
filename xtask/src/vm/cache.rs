// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What takes long to build, outside the tree: below `$XDG_CACHE_HOME/parapin/vm`, by a key of all that went into it.
//!
//! ```text
//!  kernel-KEY/   ◄─┐
//!  headers-KEY/  ◄─┤ renamed when they are complete
//!  build/ ─────────┘ whoever holds `lock` builds here; what is left of an interrupted build goes first
//! ```

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use sha2::{Digest, Sha256};

/// How long to wait for somebody else's build.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The directory that keeps everything.
pub(crate) fn directory() -> Result<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .context("there is no place for a cache: set HOME or XDG_CACHE_HOME to an absolute path")?;
    Ok(base.join("parapin").join("vm"))
}

/// A short name of everything in `parts`.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps apart what is one part from what is two.
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The right to build, and the place for it. Removed on drop.
#[derive(Debug)]
pub(crate) struct Workshop {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Workshop {
    pub(crate) fn open() -> Result<Self> {
        let cache = directory()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = lock(&cache.join("lock"), PATIENCE)?;
        let workshop = Self {
            directory: cache.join("build"),
            _lock: lock,
        };
        workshop.clear()?;
        let made = fs::create_dir(&workshop.directory);
        made.with_context(|| format!("cannot make {}", workshop.directory.display()))?;
        Ok(workshop)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Makes a finished directory of the workshop visible to everybody.
    pub(crate) fn publish(&self, from: &str, to: &Path) -> Result<()> {
        let from = self.directory.join(from);
        fs::rename(&from, to)
            .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
    }

    fn clear(&self) -> Result<()> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)
                .with_context(|| format!("cannot remove {}", self.directory.display()))?;
        }
        Ok(())
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build.
        let _ = self.clear();
    }
}

/// Takes a lock that ends with this process, and says so when it has to wait.
pub(crate) fn lock(path: &Path, patience: Duration) -> Result<Flock<File>> {
    let begin = Instant::now();
    loop {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) => {}
            Err((_, error)) => {
                return Err(anyhow!(error))
                    .with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let waited = begin.elapsed();
        ensure!(
            waited < patience,
            "another `cargo xtask vm` holds {}; wait for it, or set another CARGO_TARGET_DIR",
            path.display()
        );
        if waited < Duration::from_millis(1) {
            eprintln!(
                "vm: waiting for another `cargo xtask vm`, which holds {}",
                path.display()
            );
        }
        thread::sleep(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_part_and_its_borders() {
        let first = key(&["6.12.117-1", "CONFIG_BUG=y\n"]);
        assert_eq!(first.len(), 16);
        assert_eq!(first, key(&["6.12.117-1", "CONFIG_BUG=y\n"]));
        assert_ne!(first, key(&["6.12.117-2", "CONFIG_BUG=y\n"]));
        assert_ne!(first, key(&["6.12.117-1", "CONFIG_BUG=n\n"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
