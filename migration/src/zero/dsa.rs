// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Zero pages found by DSA, and by the CPU wherever that has trouble.
//!
//! ```text
//!  pages ─► the near queue that will be done first ─► task of COMPVALs ─► engine ─► completions ─┬─ equal, differs ──► bit
//!                   ▲    │ full for long, or no queue is well                                    ├─ page fault: the CPU goes on
//!                   │    └───────────────────────────────► the CPU looks at the page ◄───────────┴─ anything else
//!                   └── up to `depth` tasks of a channel are in flight in each queue; what is ready first is read first
//! ```
//!
//! A completion is believed if it says success and equal or different. Whatever else a device says or does not say, the CPU
//! looks for itself, so that trouble costs time and never the right answer. A page fault is believed as far as it goes: what is in
//! front of it is equal, or else the comparison would have ended there.
//!
//! A queue that does not answer, answers nothing but errors or is always full rests, longer each time; afterwards one channel tries it
//! with a small task.

mod answer;
mod queues;
mod sampling;

use std::{
    hint,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use answer::{Asked, Done};
use idxd::{Flight, Kind, Task, Ticket};
pub use queues::DsaOptions;
pub(super) use queues::Queues;
use queues::Shape;
use sampling::Sampling;

use crate::{PageBitmap, health::Leave, member::Member};

/// How long a full queue is tried again, at most: a try may be a system call in which the kernel has tried already.
const TRYING: Duration = Duration::from_micros(20);

/// A task in flight, and which pages it is about.
#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    pages: Vec<usize>,
    way: Way,
}

/// Which queue a task goes to, by what leave, and cut how.
#[derive(Debug, Clone, Copy)]
struct Way {
    member: usize,
    leave: Leave,
    shape: Shape,
}

/// One channel's share: its tasks, and whose turn it is.
#[derive(Debug)]
pub(super) struct DsaChannel {
    queues: Arc<Queues>,
    /// The queues that it uses, nearest first, and how many of them are near.
    order: Vec<usize>,
    near: usize,
    turn: usize,
    in_flight: Vec<InFlight>,
    spare_tasks: Vec<Task>,
    spare_lists: Vec<Vec<usize>>,
    sampling: Sampling,
}

impl DsaChannel {
    /// Channel number `index`, whose thread runs on `node`.
    pub(super) fn new(
        queues: Arc<Queues>,
        index: usize,
        node: Option<u32>,
        sampling: bool,
    ) -> Self {
        let (order, near) = Member::nearest_first(&queues.members, node);
        Self {
            queues,
            order,
            near,
            turn: index,
            in_flight: Vec::new(),
            spare_tasks: Vec::new(),
            spare_lists: Vec::new(),
            sampling: Sampling {
                allowed: sampling,
                zero: 0.5,
            },
        }
    }

    /// Sets the bits of those pages that are zero and whose bits are not set yet.
    pub(super) fn scan(&mut self, asked: &Asked<'_>, zero: &mut PageBitmap) -> Done {
        // Of a call that was unwound: these are about other pages.
        self.in_flight.clear();
        let mut done = Done::default();
        let known = zero.count();
        let sampling = self.sampling.pays();
        let mut next = 0;
        while next < asked.offsets.len() {
            let way = self.pick(asked, zero, &mut done);
            let pages = way.map_or(asked.batch, |way| way.shape.pages);
            let mut list = self.spare_lists.pop().unwrap_or_default();
            list.clear();
            while next < asked.offsets.len() && list.len() < pages {
                if zero.get(next) {
                    // Untouched.
                } else if sampling && asked.sampler.shows_data(next) {
                    done.sampled += 1;
                } else {
                    list.push(next);
                }
                next += 1;
            }
            match way {
                Some(way) if !list.is_empty() => {
                    self.launch(asked, way, list, zero, &mut done);
                }
                Some(way) => {
                    self.queues.members[way.member].unused(way.leave);
                    self.spare_lists.push(list);
                }
                None => self.look(asked, list, zero, &mut done),
            }
        }
        while !self.in_flight.is_empty() {
            self.land_first(asked, zero, &mut done);
        }
        self.sampling
            .learn(zero.count() - known, asked.offsets.len() - known);
        done
    }

    /// Whether the next scan samples.
    pub(super) fn is_sampling(&self) -> bool {
        self.sampling.pays()
    }

