// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Random`]: every kind of trouble, at random, again the same from the same seed.

use std::time::Duration;

use super::{Behaviour, EntryFate, MemberFate};
use crate::{Descriptor, Opcode};

/// How often each kind happens: one time in so many, 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chances {
    /// The queue is full.
    pub full: u32,
    /// An answer is late.
    pub late: u32,
    /// By how much.
    pub delay: Duration,
    /// No answer.
    pub silent: u32,
    /// A status that nobody knows, for a batch or a lone descriptor.
    pub unknown: u32,
    /// The list of a batch is not read to its end.
    pub list_fault: u32,
    /// A page is missing.
    pub page_fault: u32,
    /// A member fails with any status.
    pub member_status: u32,
    /// A member's record is lost.
    pub member_silent: u32,
}

/// A [`Behaviour`] with every kind of trouble at random; the same seed gives the same trouble.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    chances: Chances,
    analytics: u32,
}

impl Random {
    /// With that seed.
    #[must_use]
    pub fn new(seed: u64, chances: Chances) -> Self {
        Self {
            state: seed | 1,
            chances,
            analytics: 0,
        }
    }

    /// One descriptor in so many fails with an analytics error of any code, 0 for none.
    #[must_use]
    pub fn analytics(mut self, one_in: u32) -> Self {
        self.analytics = one_in;
        self
    }

    /// Xorshift64*, which is as random as a test needs.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn happens(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.next() % u64::from(one_in) == 0
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end.max(1))).unwrap_or(0)
    }

    /// A byte of what a descriptor reads or writes.
    fn byte(&mut self, descriptor: &Descriptor) -> u32 {
        let size = descriptor.xfer_size();
        self.below(match Opcode::of(descriptor.opcode()) {
            Some(Opcode::Compress) => size.saturating_add(descriptor.max_dst_size()),
            Some(Opcode::Decompress) => descriptor.max_dst_size(),
            _ => size,
        })
    }

    /// A status byte that says neither nothing nor success, with bit 7 or without it.
    fn status(&mut self) -> u8 {
        let low = 3 + self.below(0x7d);
        let byte = low | self.below(2) << 7;
        u8::try_from(byte).unwrap_or(0x7e)
    }
}

impl Behaviour for Random {
    fn is_full(&mut self) -> bool {
        self.happens(self.chances.full)
    }

    fn entry(&mut self, descriptor: &Descriptor) -> EntryFate {
        let chances = self.chances;
        if self.happens(chances.silent) {
            EntryFate::Silent
        } else if self.happens(chances.unknown) {
            EntryFate::Status(self.status())
        } else if self.happens(chances.list_fault) {
            EntryFate::ListFault(self.below(descriptor.xfer_size()))
        } else if self.happens(chances.late) {
            EntryFate::Late(chances.delay)
        } else {
            EntryFate::Done
        }
    }

    fn member(&mut self, descriptor: &Descriptor) -> MemberFate {
        let chances = self.chances;
        if self.happens(chances.page_fault) {
            MemberFate::FaultAt(self.byte(descriptor))
        } else if self.happens(chances.member_status) {
            MemberFate::Status(self.status())
        } else if self.happens(self.analytics) {
            MemberFate::Analytics(u8::try_from(self.below(256)).unwrap_or(0))
        } else if self.happens(chances.member_silent) {
            MemberFate::Silent
        } else {
            MemberFate::Done
        }
    }
}
