// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Hosts: copies of the trees, which a test may change, and nodes that are made up.
//!
//! ```text
//!  tests/trees/two-sockets ─► copy in a temporary directory ─► Roots::at(…)
//!  "dev/dsa/wq0.0" ─► Node { 237:0, may open } ──────────────► Nodes
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use idxd::{AccelPaths, Discovery, Kind, Node, Nodes, ResolveError, Roots, WorkQueue};

/// A host that goes away with its directory.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    nodes: BTreeMap<PathBuf, Result<Node, io::ErrorKind>>,
}

impl Host {
    /// A host with nothing below `/sys` and `/dev`.
    pub(crate) fn bare() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("parapin-idxd-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir(&root).unwrap();
        let nodes = BTreeMap::new();
        Self { root, nodes }
    }

    /// A copy of one of the trees.
    pub(crate) fn new(tree: &str) -> Self {
        let host = Self::bare();
        let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees");
        copy(&trees.join(tree), &host.root);
        host
    }

    /// With the nodes that the queues of DSA have by their numbers, and those of IAA.
    pub(crate) fn with_nodes(mut self, nodes: &[(&str, (u32, u32))]) -> Self {
        for (path, number) in nodes {
            self.set_node(
                path,
                Ok(Node {
                    is_device: true,
                    number: *number,
                    may_open: true,
                }),
            );
        }
        self
    }

    pub(crate) fn set_node(&mut self, path: &str, node: Result<Node, io::ErrorKind>) {
        self.nodes.insert(self.root.join(path), node);
    }

    /// Writes an attribute: `dsa0/state`.
    pub(crate) fn put(&self, attribute: &str, content: &[u8]) {
        let path = self.attribute(attribute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn attribute(&self, attribute: &str) -> PathBuf {
        self.root.join(format!("sys/bus/dsa/devices/{attribute}"))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::at(&self.root)
    }

    pub(crate) fn discover(&self) -> Discovery {
        Discovery::read_with(&self.roots(), self).unwrap()
    }

    pub(crate) fn resolve(&self, paths: &str) -> Result<Vec<WorkQueue>, ResolveError> {
        let paths: AccelPaths = paths.parse().unwrap();
        paths.resolve_with(&self.roots(), self)
    }

    /// Everything that was found, a line for each device and each queue.
    pub(crate) fn lines(&self) -> Vec<String> {
        let discovery = self.discover();
        let mut lines = Vec::new();
        for kind in [Kind::Dsa, Kind::Iax] {
            lines.extend(discovery.devices(kind).map(ToString::to_string));
            lines.extend(discovery.usable(kind).map(|queue| self.line(queue)));
            lines.extend(discovery.left_out(kind).map(ToString::to_string));
        }
        lines
    }

    /// What matters of a queue to who submits to it.
    pub(crate) fn line(&self, queue: &WorkQueue) -> String {
        let path = queue.path.strip_prefix(&self.root).unwrap();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        format!(
            "{queue} {} {} size {} batch {} transfer {} node {}",
            path.display(),
            or_dash(queue.mode.map(|mode| mode.to_string())),
            or_dash(queue.size.map(|size| size.to_string())),
            or_dash(queue.max_batch().map(|batch| batch.to_string())),
            queue.max_transfer(),
            or_dash(queue.numa_node().map(|node| node.to_string())),
        )
    }
}

impl Nodes for Host {
    fn node(&self, path: &Path) -> io::Result<Node> {
        let node = self.nodes.get(path).copied();
        node.unwrap_or(Err(io::ErrorKind::NotFound))
            .map_err(io::Error::from)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
