// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The CPU mask of the calling thread, which a kept crew takes over at the start of each job.

use std::{fs, io};

use rustix::{
    io::Errno,
    thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity},
};

/// A thread's CPU mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mask {
    /// On machines of up to 1,024 CPUs.
    Set(Box<CpuSet>),
    /// On larger ones, which `CpuSet` cannot hold: the kernel's own list, good for comparison only.
    List(String),
}

impl Mask {
    /// The mask of the calling thread.
    pub(crate) fn of_caller() -> io::Result<Self> {
        match sched_getaffinity(None) {
            Ok(set) => Ok(Self::Set(Box::new(set))),
            // The kernel has more CPUs than the set has bits (sched_setaffinity(2), ERRORS).
            Err(Errno::INVAL) => fs::read_to_string("/proc/thread-self/status")?
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .map(|list| Self::List(list.trim().to_owned()))
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the calling thread still has this mask; does not allocate. A list, which could not be handed on anyway, is
    /// taken to stay as it is.
    pub(crate) fn is_still_the_callers(&self) -> bool {
        match self {
            Self::Set(set) => sched_getaffinity(None).map_or(true, |present| present == **set),
            Self::List(_) => true,
        }
    }

    /// Puts the thread `tid` of this process under the mask.
    ///
    /// # Errors
    /// The system call's, and `Unsupported` for a list.
    pub(crate) fn apply(&self, tid: Pid) -> io::Result<()> {
        match self {
            Self::Set(set) => Ok(sched_setaffinity(Some(tid), set)?),
            Self::List(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
