// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Tenants`]: the others that a shared queue is shared with.

use std::time::Duration;

/// What others take of a device, all the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tenants {
    /// Entries of its queue that they hold.
    pub entries: u32,
    /// The share of its time that they have, below 1: 0.75 makes everything take four times as long.
    pub share: f64,
    /// One submission in so many finds the queue full; 0 for none.
    pub full_one_in: u32,
}

impl Tenants {
    /// Nobody else.
    pub const NONE: Self = Self {
        entries: 0,
        share: 0.0,
        full_one_in: 0,
    };

    /// How long what takes so long alone takes beside them.
    pub(super) fn stretch(&self, time: Duration) -> Duration {
        let left = (1.0 - self.share).clamp(0.001, 1.0);
        Duration::try_from_secs_f64(time.as_secs_f64() / left).unwrap_or(Duration::MAX)
    }
}

/// Tenants at work. What they do is again the same after every start.
#[derive(Debug)]
pub(super) struct Crowd {
    tenants: Tenants,
    state: u64,
}

impl Crowd {
    pub(super) fn new(tenants: Tenants) -> Self {
        Self {
            tenants,
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Whether a queue of `size` entries has no room beside `held` of ours.
    pub(super) fn fills(&mut self, size: u32, held: usize) -> bool {
        let left = size.saturating_sub(self.tenants.entries);
        if held >= left as usize {
            return true;
        }
        let one_in = u64::from(self.tenants.full_one_in);
        if one_in == 0 {
            return false;
        }
        // Xorshift64*.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % one_in == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_ours() {
        let tenants = Tenants {
            entries: 96,
            share: 0.75,
            full_one_in: 0,
        };
        let mut crowd = Crowd::new(tenants);
        assert!(!crowd.fills(128, 31));
        assert!(crowd.fills(128, 32));
        assert!(crowd.fills(90, 0));
        assert_eq!(
            tenants.stretch(Duration::from_micros(1)),
            Duration::from_micros(4)
        );
        assert_eq!(
            Tenants::NONE.stretch(Duration::from_micros(7)),
            Duration::from_micros(7)
        );
        for share in [1.0, 7.0, f64::NAN] {
            let odd = Tenants { share, ..tenants };
            odd.stretch(Duration::MAX);
        }
    }

    #[test]
    fn now_and_then_it_is_full_and_again_the_same() {
        let tenants = Tenants {
            full_one_in: 10,
            ..Tenants::NONE
        };
        let play = || {
            let mut crowd = Crowd::new(tenants);
            (0..10_000).map(|_| crowd.fills(128, 0)).collect::<Vec<_>>()
        };
        let full = play().iter().filter(|full| **full).count();
        assert!((800..1200).contains(&full), "{full}");
        assert_eq!(play(), play());
    }
}
