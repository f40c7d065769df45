// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Hand`]: a device that does nothing until the test tells it to. What has to happen while it is silent needs no clock.

use std::sync::{Arc, Mutex};

use idxd::{Descriptor, Kind, Limits, Mode, Port, PortError, Queue};

use crate::records;

/// A device that is worked by hand.
#[derive(Debug, Clone)]
pub(crate) struct Hand {
    taken: Arc<Mutex<Vec<Descriptor>>>,
    /// Descriptors that there is room for.
    room: usize,
    /// Whether closing it is known to drain it.
    drains: bool,
}

impl Hand {
    /// One that has a queue of `size` entries, with batches of `max_batch`.
    pub(crate) fn queue(mode: Mode, size: u32, max_batch: u32, drains: bool) -> (Self, Arc<Queue>) {
        let hand = Self {
            taken: Arc::default(),
            room: size as usize,
            drains,
        };
        let limits = Limits {
            kind: Kind::Dsa,
            mode,
            size,
            max_batch,
            max_transfer: 1 << 20,
            node: None,
        };
        let queue = Queue::over("by hand", limits, Box::new(hand.clone())).unwrap();
        (hand, queue)
    }

    /// Descriptors that it took and did not answer.
    pub(crate) fn waiting(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// Works on the oldest `count`.
    pub(crate) fn work(&self, count: usize) {
        self.answer(count, |descriptor| {
            // SAFETY: it was submitted, and is answered once.
            unsafe { records::execute(descriptor) };
        });
    }

    /// Leaves it to `answer` what becomes of the oldest `count`.
    pub(crate) fn answer(&self, count: usize, answer: impl FnMut(&Descriptor)) {
        let mut taken = self.taken.lock().unwrap();
        taken[..count].iter().for_each(answer);
        taken.drain(..count);
    }
}

// SAFETY: when it says that it is drained, it has forgotten everything.
unsafe impl Port for Hand {
    unsafe fn submit(&self, descriptors: &[Descriptor]) -> Result<usize, PortError> {
        let mut taken = self.taken.lock().unwrap();
        let count = descriptors.len().min(self.room - taken.len());
        taken.extend(&descriptors[..count]);
        Ok(count)
    }

    fn way(&self) -> String {
        "by hand".to_owned()
    }

    fn close(&mut self) -> bool {
        if self.drains {
            self.taken.lock().unwrap().clear();
        }
        self.drains
    }
}
