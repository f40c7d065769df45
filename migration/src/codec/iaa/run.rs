// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Run`]: one call's pages on their way through devices and the CPU.

use std::{
    hint,
    ops::Range,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use idxd::Flight;

use super::{
    IaaChannel, Operation, Policy, Verdict,
    channel::{Done, Sending},
};
use crate::health::Leave;

/// Further tries at a full queue.
const TRIES: u32 = 3;
/// While a queue is full of what others submitted.
const NAP: Duration = Duration::from_micros(20);
/// How long one late task is waited for before others are looked at.
const TURN: Duration = Duration::from_micros(200);
/// A page may take devices so much longer than the CPU, by [`Policy::Adaptive`]: who waits leaves the CPU to other channels.
const PATIENT: f64 = 1.5;
/// Pages of a task that shows whether a queue is well again.
const PROBE: usize = 16;

/// What became of an offer of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// Some were taken.
    Taken,
    /// Every queue is full.
    Full,
    /// The CPU will be sooner, or there is no queue to be had.
    Cpu,
}

/// See the [module](self).
pub(super) struct Run<'c, 'o, O> {
    channel: &'c mut IaaChannel,
    operation: &'o mut O,
    pub(super) done: Done,
    tries: u32,
    /// Since when queues are full without a page of ours in them.
    full_since: Option<Instant>,
    /// Queues by when they would be done. Kept for its allocation.
    ranked: Vec<(Instant, usize)>,
    /// Pages of a task that are for the CPU. Kept for its allocation.
    failed: Vec<u32>,
    /// Whether pages went from one queue to another since something was done.
    shared_out: bool,
}

impl<'c, 'o, O: Operation> Run<'c, 'o, O> {
    pub(super) fn new(channel: &'c mut IaaChannel, operation: &'o mut O) -> Self {
        Self {
            channel,
            operation,
            done: Done::default(),
            tries: 0,
            full_since: None,
            ranked: Vec::new(),
            failed: Vec::new(),
            shared_out: false,
        }
    }

    /// Until every page is done.
    pub(super) fn work(&mut self) -> Result<(), O::Error> {
        loop {
            self.collect()?;
            if self.unsent() > 0 {
                match self.offer()? {
                    Offer::Taken => {
                        self.tries = 0;
                        self.full_since = None;
                    }
                    Offer::Full => self.full()?,
                    Offer::Cpu => self.last_by_cpu()?,
                }
            } else if !self.next_pass()? {
                if self.channel.in_flight.is_empty() {
                    return Ok(());
                }
                self.wait_for_last();
            }
        }
    }

    /// Pages that no device has taken, and that were not put aside.
    fn unsent(&self) -> usize {
        let open = self.channel.open.iter().flatten();
        self.channel.pages.left() + open.map(Sending::unsent).sum::<usize>()
    }