    /// The queue for the next task: of the near ones that are well, or else of the others, the one that will be done first.
    /// Where the channel has enough in flight there, it lands something. None if there is no queue to be had.
    fn pick(&mut self, asked: &Asked<'_>, zero: &mut PageBitmap, done: &mut Done) -> Option<Way> {
        self.turn = self.turn.wrapping_add(1);
        loop {
            let (near, far) = self.order.split_at(self.near);
            let mut all_busy = false;
            for order in [near, far] {
                match self.best_of(order, asked) {
                    Best::Take(way) => return Some(way),
                    Best::Busy => {
                        all_busy = true;
                        break;
                    }
                    Best::None => {}
                }
            }
            if !all_busy {
                return None;
            }
            self.land_first(asked, zero, done);
        }
    }

    fn best_of(&self, order: &[usize], asked: &Asked<'_>) -> Best {
        /// What is known of queues is not more exact than that, and one that is not used is never known better.
        const DOUBT: u32 = 8;
        let mut free: Option<(Duration, Way)> = None;
        let mut busy: Option<Duration> = None;
        let now = Instant::now();
        for step in 0..order.len() {
            let member = order[self.turn.wrapping_add(step) % order.len()];
            let Some(shape) = self.queues.shape(member, asked.size, asked.batch) else {
                continue;
            };
            let Some(leave) = self.queues.leave(member) else {
                continue;
            };
            let mut way = Way {
                member,
                leave,
                shape,
            };
            if leave.is_probe {
                way.shape = shape.of_probe();
                return Best::Take(way);
            }
            let bytes = shape.pages as u64 * asked.size;
            let queue = &self.queues.members[member].queue;
            let time = queue.would_end(now, bytes).saturating_duration_since(now);
            if self.flights_in(member) >= self.queues.options.depth.max(1) {
                busy = Some(busy.map_or(time, |sooner| sooner.min(time)));
            } else if free.is_none_or(|(sooner, _)| time < sooner) {
                free = Some((time, way));
            }
        }
        match (free, busy) {
            // To wait for one that has enough of this channel's is much sooner than what this one takes.
            (Some((time, _)), Some(busy)) if busy.saturating_mul(DOUBT) < time => Best::Busy,
            (Some((_, way)), _) => Best::Take(way),
            (None, Some(_)) => Best::Busy,
            (None, None) => Best::None,
        }
    }

    fn flights_in(&self, member: usize) -> usize {
        let of_it = |flight: &&InFlight| flight.way.member == member;
        self.in_flight.iter().filter(of_it).count()
    }

    /// Sends a list of pages to a device, or has the CPU look at them.
    fn launch(
        &mut self,
        asked: &Asked<'_>,
        way: Way,
        list: Vec<usize>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        if let Some(mut flight) = self.prepare(&way, asked, &list) {
            self.submit(&mut flight, &way, asked, zero, done);
            if flight.sent() > 0 {
                self.in_flight.push(InFlight {
                    ticket: self.queues.engine.hand_over(flight),
                    pages: list,
                    way,
                });
                return;
            }
            // Nothing was taken: the task is back at once.
            if let Ok(task) = flight.wait() {
                self.put_away(task);
            }
        } else {
            self.queues.members[way.member].unused(way.leave);
        }
        self.look(asked, list, zero, done);
    }

    /// Has the CPU look at pages.
    fn look(
        &mut self,
        asked: &Asked<'_>,
        list: Vec<usize>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        for index in &list {
            if asked.is_zero_from(*index, 0, asked.size) {
                zero.set(*index);
            }
        }
        done.by_cpu += list.len();
        self.spare_lists.push(list);
    }

    fn prepare(&mut self, way: &Way, asked: &Asked<'_>, list: &[usize]) -> Option<Flight> {
        let shape = &way.shape;
        let needed = list.len() * shape.pieces;
        let fits = |task: &Task| needed <= task.capacity();
        let mut task = match self.spare_tasks.iter().position(fits) {
            Some(index) => self.spare_tasks.swap_remove(index),
            None => Task::with_capacity(Kind::Dsa, needed.max(shape.pages * shape.pieces)).ok()?,
        };
        task.clear();
        task.set_largest_batch(asked.batch);
        for index in list {
            for (start, len) in asked.pieces(shape) {
                let offset = asked.offsets[*index] + start;
                task.push_compval(asked.source, offset, len, 0).ok()?;
            }
        }
        let queue = &self.queues.members[way.member].queue;
        Flight::new(queue, task, self.queues.options.patience).ok()
    }

