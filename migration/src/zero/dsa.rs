// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Zero pages found by DSA, and by the CPU wherever that has trouble.
//!
//! ```text
//!  pages ─► task of COMPVALs ─► a queue near this channel, in turn ─► engine ─► completions ─┬─ equal, differs ──► bit
//!              ▲    │ full for long, or no queue is well                                      ├─ page fault: the CPU goes on
//!              │    └───────────────────────────────► the CPU looks at the page ◄─────────────┴─ anything else
//!              └── up to `depth` tasks of a channel are in flight
//! ```
//!
//! A completion is believed if it says success and equal or different. Whatever else a device says or does not say, the CPU
//! looks for itself, so that trouble costs time and never the right answer.

use std::{
    collections::VecDeque,
    hint,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use idxd::{Completion, CompletionEngine, Flight, Kind, Queue, Source, Status, Task, Ticket};

use crate::{Kernel, PageBitmap, sys};

/// Most descriptors of a task.
const LARGEST_TASK: usize = 4096;

/// How queues are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DsaOptions {
    /// Tasks that a channel has in flight.
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

    /// Bytes that one descriptor may name in every queue.
    fn max_transfer(&self) -> u64 {
        let limits = self
            .members
            .iter()
            .map(|member| member.queue.limits().max_transfer);
        limits.min().unwrap_or(1).clamp(1, u64::from(u32::MAX))
    }

    /// Descriptors of a task, in batches of up to `batch`, that an empty queue takes beside the channel's other tasks. More would
    /// only find it full.
    fn room(&self, batch: usize) -> usize {
        let depth = self.options.depth.max(1);
        let of = |member: &Member| {
            let limits = member.queue.limits();
            let entries = (limits.size as usize / depth).max(1);
            entries * batch.min(limits.max_batch as usize).max(1)
        };
        self.members.iter().map(of).min().unwrap_or(1)
    }

    /// Leaves a queue alone for 10 ms, and twice as long each time it happens again.
    fn rest(&self, member: usize) {
        const SHORTEST: Duration = Duration::from_millis(10);
        let member = &self.members[member];
        // Relaxed, here and below: hints, on which no other memory depends.
        let strikes = member.strikes.fetch_add(1, Ordering::Relaxed).min(9);
        let until = self.epoch.elapsed() + SHORTEST * (1 << strikes);
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        member.rests_until.store(until, Ordering::Relaxed);
    }

    fn is_well(&self, member: usize) -> bool {
        let until = self.members[member].rests_until.load(Ordering::Relaxed);
        until == 0 || self.epoch.elapsed().as_nanos() >= u128::from(until)
    }

    fn answered(&self, member: usize) {
        let member = &self.members[member];
        if member.strikes.load(Ordering::Relaxed) > 0 {
            member.strikes.store(0, Ordering::Relaxed);
            member.rests_until.store(0, Ordering::Relaxed);
        }
    }
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

/// Tasks in flight, and which pages they are about.
#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    pages: Vec<usize>,
    member: usize,
}

/// One channel's share: its tasks, and whose turn it is.
#[derive(Debug)]
pub(super) struct DsaChannel {
    queues: Arc<Queues>,
    /// The queues that it uses, nearest first, and how many of them are near.
    order: Vec<usize>,
    near: usize,
    turn: usize,
    in_flight: VecDeque<InFlight>,
    spare_tasks: Vec<Task>,
    spare_lists: Vec<Vec<usize>>,
    capacity: usize,
    batch: usize,
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

/// The pages of a scan, and how they are cut into what one descriptor may name.
#[derive(Debug)]
struct Pages<'a> {
    asked: &'a Asked<'a>,
    /// Bytes of a piece of a page.
    piece: u64,
    /// Pieces of a page.
    pieces: u64,
}