    /// Lands what is done or out of time, without waiting.
    fn collect(&mut self) -> Result<(), O::Error> {
        let now = Instant::now();
        for member in 0..self.channel.open.len() {
            let Some(sending) = &mut self.channel.open[member] else {
                continue;
            };
            // Over, and not because it was done.
            if sending.flight.wait_until(now) && !sending.flight.is_done() {
                self.give_up(member);
            }
        }
        let mut index = 0;
        while index < self.channel.in_flight.len() {
            if self.channel.in_flight[index].flight.wait_until(now) {
                let sending = self.channel.in_flight.swap_remove(index);
                self.land(sending)?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// Offers pages to the near queue that would be done first, then to the others; to far ones only if no near one is well.
    fn offer(&mut self) -> Result<Offer, O::Error> {
        let near = self.channel.near;
        for group in [0..near, near..self.channel.order.len()] {
            if self.share_out(group.clone())? == Some(Offer::Taken) {
                return Ok(Offer::Taken);
            }
            self.rank(group);
            let mut answer = None;
            for rank in 0..self.ranked.len() {
                match self.offer_to(self.ranked[rank].1)? {
                    Some(Offer::Taken) => return Ok(Offer::Taken),
                    Some(Offer::Full) => answer = Some(Offer::Full),
                    Some(Offer::Cpu) => answer = answer.or(Some(Offer::Cpu)),
                    None => {}
                }
            }
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Ok(Offer::Cpu)
    }

    fn rank(&mut self, group: Range<usize>) {
        let channel = &self.channel;
        let members = channel.order.get(group).unwrap_or(&[]);
        self.ranked.clear();
        let now = Instant::now();
        let bytes = self.operation.bytes();
        self.ranked.extend(members.iter().map(|member| {
            let would_end = match members.len() {
                1 => now,
                _ => channel.queues.members[*member].queue.would_end(now, bytes),
            };
            (would_end, *member)
        }));
        self.ranked.sort_unstable();
    }

    /// Where nothing is left to hand out and a queue is idle, the pages that wait for another one are offered to it; once until
    /// something is done, lest two full queues should have them in turns.
    fn share_out(&mut self, group: Range<usize>) -> Result<Option<Offer>, O::Error> {
        let channel = &mut self.channel;
        let members = channel.order.get(group).unwrap_or(&[]);
        let idle = members.iter().copied().find(|member| {
            channel.open[*member].is_none() && channel.queues.members[*member].would_leave()
        });
        let full = (0..channel.open.len()).max_by_key(|member| {
            let open = channel.open[*member].as_ref();
            open.map_or(0, Sending::unsent)
        });
        let (Some(idle), Some(full), 0, false) =
            (idle, full, channel.pages.left(), self.shared_out)
        else {
            return Ok(None);
        };
        self.shared_out = true;
        let Some(sending) = &mut channel.open[full] else {
            return Ok(None);
        };
        let unsent = sending.flight.withdraw(usize::MAX);
        let kept = sending.pages.len() - unsent;
        channel.pages.give_back(sending.pages.drain(kept..));
        self.settle(full);
        self.offer_to(idle)
    }

    /// What a queue says to an offer; none if it is not to be had.
    fn offer_to(&mut self, member: usize) -> Result<Option<Offer>, O::Error> {
        if self.channel.open[member].is_none() {
            let options = self.channel.queues.options;
            let Some(leave) = self.channel.queues.members[member].leave(options.patience) else {
                return Ok(None);
            };
            self.channel.open[member] = self.fill(member, leave);
        }
        let Some(sending) = &mut self.channel.open[member] else {
            return Ok(Some(Offer::Cpu));
        };
        let before = sending.flight.sent();
        let answer = sending.flight.submit();
        let any = sending.flight.sent() > before;
        Ok(match answer {
            Ok(true) => {
                self.settle(member);
                Some(Offer::Taken)
            }
            Ok(false) if any => Some(Offer::Taken),
            Ok(false) => {
                self.done.trouble.full += 1;
                Some(Offer::Full)
            }
            Err(_) => {
                self.done.trouble.refused += 1;
                self.give_up(member);
                None
            }
        })
    }

    /// A flight with pages for a queue; none if they are better left to the CPU.
    fn fill(&mut self, member: usize, leave: Leave) -> Option<Sending> {
        let share = self.share(member, leave);
        let channel = &mut self.channel;
        let filled = (share > 0).then(|| channel.spare_task()).flatten();
        let Some(mut task) = filled else {
            channel.queues.members[member].unused(leave);
            return None;
        };
        let mut list = channel.spare_list();
        while list.len() < share {
            let Some(page) = channel.pages.take() else {
                break;
            };
            if self.operation.push(&mut task, page).is_err() {
                channel.pages.give_back([page].into_iter());
                break;
            }
            list.push(page);
        }
        let queue = &channel.queues.members[member].queue;
        match Flight::new(queue, task, channel.queues.options.patience) {
            Ok(flight) if !list.is_empty() => Some(Sending {
                flight,
                pages: list,
                member,
                leave,
            }),
            _ => {
                channel.queues.members[member].unused(leave);
                channel.pages.give_back(list.drain(..));
                channel.put_away_list(list);
                None
            }
        }
    }

    /// Pages for a task of that queue.
    fn share(&self, member: usize, leave: Leave) -> usize {
        let options = &self.channel.queues.options;
        let most = if leave.is_probe {
            options.task_pages.min(PROBE)
        } else {
            options.task_pages
        };
        let most = most.max(1).min(self.channel.pages.left());
        match options.policy {
            Policy::Adaptive => most.min(self.balance(member)),
            _ => most,
        }
    }

    /// How many of the pages that are left the device would be done with before the CPU is done with the others.
    fn balance(&self, member: usize) -> usize {
        let queue = &self.channel.queues.members[member].queue;
        let (now, bytes) = (Instant::now(), self.operation.bytes());
        let idle = queue.would_end(now, 0);
        let backlog = (idle - now).as_secs_f64();
        let page = (queue.would_end(now, bytes) - idle).as_secs_f64();
        let cpu = self.channel.software.time().as_secs_f64() * PATIENT;
        let left = self.unsent();
        if backlog + page * left as f64 <= cpu {
            // The CPU would hardly have begun.
            return left;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of pages, below `left`, or 0"
        )]
        let share = ((cpu * left as f64 - backlog) / (page + cpu)) as usize;
        share
    }

    /// Whether devices would be done with all that is left before the CPU is done with one page.
    fn devices_are_sooner(&self) -> bool {
        let channel = &self.channel;
        // One that has nothing of ours is full of what others submitted, and nothing is known of it.
        let is_ours = |sending: &&Sending| {
            let mut others = channel.in_flight.iter();
            sending.flight.sent() > 0 || others.any(|other| other.member == sending.member)
        };
        let open = channel.open.iter().flatten().filter(is_ours);
        let share = self.unsent().div_ceil(open.clone().count().max(1)) as u64;
        let bytes = share.saturating_mul(self.operation.bytes());
        let now = Instant::now();
        let until = now + channel.software.time().mul_f64(PATIENT);
        open.map(|sending| &channel.queues.members[sending.member].queue)
            .any(|queue| queue.would_end(now, bytes) <= until)
    }

    /// Every queue is full.
    fn full(&mut self) -> Result<(), O::Error> {
        let policy = self.channel.queues.options.policy;
        let again = match policy {
            Policy::Wait => return self.wait_for_room(),
            // Others come and go: what is full now may not be in a moment.
            _ if self.tries < TRIES => true,
            // What others fill is not known to get empty soon.
            Policy::Adaptive if self.is_waited_for() && self.devices_are_sooner() => {
                return self.wait_for_room();
            }
            _ => false,
        };
        if again {
            self.tries += 1;
            if policy == Policy::Delay {
                thread::sleep(self.channel.queues.options.delay);
            } else {
                hint::spin_loop();
            }
            return Ok(());
        }
        self.tries = 0;
        let later = match policy {
            Policy::SoftwareLater => true,
            Policy::HardwareLater => !self.channel.pages.is_second_pass(),
            _ => false,
        };
        if !later {
            return self.last_by_cpu();
        }
        if let Some(page) = self.take_last() {
            self.channel.pages.put_aside(page);
        }
        Ok(())
    }

    /// Goes on with what was put aside. Returns whether there is anything to go on with.
    fn next_pass(&mut self) -> Result<bool, O::Error> {
        if self.channel.queues.options.policy == Policy::HardwareLater {
            return Ok(self.channel.pages.begin_second_pass());
        }
        match self.channel.pages.take_aside() {
            Some(page) => self.by_cpu(page).map(|()| true),
            None => Ok(false),
        }
    }

    /// The last page that no device has taken.
    fn take_last(&mut self) -> Option<u32> {
        if let Some(page) = self.channel.pages.take_last() {
            return Some(page);
        }
        let open = &mut self.channel.open;
        let member = (0..open.len()).max_by_key(|member| {
            let sending = open[*member].as_ref();
            sending.map_or(0, Sending::unsent)
        })?;
        let sending = open[member].as_mut()?;
        let page = match sending.flight.withdraw(1) {
            0 => None,
            _ => sending.pages.pop(),
        };
        if sending.unsent() == 0 {
            self.settle(member);
        }
        page
    }

    fn last_by_cpu(&mut self) -> Result<(), O::Error> {
        match self.take_last() {
            Some(page) => self.by_cpu(page),
            None => Ok(()),
        }
    }

    fn by_cpu(&mut self, page: u32) -> Result<(), O::Error> {
        let begun = Instant::now();
        self.operation.by_cpu(page)?;
        self.channel.software.learn(begun.elapsed());
        self.done.by_cpu += 1;
        Ok(())
    }

    /// A task has nothing more to submit.
    fn settle(&mut self, member: usize) {
        let Some(sending) = self.channel.open[member].take() else {
            return;
        };
        if sending.flight.sent() > 0 {
            self.channel.in_flight.push(sending);
            return;
        }
        self.channel.queues.members[member].unused(sending.leave);
        self.channel.put_away_list(sending.pages);
        if let Ok(task) = sending.flight.wait() {
            self.channel.put_away(task, false);
        }
    }

    /// The queue takes nothing.
    fn give_up(&mut self, member: usize) {
        if let Some(sending) = &mut self.channel.open[member] {
            self.channel.queues.members[member].failed(sending.leave);
            let unsent = sending.flight.withdraw(usize::MAX);
            let kept = sending.pages.len() - unsent;
            let unsent = sending.pages.drain(kept..);
            self.channel.pages.give_back(unsent);
            self.settle(member);
        }
    }

    /// Whether a device has something of ours to do.
    fn is_waited_for(&mut self) -> bool {
        let open = self.channel.open.iter_mut().flatten();
        open.chain(&mut self.channel.in_flight)
            .any(|sending| !sending.flight.is_done())
    }

    /// Waits until queues should have room: for most of the tasks on their way, since waking up costs as much as many pages, but not
    /// for much longer than for the first of them, lest a fast device should wait for a slow one.
    fn wait_for_room(&mut self) -> Result<(), O::Error> {
        let now = Instant::now();
        let open = self.channel.open.iter_mut().flatten();
        let flights = open.chain(&mut self.channel.in_flight);
        self.ranked.clear();
        for (index, sending) in flights.enumerate() {
            if !sending.flight.is_done() {
                self.ranked.push((sending.flight.expected(), index));
            }
        }
        self.ranked.sort_unstable();
        let Some(&(first, _)) = self.ranked.first() else {
            return self.wait_for_others(now);
        };
        self.full_since = None;
        let ahead = first.saturating_duration_since(now);
        let longest = now + ahead * 3 + NAP;
        let most = (self.ranked.len() * 3).div_ceil(4).max(1);
        let chosen = self.ranked[..most].iter().rev();
        let chosen = chosen.copied().find(|(end, _)| *end <= longest);
        let (end, index) = chosen.unwrap_or(self.ranked[0]);
        // Of a single one a half is enough, lest the device should wait for us.
        let until = match self.ranked.len() {
            1 if NAP < ahead => now + ahead / 2,
            _ => end.max(now) + TURN,
        };
        let open = self.channel.open.iter_mut().flatten();
        let mut flights = open.chain(&mut self.channel.in_flight);
        if let Some(sending) = flights.nth(index) {
            sending.flight.wait_until(until);
        }
        Ok(())
    }

    /// Nothing of ours is in a queue, and all are full.
    fn wait_for_others(&mut self, now: Instant) -> Result<(), O::Error> {
        let since = *self.full_since.get_or_insert(now);
        if now.duration_since(since) < self.channel.queues.options.patience {
            thread::sleep(NAP);
            // Who has the pages may have them for long: others are asked again.
            self.shared_out = false;
            return Ok(());
        }
        self.full_since = None;
        for member in 0..self.channel.open.len() {
            // Where others get answers they were quicker than we.
            if !self.channel.queues.members[member].has_answered_since(since) {
                self.give_up(member);
            }
        }
        self.last_by_cpu()
    }

    /// Waits until everything should be done. There is something.
    fn wait_for_last(&mut self) {
        let in_flight = &mut self.channel.in_flight;
        if let Some(last) = in_flight
            .iter_mut()
            .max_by_key(|sending| sending.flight.expected())
        {
            let until = last.flight.expected().max(Instant::now()) + TURN;
            last.flight.wait_until(until);
        }
    }

    /// Takes what came of a task that is done or out of time. What is known of the queue is told before the CPU does anything.
    fn land(&mut self, sending: Sending) -> Result<(), O::Error> {
        let Sending {
            flight,
            pages,
            member,
            leave,
        } = sending;
        self.shared_out = false;
        let number = self.channel.next_number();
        let queues = Arc::clone(&self.channel.queues);
        let member = &queues.members[member];
        let Ok(mut task) = flight.wait() else {
            self.done.trouble.timeouts += 1;
            member.failed(leave);
            self.operation.timed_out(&member.queue)?;
            return pages.iter().try_for_each(|page| self.by_cpu(*page));
        };
        let mut is_well = false;
        self.failed.clear();
        for (index, page) in pages.iter().enumerate().take(task.sent()) {
            let verdict = self.operation.landed(&task, number, index, *page);
            is_well |= verdict != Verdict::Failed;
            if let Verdict::Fault(address) = verdict {
                task.touch(address);
            }
            if self.is_for_cpu(*page, verdict) {
                self.failed.push(*page);
            }
        }
        if is_well {
            member.answered(leave);
        } else {
            member.failed(leave);
        }
        self.channel.put_away(task, O::KEEPS_TASKS);
        self.channel.put_away_list(pages);
        while let Some(page) = self.failed.pop() {
            self.by_cpu(page)?;
        }
        Ok(())
    }

    /// Whether the CPU has to do a page that a device had.
    fn is_for_cpu(&mut self, page: u32, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Done => {
                self.done.by_device += 1;
                return false;
            }
            Verdict::Fault(address) => {
                self.done.trouble.faults += 1;
                if self.channel.pages.again(page) {
                    self.operation.touch(page, address);
                    self.done.again += 1;
                    return false;
                }
            }
            Verdict::Failed => self.done.trouble.failed += 1,
            Verdict::Cannot => {}
        }
        true
    }
}
