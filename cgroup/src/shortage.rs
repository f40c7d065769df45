// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A limit that refuses a demand, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::bytes::Bytes;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShortageKind {
    /// Memory that may be locked.
    Memlock,
    /// Memory of a control group.
    Memcg,
    /// Huge pages in a pool.
    Hugetlb,
    /// Memory of the machine.
    OutOfMemory,
}

/// A limit that is too low for a demand. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{} needed, {} allowed by {limit} ({}), {} used",
    Bytes(*needed),
    Bytes(*value),
    r#source.display(),
    Bytes(*used)
)]
pub struct Shortage {
    /// What there is too little of.
    pub kind: ShortageKind,
    /// Name of the limit, such as `RLIMIT_MEMLOCK` or `memory.max`.
    pub limit: &'static str,
    /// The limit.
    pub value: u64,
    /// What of it is used already.
    pub used: u64,
    /// What the job needs on top.
    pub needed: u64,
    /// The file that holds the limit, as seen below the [`Root`](crate::Root).
    pub r#source: PathBuf,
    /// What a person can do about it, as commands and settings.
    pub remedy: String,
}

/// Whether something more fits; nothing always does, even if a limit was lowered below its use.
pub(crate) fn fits(used: u64, more: u64, limit: u64) -> bool {
    more == 0 || used.checked_add(more).is_some_and(|sum| sum <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fitting() {
        assert!(fits(0, 5, 5));
        assert!(!fits(1, 5, 5));
        assert!(fits(9, 0, 5));
        assert!(!fits(u64::MAX, 1, u64::MAX));
        assert!(fits(u64::MAX, 0, 0));
    }

    #[test]
    fn says_what_limits() {
        let shortage = Shortage {
            kind: ShortageKind::Memlock,
            limit: "RLIMIT_MEMLOCK",
            value: 8 << 20,
            used: 0,
            needed: 64 << 20,
            source: "/proc/self/limits".into(),
            remedy: String::new(),
        };
        assert_eq!(
            shortage.to_string(),
            "64 MiB needed, 8 MiB allowed by RLIMIT_MEMLOCK (/proc/self/limits), 0 used"
        );
    }
}
