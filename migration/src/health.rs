// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Health`]: whether a queue is used, rests, or is being tried again; for all channels.
//!
//! ```text
//!          a task fails                       the time is over               its task is answered
//!  well ───────────────────► rests, 10 ms ──────────────────► one channel ──────────────────────────► well
//!   ▲    what else is in      to 5 minutes     the others       tries it      it fails: rests longer
//!   │    flight does not                       wait for it
//!   └── strikes are forgotten slowly, by good tasks: a device that fails now and then rests longer and longer
//! ```

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_millis(10);
/// 10 ms doubled so often are five minutes.
const MOST_STRIKES: u32 = 15;
/// So many good tasks halve the strikes.
const GOOD_TASKS: u32 = 256;
/// How long a try may be under way before another channel may begin one.
const LONGEST_TRY: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Rests so far: what was submitted in front of one does not count for what comes after it.
    episode: u64,
    strikes: u32,
    good: u32,
    rest: Option<Rest>,
    answered: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    /// A channel tries it, and has so long for that.
    tried_until: Option<Instant>,
}

/// A leave to submit, which comes back with what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leave {
    episode: u64,
    /// Whether it is the one that shows if the queue is well again.
    pub(crate) is_probe: bool,
}

impl Health {
    /// Leave to submit; none while the queue rests, or another channel tries it. A probe may take the device `patience`.
    pub(crate) fn leave(&mut self, now: Instant, patience: Duration) -> Option<Leave> {
        let is_probe = self.rest.is_some();
        if let Some(rest) = &mut self.rest {
            let tried = rest.tried_until.is_some_and(|until| now < until);
            if now < rest.until || tried {
                return None;
            }
            rest.tried_until = Some(now + patience.saturating_mul(2).min(LONGEST_TRY));
        }
        Some(Leave {
            episode: self.episode,
            is_probe,
        })
    }

    /// Whether there would be leave, without taking it.
    #[cfg(feature = "codecs")]
    pub(crate) fn would_leave(&self, now: Instant) -> bool {
        let tried = |rest: &Rest| rest.tried_until.is_some_and(|until| now < until);
        self.rest
            .as_ref()
            .is_none_or(|rest| rest.until <= now && !tried(rest))
    }

    /// Nothing was submitted.
    pub(crate) fn unused(&mut self, leave: Leave) {
        if let Some(rest) = self.rest.as_mut().filter(|_| self.episode == leave.episode) {
            rest.tried_until = None;
        }
    }

    /// Whether a device answered somebody after that.
    #[cfg(feature = "codecs")]
    pub(crate) fn has_answered_since(&self, then: Instant) -> bool {
        self.answered.is_some_and(|answered| then < answered)
    }

    /// A device answered.
    pub(crate) fn answered(&mut self, leave: Leave, now: Instant) {
        self.answered = Some(now);
        if leave.episode != self.episode {
            return;
        }
        self.rest = None;
        self.good += 1;
        if self.good >= GOOD_TASKS {
            self.good = 0;
            self.strikes /= 2;
        }
    }

    /// A device did not answer, or answered nothing but errors, or its queue takes nothing.
    pub(crate) fn failed(&mut self, leave: Leave, now: Instant) {
        if leave.episode != self.episode {
            return;
        }
        self.rest = Some(Rest {
            until: now + SHORTEST * (1 << self.strikes.min(MOST_STRIKES)),
            tried_until: None,
        });
        self.episode += 1;
        self.good = 0;
        self.strikes = self.strikes.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_episode_is_one_strike_however_many_tasks_fail_in_it() {
        let mut health = Health::default();
        let now = Instant::now();
        let leaves: Vec<_> = (0..16)
            .map(|_| health.leave(now, PATIENCE).unwrap())
            .collect();
        for leave in leaves {
            health.failed(leave, now);
        }
        assert_eq!(health.leave(now + millis(9), PATIENCE), None);
        assert!(health.leave(now + millis(10), PATIENCE).unwrap().is_probe);
    }

    #[test]
    fn one_channel_tries_it_and_the_others_wait_for_what_comes_of_it() {
        let mut health = Health::default();
        let now = Instant::now();
        let old = health.leave(now, PATIENCE).unwrap();
        let another = health.leave(now, PATIENCE).unwrap();
        health.failed(old, now);
        // What was submitted in front of the rest says nothing of what is now.
        health.answered(another, now);
        let then = now + millis(10);
        let probe = health.leave(then, PATIENCE).unwrap();
        assert_eq!(health.leave(then, PATIENCE), None);
        // It came to nothing: another may.
        health.unused(probe);
        let probe = health.leave(then, PATIENCE).unwrap();
        // It is lost: another may, after some time.
        assert_eq!(health.leave(then + millis(999), PATIENCE), None);
        assert!(health.leave(then + millis(1000), PATIENCE).is_some());
        health.answered(probe, then);
        assert!(!health.leave(then, PATIENCE).unwrap().is_probe);
        // The longest patience there is.
        health.failed(probe, then);
        let later = then + Duration::from_secs(1);
        assert!(health.leave(later, Duration::MAX).is_some());
        assert_eq!(
            health.leave(later + Duration::from_secs(59), PATIENCE),
            None
        );
        assert!(
            health
                .leave(later + Duration::from_secs(60), PATIENCE)
                .is_some()
        );
    }

    #[test]
    fn one_that_fails_now_and_then_rests_ever_longer_and_is_forgiven_slowly() {
        let mut health = Health::default();
        let mut now = Instant::now();
        let mut rests = Vec::new();
        for _ in 0..20 {
            for _ in 0..12 {
                let leave = health.leave(now, PATIENCE).unwrap();
                health.answered(leave, now);
            }
            let leave = health.leave(now, PATIENCE).unwrap();
            health.failed(leave, now);
            let began = now;
            while health.leave(now, PATIENCE).is_none() {
                now += millis(1);
            }
            rests.push(now - began);
            let probe = Leave {
                episode: health.episode,
                is_probe: true,
            };
            health.answered(probe, now);
        }
        assert_eq!(rests[..4], [millis(10), millis(20), millis(40), millis(80)]);
        assert_eq!(rests[15..], [millis(327_680); 5]);
        for _ in 0..GOOD_TASKS * 10 {
            let leave = health.leave(now, PATIENCE).unwrap();
            health.answered(leave, now);
        }
        let leave = health.leave(now, PATIENCE).unwrap();
        health.failed(leave, now);
        assert!(health.leave(now + millis(10), PATIENCE).is_some());
    }
}
