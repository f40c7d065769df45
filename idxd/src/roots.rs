// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Roots`]: where sysfs and the device nodes are.
//!
//! ```text
//!                     seen as /sys/bus/dsa/devices   seen as /dev/dsa/wq0.0
//!  Roots::live()              /sys/bus/dsa/devices           /dev/dsa/wq0.0
//!  Roots::at("tree")      tree/sys/bus/dsa/devices       tree/dev/dsa/wq0.0
//! ```
//!
//! Messages name files as they are seen, so that their commands can be copied.

use std::path::{Path, PathBuf};

const SYS: &str = "/sys";
const DEV: &str = "/dev";

/// The directories that stand for `/sys` and `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    sys: PathBuf,
    dev: PathBuf,
}

impl Roots {
    /// The machine this runs on.
    #[must_use]
    pub fn live() -> Self {
        Self::new(SYS, DEV)
    }

    /// A tree that has a `sys` and a `dev`: a recorded one, or the root of another mount namespace.
    #[must_use]
    pub fn at(root: impl AsRef<Path>) -> Self {
        let root = root.as_ref();
        Self::new(root.join("sys"), root.join("dev"))
    }

    /// What stands for `/sys`, and what for `/dev`.
    #[must_use]
    pub fn new(sys: impl Into<PathBuf>, dev: impl Into<PathBuf>) -> Self {
        Self {
            sys: sys.into(),
            dev: dev.into(),
        }
    }

    /// Where a path that is seen below `/sys` or `/dev` really is; any other is where it says.
    pub(crate) fn resolve(&self, seen: &Path) -> PathBuf {
        let below = |prefix, root: &Path| Some(root.join(seen.strip_prefix(prefix).ok()?));
        below(SYS, &self.sys)
            .or_else(|| below(DEV, &self.dev))
            .unwrap_or_else(|| seen.to_owned())
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::live()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_placed() {
        let cases = [
            (Roots::live(), "/dev/dsa/wq0.0", "/dev/dsa/wq0.0"),
            (Roots::at("/tree"), "/dev/dsa/wq0.0", "/tree/dev/dsa/wq0.0"),
            (Roots::at("/tree"), "/sys/bus", "/tree/sys/bus"),
            (Roots::at("/tree"), "/device/x", "/device/x"),
            (Roots::new("/a", "/b"), "/dev/x", "/b/x"),
        ];
        for (roots, seen, real) in cases {
            assert_eq!(roots.resolve(Path::new(seen)), Path::new(real));
        }
        assert_eq!(Roots::default(), Roots::at("/"));
    }
}
