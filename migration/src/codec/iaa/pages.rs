// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pages`]: which pages of a call are still to be done, and how often devices had them.
//!
//! ```text
//!  devices take here ──► todo ◄── the CPU takes here
//!                         ▲ │
//!       after a fault ────┘ └──► aside: refused, for the end
//! ```

use std::{collections::VecDeque, mem};

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Pages {
    todo: VecDeque<u32>,
    aside: Vec<u32>,
    /// Page faults of each page.
    faults: Vec<u8>,
    /// Whether those that were put aside are being offered again.
    second_pass: bool,
}

impl Pages {
    /// All pages that are named, of `count`.
    pub(super) fn begin(&mut self, count: usize, named: impl Iterator<Item = u32>) {
        self.clear();
        self.faults.clear();
        self.faults.resize(count, 0);
        self.todo.extend(named);
    }

    pub(super) fn clear(&mut self) {
        self.todo.clear();
        self.aside.clear();
        self.second_pass = false;
    }

    pub(super) fn left(&self) -> usize {
        self.todo.len()
    }

    /// For devices.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.todo.pop_front()
    }

    /// For the CPU.
    pub(super) fn take_last(&mut self) -> Option<u32> {
        self.todo.pop_back()
    }

    /// Gives pages back that devices did not take, in their order.
    pub(super) fn give_back(&mut self, pages: impl DoubleEndedIterator<Item = u32>) {
        for page in pages.rev() {
            self.todo.push_front(page);
        }
    }

    /// A device met a page fault. Returns whether it may try again, which it may once.
    pub(super) fn again(&mut self, page: u32) -> bool {
        let Some(faults) = self.faults.get_mut(page as usize) else {
            return false;
        };
        let first = mem::replace(faults, 1) == 0;
        if first {
            self.todo.push_front(page);
        }
        first
    }

    /// Keeps a page for the end.
    pub(super) fn put_aside(&mut self, page: u32) {
        self.aside.push(page);
    }

    /// What was put aside, once.
    pub(super) fn take_aside(&mut self) -> Option<u32> {
        self.aside.pop()
    }

    pub(super) fn is_second_pass(&self) -> bool {
        self.second_pass
    }

    /// Offers again what was put aside. Returns false if that is nothing.
    pub(super) fn begin_second_pass(&mut self) -> bool {
        let any = !self.aside.is_empty();
        if any {
            self.second_pass = true;
            self.todo.extend(self.aside.drain(..).rev());
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_lost_and_a_fault_is_forgiven_once() {
        let mut pages = Pages::default();
        pages.begin(6, [0, 2, 4, 5].into_iter());
        assert_eq!((pages.take(), pages.take_last()), (Some(0), Some(5)));
        assert!(pages.again(0));
        assert_eq!(pages.take(), Some(0));
        assert!(!pages.again(0));
        let refused: Vec<u32> = std::iter::from_fn(|| pages.take()).collect();
        assert_eq!(refused, [2, 4]);
        pages.give_back(refused.into_iter());
        let last = pages.take_last().unwrap();
        pages.put_aside(last);
        assert_eq!((pages.take(), pages.take()), (Some(2), None));
        assert!(pages.begin_second_pass());
        assert_eq!((pages.take(), pages.is_second_pass()), (Some(4), true));
        assert!(!pages.begin_second_pass());
        pages.begin(1, [0].into_iter());
        assert!(pages.again(0) && !pages.is_second_pass());
    }
}
