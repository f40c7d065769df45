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

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use idxd::{Completion, CompletionEngine, Flight, Kind, Queue, Source, Status, Task, Ticket};

use crate::{Kernel, PageBitmap, sys};

/// Most descriptors of a task; pages that need more are for the CPU.
const LARGEST_TASK: usize = 4096;
/// Pages of a task that shows whether a queue is well again.
const PROBE: usize = 16;
/// How long a full queue is tried again, at most: a try may be a system call in which the kernel has tried already.
const TRYING: Duration = Duration::from_micros(20);

/// How queues are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DsaOptions {
    /// Tasks that a channel has in flight in each queue.
    pub depth: usize,
    /// Batches of a task, which are waited for together.
    pub batches: usize,
    /// Times that a full queue is tried again before the CPU takes the pages.
    pub retries: u32,
    /// How long a device may take for a task.
    pub patience: Duration,
}

impl Default for DsaOptions {
    fn default() -> Self {
        Self {
            depth: 2,
            batches: 8,
            retries: 64,
            // Page faults and busy neighbours are over by then; a device that is not is halted.
            patience: Duration::from_millis(500),
        }
    }
}

/// The queues of all channels.
#[derive(Debug)]
pub(super) struct Queues {
    members: Vec<Member>,
    engine: Arc<CompletionEngine>,
    options: DsaOptions,
    epoch: Instant,
}

/// A queue, and how it has fared.
#[derive(Debug)]
struct Member {
    queue: Arc<Queue>,
    /// Nanoseconds since the epoch until which it is left alone.
    rests_until: AtomicU64,
    /// Times in a row that it had to rest.
    strikes: AtomicU32,
}

impl Queues {
    /// Those of `queues` that are of a DSA.
    pub(super) fn new(
        queues: Vec<Arc<Queue>>,
        engine: Arc<CompletionEngine>,
        options: DsaOptions,
    ) -> Self {
        let members = queues
            .into_iter()
            .filter(|queue| queue.limits().kind == Kind::Dsa)
            .map(|queue| Member {
                queue,
                rests_until: AtomicU64::new(0),
                strikes: AtomicU32::new(0),
            });
        Self {
            members: members.collect(),
            engine,
            options,
            epoch: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn engine(&self) -> &Arc<CompletionEngine> {
        &self.engine
    }

    /// How pages of `size` bytes become descriptors of a queue; none if a page would be too many.
    fn shape(&self, member: usize, size: u64, batch: usize) -> Option<Shape> {
        let limits = self.members[member].queue.limits();
        let piece = limits.max_transfer.min(size).clamp(1, u64::from(u32::MAX));
        let pieces = usize::try_from(size.div_ceil(piece)).ok()?;
        // More than an empty queue takes beside the channel's other tasks would only find it full.
        let entries = (limits.size as usize / self.options.depth.max(1)).max(1);
        let room = entries.saturating_mul(batch.min(limits.max_batch as usize).max(1));
        let wanted = batch.saturating_mul(self.options.batches.max(1));
        let mut pages = room.min(wanted).min(LARGEST_TASK) / pieces;
        if self.members[member].rests_until.load(Ordering::Relaxed) > 0 {
            pages = pages.min(PROBE);
        }
        (pieces <= LARGEST_TASK).then_some(Shape {
            piece,
            pieces,
            pages: pages.max(1),
        })
    }

    /// Leaves a queue alone for 10 ms, and twice as long each time it happens again, up to five minutes.
    fn rest(&self, member: usize) {
        const SHORTEST: Duration = Duration::from_millis(10);
        let member = &self.members[member];
        // Relaxed, here and below: hints, on which no other memory depends.
        let strikes = member.strikes.fetch_add(1, Ordering::Relaxed).min(15);
        self.leave_alone(member, SHORTEST * (1 << strikes));
    }

    fn leave_alone(&self, member: &Member, time: Duration) {
        let until = (self.epoch.elapsed() + time).as_nanos();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        member.rests_until.store(until, Ordering::Relaxed);
    }

    fn state(&self, member: usize) -> State {
        match self.members[member].rests_until.load(Ordering::Relaxed) {
            0 => State::Well,
            until if self.epoch.elapsed().as_nanos() < u128::from(until) => State::Rests,
            until => State::Rested { until },
        }
    }

    /// Whether this channel is the one that tries a queue which has rested; the others wait for what comes of it.
    fn may_probe(&self, member: usize, until: u64) -> bool {
        let for_now = self.epoch.elapsed() + self.options.patience * 2;
        let for_now = u64::try_from(for_now.as_nanos()).unwrap_or(u64::MAX);
        self.members[member]
            .rests_until
            .compare_exchange(until, for_now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn answered(&self, member: usize) {
        let member = &self.members[member];
        if member.rests_until.load(Ordering::Relaxed) > 0 {
            member.strikes.store(0, Ordering::Relaxed);
            member.rests_until.store(0, Ordering::Relaxed);
        }
    }
}

/// How a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    Rests,
    /// It may be tried.
    Rested {
        until: u64,
    },
}

/// How pages become descriptors of one queue.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Bytes of a piece of a page: what one descriptor names.
    piece: u64,
    /// Pieces of a page.
    pieces: usize,
    /// Pages of a task.
    pages: usize,
}

/// What happened to the pages of a scan beside being looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trouble {
    /// Times that a queue was full.
    pub full: u64,
    /// Page faults.
    pub faults: u64,
    /// Descriptors that ended in another way than was asked for, or not at all.
    pub failed: u64,
    /// Tasks that were not answered in time.
    pub timeouts: u64,
    /// Times that a queue did not take descriptors at all.
    pub refused: u64,
}

impl Trouble {
    pub(super) fn add(&mut self, other: Self) {
        self.full += other.full;
        self.faults += other.faults;
        self.failed += other.failed;
        self.timeouts += other.timeouts;
        self.refused += other.refused;
    }
}

/// What became of the pages of a scan.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Pages that a sampled word showed to be data.
    pub(super) sampled: usize,
    /// Pages whose answer came from a device.
    pub(super) by_device: usize,
    /// Pages that the CPU looked at, or finished.
    pub(super) by_cpu: usize,
    pub(super) trouble: Trouble,
}

