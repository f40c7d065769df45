// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`IaaQueues`]: the queues of all channels, and how they are used.

use std::{sync::Arc, time::Duration};

use idxd::{Kind, Queue};

use super::Policy;
use crate::member::Member;

/// How queues of IAAs are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IaaOptions {
    /// What to do with a page for which no queue has room.
    pub policy: Policy,
    /// Pages of a task, which are waited for together. A queue takes them one by one.
    pub task_pages: usize,
    /// Pause in front of a further try, for [`Policy::Delay`].
    pub delay: Duration,
    /// How long a device may take for what was submitted last, and a queue may be full without a page of ours in it.
    pub patience: Duration,
}

impl Default for IaaOptions {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            task_pages: 64,
            delay: Duration::from_micros(5),
            // Page faults and busy neighbours are over by then; a device that is not is halted.
            patience: Duration::from_millis(500),
        }
    }
}

impl IaaOptions {
    /// With that policy.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}

/// The queues of all channels.
#[derive(Debug)]
pub(in crate::codec) struct IaaQueues {
    pub(super) members: Vec<Member>,
    pub(super) options: IaaOptions,
}

impl IaaQueues {
    /// Those of `queues` that are of an IAA; none if there are none.
    pub(in crate::codec) fn new(queues: Vec<Arc<Queue>>, options: IaaOptions) -> Option<Self> {
        let members = Member::of_kind(queues, Kind::Iax);
        (!members.is_empty()).then_some(Self { members, options })
    }

    /// Whether all devices make codes by themselves.
    pub(in crate::codec) fn generate_headers(&self) -> bool {
        let mut queues = self.members.iter().map(|member| &member.queue);
        queues.all(|queue| queue.generates_headers())
    }
}