    /// Keeps a task for the next time, and nothing of what it was about.
    fn put_away(&mut self, mut task: Task) {
        task.clear();
        self.spare_tasks.push(task);
    }

    /// Submits as much as the queue takes within the retries.
    fn submit(
        &mut self,
        flight: &mut Flight,
        way: &Way,
        asked: &Asked<'_>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        let mut begun = Instant::now();
        let mut tries = 0;
        loop {
            match flight.submit() {
                Ok(true) => return,
                Ok(false) => done.trouble.full += 1,
                Err(_) => {
                    done.trouble.refused += 1;
                    self.queues.members[way.member].failed(way.leave);
                    return;
                }
            }
            let own = self
                .in_flight
                .iter()
                .position(|own| own.way.member == way.member);
            if let Some(own) = own {
                // What makes room is our own. To wait for it is not to try.
                self.land(own, asked, zero, done);
                begun = Instant::now();
            } else if tries < self.queues.options.retries && begun.elapsed() < TRYING {
                tries += 1;
                (0..tries).for_each(|_| hint::spin_loop());
            } else {
                if flight.sent() == 0 {
                    self.queues.members[way.member].failed(way.leave);
                }
                return;
            }
        }
    }

    /// Lands the task that is done first. There is one in flight.
    fn land_first(&mut self, asked: &Asked<'_>, zero: &mut PageBitmap, done: &mut Done) {
        let index = self.first_done();
        self.land(index, asked, zero, done);
    }

    /// Waits until a task is done, and says which. It waits for the one that should be done first, but not for longer than until
    /// one of another queue should be: a device that is late holds up no other.
    fn first_done(&mut self) -> usize {
        /// Where several are late.
        const TURN: Duration = Duration::from_micros(200);
        loop {
            let ready = self
                .in_flight
                .iter_mut()
                .position(|flight| flight.ticket.is_ready());
            if let Some(index) = ready {
                return index;
            }
            let expected = |index: &usize| self.in_flight[*index].ticket.expected();
            let mut order: Vec<usize> = (0..self.in_flight.len()).collect();
            order.sort_by_key(expected);
            // A queue's tasks end in their order: of each, the first is enough.
            let mut seen = Vec::new();
            order.retain(|index| {
                let member = self.in_flight[*index].way.member;
                let is_new = !seen.contains(&member);
                seen.push(member);
                is_new
            });
            let (Some(first), Some(next)) = (order.first(), order.get(1)) else {
                return order.first().copied().unwrap_or(0);
            };
            let now = Instant::now();
            let until = expected(next).max(now + TURN);
            // The late ones take turns.
            let late = order.iter().filter(|index| expected(index) <= now).count();
            let chosen = match late {
                0 | 1 => *first,
                _ => order[self.turn % late],
            };
            self.turn = self.turn.wrapping_add(1);
            if self.in_flight[chosen].ticket.wait_until(until) {
                return chosen;
            }
        }
    }

    /// Waits for a task and takes its answers.
    fn land(&mut self, index: usize, asked: &Asked<'_>, zero: &mut PageBitmap, done: &mut Done) {
        let InFlight {
            ticket,
            pages: list,
            way,
        } = self.in_flight.swap_remove(index);
        match ticket.wait() {
            Ok(task) => {
                let before = (done.by_device, done.trouble.faults);
                answer::read(&task, asked, &way.shape, &list, zero, done);
                // A device that failed with everything; missing pages are not its fault.
                if (done.by_device, done.trouble.faults) == before {
                    self.queues.members[way.member].failed(way.leave);
                } else {
                    self.queues.members[way.member].answered(way.leave);
                }
                self.put_away(task);
                self.spare_lists.push(list);
            }
            Err(_) => {
                done.trouble.timeouts += 1;
                self.queues.members[way.member].failed(way.leave);
                self.look(asked, list, zero, done);
            }
        }
    }
}

/// Which queue of several is to be taken.
#[derive(Debug, Clone, Copy)]
enum Best {
    Take(Way),
    /// It is one that has enough of this channel's.
    Busy,
    /// None is well.
    None,
}
