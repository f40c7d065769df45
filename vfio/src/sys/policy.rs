// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! set_mempolicy(2), which no crate wraps safely.

use std::io;

use libc::{c_int, c_long, c_ulong};

use crate::{MemoryPolicy, PolicyMode, policy::NODES};

/// From include/uapi/linux/mempolicy.h; `libc` has only the first ones.
const MPOL_PREFERRED_MANY: c_int = 5;
const MPOL_WEIGHTED_INTERLEAVE: c_int = 6;

const BITS: u32 = c_ulong::BITS;

impl MemoryPolicy {
    /// Makes this the policy of the calling thread. Pages that are there stay where they are.
    ///
    /// A system call filter may kill the process for it; see [`pinning::Helper::is_unfiltered`].
    ///
    /// # Errors
    /// `EINVAL` where none of the nodes is allowed by the cpuset, or the kernel does not know the mode; `EPERM` where a
    /// container's filter refuses it.
    pub fn apply_to_thread(&self) -> io::Result<()> {
        if self.nodes().iter().any(|&node| NODES <= node) {
            // What the kernel says of them, without a mask of that size.
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let words = self.nodes().iter().max().map_or(0, |last| last / BITS + 1);
        let mut mask: Vec<c_ulong> = vec![0; words as usize];
        for node in self.nodes() {
            mask[(node / BITS) as usize] |= 1 << (node % BITS);
        }
        // The kernel reads one bit less than it is told.
        let bits = c_ulong::from(words * BITS + u32::from(words > 0));
        let nodes = if mask.is_empty() {
            std::ptr::null()
        } else {
            mask.as_ptr()
        };
        // SAFETY: `nodes` is null with no bits, or points to a vector of as many bits as the kernel looks at, which lives
        // until the call returns. The call changes nothing but where the kernel gets this thread's next pages from.
        let answer: c_long =
            unsafe { libc::syscall(libc::SYS_set_mempolicy, mode(self.mode()), nodes, bits) };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn mode(mode: PolicyMode) -> c_int {
    match mode {
        PolicyMode::Default => libc::MPOL_DEFAULT,
        PolicyMode::Preferred => libc::MPOL_PREFERRED,
        PolicyMode::Bind => libc::MPOL_BIND,
        PolicyMode::Interleave => libc::MPOL_INTERLEAVE,
        PolicyMode::Local => libc::MPOL_LOCAL,
        PolicyMode::PreferredMany => MPOL_PREFERRED_MANY,
        PolicyMode::WeightedInterleave => MPOL_WEIGHTED_INTERLEAVE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_set_and_read_back() {
        let Some(before) = MemoryPolicy::of_thread() else {
            eprintln!("skipped: this kernel has no NUMA");
            return;
        };
        // In a thread of its own, whose end takes the policy away.
        let in_a_thread = || {
            let policy = MemoryPolicy::prefer(0);
            match policy.apply_to_thread() {
                Ok(()) => assert_eq!(MemoryPolicy::of_thread(), Some(policy)),
                // Debian's container profiles refuse it.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            }
            let nowhere = MemoryPolicy::interleave([1023]);
            assert!(nowhere.apply_to_thread().is_err());
            assert!(MemoryPolicy::prefer(u32::MAX).apply_to_thread().is_err());
            MemoryPolicy::default_policy().apply_to_thread().ok();
            assert_eq!(MemoryPolicy::of_thread(), Some(before));
        };
        std::thread::scope(|scope| scope.spawn(in_a_thread).join().unwrap());
    }
}
