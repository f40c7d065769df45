// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Script`]: trouble of the model by number of entry and of member.

use std::fmt;

use idxd::{
    Descriptor,
    model::{Behaviour, EntryFate, MemberFate},
};

type Fates<F> = Box<dyn FnMut(usize) -> F + Send>;

/// What becomes of the n-th offer, entry and member.
pub(crate) struct Script {
    full: (usize, Fates<bool>),
    entry: (usize, Fates<EntryFate>),
    member: (usize, Fates<MemberFate>),
}

impl Script {
    pub(crate) fn new(
        full: impl FnMut(usize) -> bool + Send + 'static,
        entry: impl FnMut(usize) -> EntryFate + Send + 'static,
        member: impl FnMut(usize) -> MemberFate + Send + 'static,
    ) -> Self {
        Self {
            full: (0, Box::new(full)),
            entry: (0, Box::new(entry)),
            member: (0, Box::new(member)),
        }
    }

    /// Only entries have trouble.
    pub(crate) fn entries(entry: impl FnMut(usize) -> EntryFate + Send + 'static) -> Self {
        Self::new(|_| false, entry, |_| MemberFate::Done)
    }
}

fn next<F>((count, fates): &mut (usize, Fates<F>)) -> F {
    *count += 1;
    fates(*count - 1)
}

impl Behaviour for Script {
    fn is_full(&mut self) -> bool {
        next(&mut self.full)
    }

    fn entry(&mut self, _: &Descriptor) -> EntryFate {
        next(&mut self.entry)
    }

    fn member(&mut self, _: &Descriptor) -> MemberFate {
        next(&mut self.member)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}