/// A task in flight, and which pages it is about.
#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    pages: Vec<usize>,
    member: usize,
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

/// Whether a word of each page is looked at before a device is.
///
/// A page of data mostly shows it there, which costs the CPU less than a descriptor; for a zero page it is spent in vain. So it
/// pays up to a share of zero pages, which is what was found lately.
#[derive(Debug, Clone, Copy)]
struct Sampling {
    allowed: bool,
    /// The share of zero pages, of late.
    zero: f64,
}

impl Sampling {
    /// A sample costs about a third of a descriptor and its completion.
    const PAYS_BELOW: f64 = 2.0 / 3.0;

    fn pays(&self) -> bool {
        self.allowed && self.zero < Self::PAYS_BELOW
    }

    fn learn(&mut self, zero: usize, of: usize) {
        if of > 0 {
            let share = zero as f64 / of as f64;
            self.zero = self.zero * 0.5 + share * 0.5;
        }
    }
}

/// What is asked of a channel.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) source: &'a Source,
    /// Bytes of a page.
    pub(super) size: u64,
    /// Where pages begin in the source; all of them lie inside.
    pub(super) offsets: &'a [u64],
    /// The same pages, for the CPU's glance at one word.
    pub(super) sampler: sys::Pages<'a>,
    /// Finishes what a device could not.
    pub(super) kernel: Kernel,
    /// Descriptors of a batch.
    pub(super) batch: usize,
}

impl Asked<'_> {
    /// The pieces of a page: where each begins in it, and its length.
    fn pieces(&self, shape: &Shape) -> impl Iterator<Item = (u64, u32)> + use<> {
        let (size, piece) = (self.size, shape.piece);
        (0..shape.pieces as u64).map(move |index| {
            let start = index * piece;
            let len = piece.min(size - start);
            (start, u32::try_from(len).unwrap_or(u32::MAX))
        })
    }

    /// What the CPU says of a page from a byte on.
    fn is_zero_from(&self, index: usize, from: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let offset = self.offsets[index] + from;
        // Outside is impossible, since the batch was checked; data is the answer that loses nothing.
        self.kernel
            .is_zero(self.source, offset, len)
            .unwrap_or(false)
    }
}

