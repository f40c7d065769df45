// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`AccelPaths`]: queues that a user names.
//!
//! ```text
//!  "dsa:/dev/dsa/wq0.0,iax:/dev/iax/wq1.0" ─► parse ─► [dsa /dev/dsa/wq0.0, iax /dev/iax/wq1.0]
//!                                                            │ resolve: file name, or else device number
//!                                                            ▼
//!                                             /sys/bus/dsa/devices/wq0.0, …/wq1.0 ─► [WorkQueue, WorkQueue]
//! ```
//!
//! A queue that sysfs says nothing against is taken: who names it may know more than sysfs tells.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

use crate::{
    DiscoveryError, Kind, LiveNodes, Nodes, QueueName, Roots, Unusable, WorkQueue,
    discovery::Survey,
    unusable::{closed, refused},
};

/// Longest path of Linux, in bytes.
const LONGEST: usize = 4096;
/// Longest text that is repeated in an error, in characters.
const SHOWN: usize = 80;

/// A queue that a user names: `dsa:/dev/dsa/wq0.0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccelPath {
    kind: Kind,
    path: PathBuf,
}

impl AccelPath {
    /// What it shall be.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl fmt::Display for AccelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.path.display())
    }
}

impl FromStr for AccelPath {
    type Err = AccelPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = || shortened(text);
        let (kind, path) = text
            .split_once(':')
            .ok_or_else(|| AccelPathError::NoKind { entry: entry() })?;
        let kind = match kind {
            "dsa" => Kind::Dsa,
            "iax" | "iaa" => Kind::Iax,
            _ => return Err(AccelPathError::Kind { entry: entry() }),
        };
        // The same characters that udev gives to nodes; so a path can be shown, and stand in a command, as it is.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:@+=%".contains(&byte);
        let is_node = path.starts_with('/') && !path.ends_with('/') && path.len() < LONGEST;
        if !is_node || !path.bytes().all(plain) {
            return Err(AccelPathError::Path { entry: entry() });
        }
        Ok(Self {
            kind,
            path: path.into(),
        })
    }
}

/// Queues that a user names, by commas or white space between them; at least one, each once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccelPaths(Vec<AccelPath>);

impl AccelPaths {
    /// Each of them, in the order in which they were named.
    #[must_use]
    pub fn as_slice(&self) -> &[AccelPath] {
        &self.0
    }

    /// The queues that they are, in the same order, if this process can use all of them.
    ///
    /// # Errors
    ///
    /// For the first one that there is not, or that this process cannot use: which and why.
    pub fn resolve(&self, roots: &Roots) -> Result<Vec<WorkQueue>, ResolveError> {
        self.resolve_with(roots, &LiveNodes)
    }

    /// The same, with somebody else to tell what the nodes are.
    ///
    /// # Errors
    ///
    /// For the first one that there is not, or that this process cannot use: which and why.
    pub fn resolve_with(
        &self,
        roots: &Roots,
        nodes: &dyn Nodes,
    ) -> Result<Vec<WorkQueue>, ResolveError> {
        let survey = Survey::read(roots)?;
        let mut queues: Vec<WorkQueue> = Vec::new();
        for entry in &self.0 {
            let queue = find(entry, &survey.queues, roots, nodes)?;
            if queues.iter().any(|other| other.name == queue.name) {
                return Err(ResolveError::Duplicate {
                    entry: entry.clone(),
                    queue: queue.to_string(),
                });
            }
            let is = queue.kind();
            let judged = if is == entry.kind {
                refused(&queue).and_then(|()| closed(&queue, nodes))
            } else {
                let asked = entry.kind;
                Err(Unusable::WrongKind { is, asked })
            };
            if let Err(why) = judged {
                return Err(ResolveError::Unusable {
                    entry: entry.clone(),
                    remedy: why.remedy(&queue),
                    why,
                });
            }
            queues.push(queue);
        }
        Ok(queues)
    }
}

impl fmt::Display for AccelPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{entry}")?;
        }
        Ok(())
    }
}