impl Pages<'_> {
    /// The pieces of a page: where each begins in it, and its length.
    fn pieces(&self) -> impl Iterator<Item = (u64, u32)> + use<> {
        let (size, piece) = (self.asked.size, self.piece);
        (0..self.pieces).map(move |index| {
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
        let offset = self.asked.offsets[index] + from;
        // Outside is impossible, since the batch was checked; data is the answer that loses nothing.
        self.asked
            .kernel
            .is_zero(self.asked.source, offset, len)
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
            in_flight: VecDeque::new(),
            spare_tasks: Vec::new(),
            spare_lists: Vec::new(),
            capacity: 0,
            batch: 0,
            sampling: Sampling {
                allowed: sampling,
                zero: 0.5,
            },
        }
    }

    /// Sets the bits of those pages that are zero and whose bits are not set yet.
    pub(super) fn scan(&mut self, asked: &Asked<'_>, zero: &mut PageBitmap) -> Done {
        let offsets = asked.offsets;
        let piece = self.queues.max_transfer().min(asked.size);
        let pages = Pages {
            asked,
            piece,
            pieces: asked.size.div_ceil(piece),
        };
        let batch = asked.batch;
        let pieces = usize::try_from(pages.pieces).unwrap_or(usize::MAX);
        let wanted = batch.saturating_mul(self.queues.options.batches.max(1));
        let descriptors = self.queues.room(batch).min(LARGEST_TASK);
        let list_len = wanted.min(descriptors / pieces).max(1);
        self.make_room(list_len.saturating_mul(pieces), batch);
        let mut done = Done::default();
        let (mut next, mut known) = (0, 0);
        let sampling = self.sampling.pays();
        while next < offsets.len() {
            let mut list = self.spare_lists.pop().unwrap_or_default();
            list.clear();
            while next < offsets.len() && list.len() < list_len {
                if zero.get(next) {
                    known += 1;
                } else if sampling && asked.sampler.shows_data(next) {
                    done.sampled += 1;
                } else {
                    list.push(next);
                }
                next += 1;
            }
            if list.is_empty() {
                self.spare_lists.push(list);
            } else {
                self.launch(&pages, list, zero, &mut done);
            }
            while self.in_flight.len() >= self.queues.options.depth.max(1) {
                self.land(&pages, zero, &mut done);
            }
        }
        while !self.in_flight.is_empty() {
            self.land(&pages, zero, &mut done);
        }
        self.sampling
            .learn(zero.count() - known, offsets.len() - known);
        done
    }

    /// Whether the next scan samples.
    pub(super) fn is_sampling(&self) -> bool {
        self.sampling.pays()
    }

    /// Makes sure that tasks have room for so many descriptors, in batches of that size.
    fn make_room(&mut self, capacity: usize, batch: usize) {
        self.batch = batch;
        if self.capacity < capacity {
            self.spare_tasks.clear();
            self.capacity = capacity;
        }
    }

    /// Sends a list of pages to a device, or has the CPU look at them.
    fn launch(
        &mut self,
        pages: &Pages<'_>,
        list: Vec<usize>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
        let flight = self
            .pick()
            .and_then(|member| Some((member, self.prepare(member, pages, &list)?)));
        if let Some((member, mut flight)) = flight {
            self.submit(&mut flight, member, pages, zero, done);
            if flight.sent() > 0 {
                self.in_flight.push_back(InFlight {
                    ticket: self.queues.engine.hand_over(flight),
                    pages: list,
                    member,
                });
                return;
            }
            // Nothing was taken: the task is back at once.
            self.spare_tasks.extend(flight.wait());
        }
        for index in &list {
            finish(pages, *index, (0, pages.asked.size), zero, done);
        }
        self.spare_lists.push(list);
    }

    /// The queue whose turn it is: a near one, or else any that is well.
    fn pick(&mut self) -> Option<usize> {
        let turn = self.turn;
        self.turn = self.turn.wrapping_add(1);
        let (near, far) = self.order.split_at(self.near);
        [near, far].into_iter().find_map(|order| {
            (0..order.len())
                .map(|step| order[turn.wrapping_add(step) % order.len()])
                .find(|member| self.queues.is_well(*member))
        })
    }

    fn prepare(&mut self, member: usize, pages: &Pages<'_>, list: &[usize]) -> Option<Flight> {
        let mut task = match self.spare_tasks.pop() {
            Some(task) => task,
            None => Task::with_capacity(Kind::Dsa, self.capacity).ok()?,
        };
        task.clear();
        task.set_largest_batch(self.batch);
        for index in list {
            for (start, len) in pages.pieces() {
                let offset = pages.asked.offsets[*index] + start;
                task.push_compval(pages.asked.source, offset, len, 0).ok()?;
            }
        }
        let queue = &self.queues.members[member].queue;
        Flight::new(queue, task, self.queues.options.patience).ok()
    }

    /// Submits as much as the queue takes within the retries.
    fn submit(
        &mut self,
        flight: &mut Flight,
        member: usize,
        pages: &Pages<'_>,
        zero: &mut PageBitmap,
        done: &mut Done,
    ) {
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
            if !self.in_flight.is_empty() {
                // What makes room is our own.
                self.land(pages, zero, done);
            } else if tries < self.queues.options.retries {
                tries += 1;
                // Longer each time, some 20 us in all.
                (0..tries).for_each(|_| hint::spin_loop());
            } else {
                return;
            }
        }
    }

    /// Waits for the oldest task and takes its answers.
    fn land(&mut self, pages: &Pages<'_>, zero: &mut PageBitmap, done: &mut Done) {
        let Some(InFlight {
            ticket,
            pages: list,
            member,
        }) = self.in_flight.pop_front()
        else {
            return;
        };
        match ticket.wait() {
            Ok(task) => {
                let before = (done.by_device, done.trouble.faults);
                read(&task, pages, &list, zero, done);
                // A device that failed with everything; missing pages are not its fault.
                if (done.by_device, done.trouble.faults) == before {
                    self.queues.rest(member);
                } else {
                    self.queues.answered(member);
                }
                self.spare_tasks.push(task);
            }
            Err(_) => {
                done.trouble.timeouts += 1;
                self.queues.rest(member);
                for index in &list {
                    finish(pages, *index, (0, pages.asked.size), zero, done);
                }
            }
        }
        self.spare_lists.push(list);
    }
}

/// Has the CPU look at the bytes of a page from one to another, all others of which are known to be zero.
fn finish(
    pages: &Pages<'_>,
    index: usize,
    (from, to): (u64, u64),
    zero: &mut PageBitmap,
    done: &mut Done,
) {
    done.by_cpu += 1;
    if pages.is_zero_from(index, from, to - from) {
        zero.set(index);
    }
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
fn read(task: &Task, pages: &Pages<'_>, list: &[usize], zero: &mut PageBitmap, done: &mut Done) {
    let mut descriptor = 0;
    for index in list {
        let (mut differs, mut by_cpu) = (false, false);
        for (start, len) in pages.pieces() {
            if !differs {
                match said(&task.completion(descriptor), len, &mut done.trouble) {
                    Said::Equal => {}
                    Said::Differs => differs = true,
                    Said::EqualUpTo(byte) => {
                        by_cpu = true;
                        let rest = u64::from(len) - byte;
                        differs = !pages.is_zero_from(*index, start + byte, rest);
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
