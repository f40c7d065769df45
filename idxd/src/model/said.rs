// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Said`]: what a device is about to write into a completion record of either kind.

use crate::{Completion, IaxCompletion, Status};

/// A status byte, with bit 7 where it has one, and what stands beside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) status: u8,
    pub(super) result: u8,
    pub(super) completed: u32,
    pub(super) fault_addr: u64,
    pub(super) output_size: u32,
    pub(super) crc: u32,
}

impl Said {
    /// Nothing to tell but the status byte.
    pub(super) const fn byte(status: u8) -> Self {
        Self {
            status,
            result: 0,
            completed: 0,
            fault_addr: 0,
            output_size: 0,
            crc: 0,
        }
    }

    /// Nothing to tell but the status.
    pub(super) const fn only(status: Status) -> Self {
        Self::byte(status.code())
    }

    /// What both kinds have in common.
    pub(super) fn common(&self) -> Completion {
        Completion {
            status: Status::of_byte(self.status),
            result: self.result,
            completed: self.completed,
            fault_addr: self.fault_addr,
        }
    }

    /// As an IAA says it.
    pub(super) fn iax(&self) -> IaxCompletion {
        IaxCompletion {
            common: self.common(),
            output_size: self.output_size,
            crc: self.crc,
        }
    }
}
