// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Lists of CPUs and of memory nodes, as files have them: each is believed up to a bound.

use std::path::{Path, PathBuf};

use crate::{cpulist::CpuSet, error::ReadError, root::Root};

/// CPU numbers from 2²⁰ on are not believed; Linux can be built for 8,192.
pub(crate) const CPUS: Listing = Listing {
    noun: "CPU",
    bound: 1 << 20,
};

/// Linux can be built for 1,024 nodes.
pub(crate) const NODES: Listing = Listing {
    noun: "node",
    bound: 1 << 10,
};

/// What a list is of.
#[derive(Debug)]
pub(crate) struct Listing {
    noun: &'static str,
    /// Numbers from here on are not believed.
    bound: usize,
}

/// A set of numbers and the file that it was read from.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) numbers: CpuSet,
    pub(crate) source: PathBuf,
}

impl Listing {
    /// Every number that is believed.
    pub(crate) fn all(&self) -> CpuSet {
        CpuSet::below(self.bound)
    }

    /// The list in a file, which has one number at least.
    pub(crate) fn file(&self, root: &Root, path: &Path) -> Result<Listed, ReadError> {
        let list = root.text(path)?;
        self.some(path.to_owned(), &list)
    }

    /// The list in a file, which may be empty.
    pub(crate) fn file_or_none(&self, root: &Root, path: &Path) -> Result<Listed, ReadError> {
        let list = root.text(path)?;
        self.any(path.to_owned(), &list)
    }

    /// What a list says that has one number at least.
    pub(crate) fn some(&self, source: PathBuf, list: &str) -> Result<Listed, ReadError> {
        let listed = self.any(source, list)?;
        if listed.numbers.is_empty() {
            let why = format!("no {}", self.noun);
            return Err(ReadError::garbled(&listed.source, list, why));
        }
        Ok(listed)
    }

    fn any(&self, source: PathBuf, list: &str) -> Result<Listed, ReadError> {
        let Ok(numbers) = list.parse::<CpuSet>() else {
            let why = format!("no list of {}s", self.noun);
            return Err(ReadError::garbled(&source, list, why));
        };
        if numbers.last().is_some_and(|last| self.bound <= last) {
            let why = format!("more {}s than Linux has", self.noun);
            return Err(ReadError::garbled(&source, list, why));
        }
        Ok(Listed { numbers, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_believed_up_to_the_bound() {
        let cases = [
            (&CPUS, "0-1048575", None),
            (&CPUS, "1048576", Some("more CPUs than Linux has")),
            (&CPUS, "0-x", Some("no list of CPUs")),
            (&CPUS, "\n", Some("no CPU")),
            (&NODES, "0-1023\n", None),
            (&NODES, "1,1024", Some("more nodes than Linux has")),
            (&NODES, "node0", Some("no list of nodes")),
            (&NODES, "", Some("no node")),
        ];
        for (listing, list, why) in cases {
            let error = listing.some("/x".into(), list).err();
            let found = error.as_ref().map(ReadError::why);
            assert_eq!(found, why, "{list:?}");
        }
        assert_eq!(NODES.all().to_string(), "0-1023");
        assert!(CPUS.any("/x".into(), "").unwrap().numbers.is_empty());
    }
}
