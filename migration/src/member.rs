// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Member`]: one of several queues that channels share, and how it has fared.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use idxd::{Kind, Queue};

use crate::health::{Health, Leave};

/// A queue, and how it has fared.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) queue: Arc<Queue>,
    health: Mutex<Health>,
}

impl Member {
    /// Those of `queues` that belong to that kind of device.
    pub(crate) fn of_kind(queues: Vec<Arc<Queue>>, kind: Kind) -> Vec<Self> {
        let members = queues
            .into_iter()
            .filter(|queue| queue.limits().kind == kind)
            .map(|queue| Self {
                queue,
                health: Mutex::default(),
            });
        members.collect()
    }

    /// The indices of those that are near to that node, then those of the others, and how many are near.
    pub(crate) fn nearest_first(members: &[Self], node: Option<u32>) -> (Vec<usize>, usize) {
        let is_near = |member: &usize| {
            let at = members[*member].queue.limits().node;
            node.is_none() || at.is_none() || at == node
        };
        let (mut order, far): (Vec<usize>, Vec<usize>) = (0..members.len()).partition(is_near);
        let near = order.len();
        order.extend(far);
        (order, near)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to submit, if it is well, or may be tried.
    pub(crate) fn leave(&self, patience: Duration) -> Option<Leave> {
        self.health().leave(Instant::now(), patience)
    }

    /// Whether there would be leave to submit, without taking it.
    #[cfg(feature = "codecs")]
    pub(crate) fn would_leave(&self) -> bool {
        self.health().would_leave(Instant::now())
    }

    /// Nothing was submitted.
    pub(crate) fn unused(&self, leave: Leave) {
        self.health().unused(leave);
    }

    /// The device answered.
    pub(crate) fn answered(&self, leave: Leave) {
        self.health().answered(leave, Instant::now());
    }

    /// Whether the device answered somebody after that.
    #[cfg(feature = "codecs")]
    pub(crate) fn has_answered_since(&self, then: Instant) -> bool {
        self.health().has_answered_since(then)
    }

    /// The device did not answer, or answered nothing but errors, or its queue takes nothing.
    pub(crate) fn failed(&self, leave: Leave) {
        self.health().failed(leave, Instant::now());
    }
}