impl FromStr for AccelPaths {
    type Err = AccelPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_separator = |character: char| character == ',' || character.is_whitespace();
        let mut entries: Vec<AccelPath> = Vec::new();
        for text in text.split(is_separator).filter(|text| !text.is_empty()) {
            let entry: AccelPath = text.parse()?;
            if entries.iter().any(|other| other.path == entry.path) {
                return Err(AccelPathError::Duplicate {
                    entry: entry.to_string(),
                });
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(AccelPathError::Empty);
        }
        Ok(Self(entries))
    }
}

/// The queue that an entry means: by the file name, or, if that is another one, by the device number.
fn find(
    entry: &AccelPath,
    queues: &[WorkQueue],
    roots: &Roots,
    nodes: &dyn Nodes,
) -> Result<WorkQueue, ResolveError> {
    let file_name = entry.path.file_name().and_then(|name| name.to_str());
    let name: Option<QueueName> = file_name.and_then(|name| name.parse().ok());
    let found = match name {
        Some(name) => queues.iter().find(|queue| queue.name == name),
        None => {
            let node = nodes.node(&roots.resolve(&entry.path));
            let node = node.ok().filter(|node| node.is_device);
            let is = |queue: &&WorkQueue| {
                let number = queue.number();
                number.is_some() && number == node.map(|node| node.number)
            };
            queues.iter().find(is)
        }
    };
    let found = found.ok_or_else(|| ResolveError::NoSuchQueue {
        entry: entry.clone(),
        there: named(queues),
    })?;
    // A wrong kind is to be told with the queue's own node, which is the one to name.
    if found.kind() != entry.kind {
        return Ok(found.clone());
    }
    Ok(found.clone().with_node(&entry.path, roots))
}

/// The queues that there are, the first few of many.
fn named(queues: &[WorkQueue]) -> String {
    const MANY: usize = 4;
    let first: Vec<String> = queues.iter().take(MANY).map(ToString::to_string).collect();
    match queues.len() {
        0 => "none: no device is bound to the idxd driver, or it is not loaded".to_owned(),
        count if count > MANY => format!("{} and {} more", first.join(", "), count - MANY),
        _ => first.join(", "),
    }
}

/// Fit for one line of a terminal.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

/// Text that names no queues.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AccelPathError {
    /// There is nothing in it.
    #[error(
        "no queue is named; name each with its kind, such as dsa:/dev/dsa/wq0.0,iax:/dev/iax/wq1.0"
    )]
    Empty,
    /// No colon.
    #[error(
        "`{entry}` does not tell the kind; write it before a colon, such as dsa:/dev/dsa/wq0.0"
    )]
    NoKind {
        /// What was named.
        entry: String,
    },
    /// Something else before the colon.
    #[error("`{entry}` is of no kind that there is; begin with dsa: or iax: (or iaa:)")]
    Kind {
        /// What was named.
        entry: String,
    },
    /// Something else behind the colon.
    #[error(
        "`{entry}` has no path of a node behind its kind; give an absolute one, such as dsa:/dev/dsa/wq0.0"
    )]
    Path {
        /// What was named.
        entry: String,
    },
    /// The same path twice.
    #[error("`{entry}` names a node for the second time; name each once")]
    Duplicate {
        /// What was named.
        entry: String,
    },
}

/// Queues that a user named cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The devices of this host cannot be listed.
    #[error(transparent)]
    Unlisted(#[from] DiscoveryError),
    /// There is no such queue.
    #[error("{entry}: there is no such queue; there are: {there}")]
    NoSuchQueue {
        /// What was named.
        entry: AccelPath,
        /// What could have been.
        there: String,
    },
    /// Two paths of one queue.
    #[error("{entry}: {queue} was named before by another path; name each queue once")]
    Duplicate {
        /// What was named the second time.
        entry: AccelPath,
        /// The queue.
        queue: String,
    },
    /// It is there, but not for this process.
    #[error("{entry}: {why}; to change that: {remedy}")]
    Unusable {
        /// What was named.
        entry: AccelPath,
        /// Why it cannot be used.
        why: Unusable,
        /// What would make it usable.
        remedy: String,
    },
}