impl DsaChannel {
    /// Channel number `index`, whose thread runs on `node`.
    pub(super) fn new(
        queues: Arc<Queues>,
        index: usize,
        node: Option<u32>,
        sampling: bool,
    ) -> Self {
        let is_near = |member: &usize| {
            let at = queues.members[*member].queue.limits().node;
            node.is_none() || at.is_none() || at == node
        };
        let (mut order, far): (Vec<usize>, Vec<usize>) =
            (0..queues.members.len()).partition(is_near);
        let near = order.len();
        order.extend(far);
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
            let queue = self.pick(asked, zero, &mut done);
            let pages = queue.map_or(asked.batch, |(_, shape)| shape.pages);
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
            match queue {
                Some((member, shape)) if !list.is_empty() => {
                    self.launch(asked, member, shape, list, zero, &mut done);
                }
                _ => self.look(asked, list, zero, &mut done),
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
    /// Where the channel has enough in flight in all of them, it lands something. None if there is no queue to be had.
    fn pick(
        &mut self,
        asked: &Asked<'_>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) -> Option<(usize, Shape)> {
        self.turn = self.turn.wrapping_add(1);
        loop {
            let (near, far) = self.order.split_at(self.near);
            let mut all_busy = false;
            for order in [near, far] {
                match self.best_of(order, asked) {
                    Best::Take(member, shape) => return Some((member, shape)),
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
        let mut best: Option<(Instant, usize, Shape)> = None;
        let mut busy = false;
        let now = Instant::now();
        for step in 0..order.len() {
            let member = order[self.turn.wrapping_add(step) % order.len()];
            let Some(shape) = self.queues.shape(member, asked.size, asked.batch) else {
                continue;
            };
            match self.queues.state(member) {
                State::Rests => continue,
                State::Rested { until } => {
                    if self.queues.may_probe(member, until) {
                        return Best::Take(member, shape);
                    }
                    continue;
                }
                State::Well => {}
            }
            if self.flights_in(member) >= self.queues.options.depth.max(1) {
                busy = true;
                continue;
            }
            let bytes = shape.pages as u64 * asked.size;
            let end = self.queues.members[member].queue.would_end(now, bytes);
            if best.is_none_or(|(sooner, ..)| end < sooner) {
                best = Some((end, member, shape));
            }
        }
        match best {
            Some((_, member, shape)) => Best::Take(member, shape),
            None if busy => Best::Busy,
            None => Best::None,
        }
    }

    fn flights_in(&self, member: usize) -> usize {
        let of_it = |flight: &&InFlight| flight.member == member;
        self.in_flight.iter().filter(of_it).count()
    }

    /// Sends a list of pages to a device, or has the CPU look at them.
    fn launch(
        &mut self,
        asked: &Asked<'_>,
        member: usize,
        shape: Shape,
        list: Vec<usize>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        if let Some(mut flight) = self.prepare(member, &shape, asked, &list) {
            self.submit(&mut flight, member, asked, zero, done);
            if flight.sent() > 0 {
                self.in_flight.push(InFlight {
                    ticket: self.queues.engine.hand_over(flight),
                    pages: list,
                    member,
                    shape,
                });
                return;
            }
            // Nothing was taken: the task is back at once.
            if let Ok(task) = flight.wait() {
                self.put_away(task);
            }
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

    fn prepare(
        &mut self,
        member: usize,
        shape: &Shape,
        asked: &Asked<'_>,
        list: &[usize],
    ) -> Option<Flight> {
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
        let queue = &self.queues.members[member].queue;
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
        member: usize,
        asked: &Asked<'_>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            match flight.submit() {
                Ok(true) => return,
                Ok(false) => done.trouble.full += 1,
                Err(_) => {
                    done.trouble.refused += 1;
                    self.queues.rest(member);
                    return;
                }
            }
            let own = self.in_flight.iter().position(|own| own.member == member);
            if let Some(own) = own {
                // What makes room is our own.
                self.land(own, asked, zero, done);
            } else if tries < self.queues.options.retries && begun.elapsed() < TRYING {
                tries += 1;
                (0..tries).for_each(|_| hint::spin_loop());
            } else {
                if flight.sent() == 0 {
                    self.queues.rest(member);
                }
                return;
            }
        }
    }

    /// Lands a task that is done, or else the one that should be done first.
    fn land_first(&mut self, asked: &Asked<'_>, zero: &mut PageBitmap, done: &mut Done) {
        let ready = self
            .in_flight
            .iter_mut()
            .position(|flight| flight.ticket.is_ready());
        let first = ready.or_else(|| {
            let expected = |index: &usize| self.in_flight[*index].ticket.expected();
            (0..self.in_flight.len()).min_by_key(expected)
        });
        if let Some(index) = first {
            self.land(index, asked, zero, done);
        }
    }

    /// Waits for a task and takes its answers.
    fn land(&mut self, index: usize, asked: &Asked<'_>, zero: &mut PageBitmap, done: &mut Done) {
        let InFlight {
            ticket,
            pages: list,
            member,
            shape,
        } = self.in_flight.swap_remove(index);
        match ticket.wait() {
            Ok(task) => {
                let before = (done.by_device, done.trouble.faults);
                read(&task, asked, &shape, &list, zero, done);
                // A device that failed with everything; missing pages are not its fault.
                if (done.by_device, done.trouble.faults) == before {
                    self.queues.rest(member);
                } else {
                    self.queues.answered(member);
                }
                self.put_away(task);
                self.spare_lists.push(list);
            }
            Err(_) => {
                done.trouble.timeouts += 1;
                self.queues.rest(member);
                self.look(asked, list, zero, done);
            }
        }
    }
}

/// Which queue of several is to be taken.
#[derive(Debug, Clone, Copy)]
enum Best {
    Take(usize, Shape),
    /// One that is well has enough of this channel's.
    Busy,
    /// None is well.
    None,
}

/// What a completion says of the piece that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Equal,
    Differs,
    /// Equal up to that byte, and nothing is known of it and what follows.
    EqualUpTo(u64),
}

fn said(completion: &Completion, len: u32, trouble: &mut Trouble) -> Said {
    match (completion.status, completion.result) {
        (Status::SUCCESS, 0) => Said::Equal,
        (Status::SUCCESS, 1) => Said::Differs,
        // A difference would have ended it before the fault; a count that cannot be is not believed.
        (status, 0) if status.is_page_fault() && completion.completed <= len => {
            trouble.faults += 1;
            Said::EqualUpTo(u64::from(completion.completed))
        }
        (status, _) => {
            if status.is_page_fault() {
                trouble.faults += 1;
            } else {
                trouble.failed += 1;
            }
            Said::EqualUpTo(0)
        }
    }
}

/// Takes the answers of a task.
fn read(
    task: &Task,
    asked: &Asked<'_>,
    shape: &Shape,
    list: &[usize],
    zero: &mut PageBitmap,
    done: &mut Done,
) {
    let mut descriptor = 0;
    for index in list {
        let (mut differs, mut by_cpu) = (false, false);
        for (start, len) in asked.pieces(shape) {
            if !differs {
                match said(&task.completion(descriptor), len, &mut done.trouble) {
                    Said::Equal => {}
                    Said::Differs => differs = true,
                    Said::EqualUpTo(byte) => {
                        by_cpu = true;
                        let rest = u64::from(len) - byte;
                        differs = !asked.is_zero_from(*index, start + byte, rest);
                    }
                }
            }
            descriptor += 1;
        }
        if !differs {
            zero.set(*index);
        }
        if by_cpu {
            done.by_cpu += 1;
        } else {
            done.by_device += 1;
        }
    }
}
