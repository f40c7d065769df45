// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Behaviour`]: what a device of the model does wrong, and when.

use std::{fmt, time::Duration};

use crate::Descriptor;

/// What becomes of a descriptor in a queue, be it a batch or a lone one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFate {
    /// It is worked on.
    Done,
    /// It is worked on, so much later than its turn.
    Late(Duration),
    /// Nothing is written, ever.
    Silent,
    /// Nothing is done, and this is the status byte.
    Status(u8),
    /// A batch's list cannot be read from that member on; the others are worked on. A lone descriptor is done.
    ListFault(u32),
    /// The device halts: from this one on nothing is written.
    Halt,
}

/// What becomes of a descriptor when it is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberFate {
    /// It is done.
    Done,
    /// The page of that byte of the source is missing. Of a compression, bytes behind the source are those of the destination; of a
    /// decompression all are.
    FaultAt(u32),
    /// This is the status byte, and nothing else is known.
    Status(u8),
    /// An analytics error with that error code (IAA), and nothing is written.
    Analytics(u8),
    /// Its record is not written, though that of its batch is: the page of the record was missing.
    Silent,
}

/// Decides for each descriptor. Called by the model, one device at a time.
pub trait Behaviour: fmt::Debug + Send {
    /// Whether a queue that has room says that it has none: other tenants filled it.
    fn is_full(&mut self) -> bool {
        false
    }

    /// What becomes of what was taken.
    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        EntryFate::Done
    }

    /// What becomes of a lone descriptor, or a member of a batch, that passed the checks.
    fn member(&mut self, _: &Descriptor) -> MemberFate {
        MemberFate::Done
    }
}

/// Does nothing wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Honest;

impl Behaviour for Honest {}
