// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who does what: the cursor that hands out chunks, the claims on their slices, and the stop.
//!
//! ```text
//!  cells    |0 1 2 3|4|5 6 7 8|9 . . . . .|        chunks drawn so far end at the cursor (here: 10);
//!                              ▲ cursor            one such interval and cursor for each memory node
//!  claims   1111 0001 11 11000000 11               a slice below the cursor without a claim was handed out with its
//!                    ▲                             chunk and not begun: whoever is idle claims it
//! ```
//!
//! The protocol and its races are described in `README.md` beside this crate's `src`, and modelled with loom below.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::{
    Chunk, Plan, Sealing,
    bits::Bits,
    ledger::Ledger,
    pace::{Pace, Shown},
    ready::Ready,
    record::Record,
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// A piece of work that belongs to the worker that got it, and to nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) chunk: Chunk,
    /// Numbers of the slices that are done when this is done.
    slices: (u32, u32),
    /// Whether it was taken over from a chunk of another worker.
    pub(crate) taken_over: bool,
}

/// What a worker remembers between two pieces.
#[derive(Debug)]
pub(crate) struct Hand {
    worker: usize,
    late: Duration,
    /// What it has shown of itself.
    pub(crate) record: Record,
    /// Slices of the worker's own chunk that it has not looked at yet.
    own: (u32, u32),
    /// No slice from here on is free; meaningful once all cursors have reached their ends.
    free_below: Option<u32>,
    /// The group of cells to draw from first.
    group: usize,
}

impl Hand {
    /// The hand of `worker`, whose home is `group`, and which asks for the first time `late` after the job started.
    pub(crate) fn new(worker: usize, group: Option<usize>, late: Duration) -> Self {
        Self {
            worker,
            late,
            record: Record::new(late),
            own: (0, 0),
            free_below: None,
            // Who is at home nowhere begins where few others do.
            group: group.unwrap_or(worker),
        }
    }

    /// What the pace goes by for this worker alone.
    fn shown(&self) -> Shown {
        match self.record.rate() {
            Some(rate) => Shown::Rate(rate),
            None => Shown::Late(self.late),
        }
    }
}

/// The cells of one group of ranges.
#[derive(Debug)]
struct Cursor {
    next: AtomicU32,
    end: u32,
}

/// The shared state of a running job.
#[derive(Debug)]
pub(crate) struct HandOut<'p> {
    plan: &'p Plan,
    cursors: Box<[CachePadded<Cursor>]>,
    claims: Bits,
    /// Bytes of pieces that somebody has begun; a hint for the pace, exact only once all threads were joined.
    claimed: CachePadded<AtomicU64>,
    stop: AtomicBool,
    pub(crate) ledger: Ledger<'p>,
    pub(crate) pace: Pace,
    /// Where chunks have a second step: those that are ready for it.
    pub(crate) ready: Option<Ready<'p>>,
}

impl<'p> HandOut<'p> {
    pub(crate) fn new(plan: &'p Plan, workers: usize) -> Self {
        let layout = plan.layout();
        Self {
            plan,
            cursors: layout
                .groups()
                .map(|cells| {
                    CachePadded::new(Cursor {
                        next: AtomicU32::new(cells.start),
                        end: cells.end,
                    })
                })
                .collect(),
            claims: Bits::new(if layout.sliced() { layout.slices() } else { 0 }),
            claimed: CachePadded::new(AtomicU64::new(0)),
            stop: AtomicBool::new(false),
            ledger: Ledger::new(layout, plan.sealing()),
            pace: Pace::new(workers),
            ready: (plan.sealing() != Sealing::None).then(|| Ready::new(layout)),
        }
    }

    /// The next piece for this hand; `None` when there is nothing left that it should do, or the job stops.
    pub(crate) fn next(&self, hand: &mut Hand) -> Option<Piece> {
        let piece = self.find(hand)?;
        // Relaxed: only a hint, see the field.
        self.claimed
            .fetch_add(piece.chunk.size(), Ordering::Relaxed);
        Some(piece)
    }

    fn find(&self, hand: &mut Hand) -> Option<Piece> {
        let step = self.plan.layout().step();
        loop {
            let unclaimed = self.unclaimed();
            if self.stopped()
                || !self
                    .pace
                    .worthwhile(hand.worker, unclaimed, step, hand.shown())
            {
                return None;
            }
            while hand.own.0 < hand.own.1 {
                let slice = hand.own.0;
                hand.own.0 += 1;
                if let Some(piece) = self.claim(slice, false) {
                    return Some(piece);
                }
            }
            match self.draw(hand, unclaimed) {
                Drawn::Whole(piece) => return Some(piece),
                Drawn::Sliced => {}
                Drawn::Exhausted => return self.take_over(hand),
            }
        }
    }

    fn unclaimed(&self) -> u64 {
        // Relaxed: only a hint, see the field.
        self.plan
            .size()
            .saturating_sub(self.claimed.load(Ordering::Relaxed))
    }

    /// Notes that `piece` is done. Returns whether a chunk became ready for its second step.
    pub(crate) fn done(&self, piece: &Piece) -> bool {
        self.slices_done(piece.slices)
    }

    fn slices_done(&self, slices: (u32, u32)) -> bool {
        self.ledger.done(slices);
        self.ready.as_ref().is_some_and(|ready| ready.done(slices))
    }

    /// Nobody gets another piece.
    pub(crate) fn stop(&self) {
        // Relaxed: only a flag. What was done so far is read from the ledger after all threads were joined.
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        // Relaxed: pairs with `stop`; a worker that sees it late does one more piece, which the undo takes back.
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the next chunk off a cursor: that of the hand's home, as long as it lasts, then those of others.
    fn draw(&self, hand: &mut Hand, unclaimed: u64) -> Drawn {
        let mut share = self.pace.share(hand.worker, unclaimed, self.plan.chunk());
        if hand.worker > 0 && !self.plan.layout().sliced() {
            share = share.min(hand.record.trust());
        }
        for _ in 0..self.cursors.len() {
            let cursor = &self.cursors[hand.group % self.cursors.len()];
            if let Some((cell, count)) = self.advance(cursor, share) {
                return self.drawn(hand, cell, count);
            }
            hand.group += 1;
        }
        Drawn::Exhausted
    }

    /// Moves `cursor` by as many cells as `share` bytes are, at least one.
    fn advance(&self, cursor: &Cursor, share: u64) -> Option<(u32, u32)> {
        // Relaxed, here and in the exchange: the cursor hands out numbers. What they stand for is in the plan, which
        // was made before any thread of the job began.
        let mut at = cursor.next.load(Ordering::Relaxed);
        while at < cursor.end {
            let count = self.plan.layout().fit(at, share);
            match cursor.next.compare_exchange_weak(
                at,
                at + count,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some((at, count)),
                Err(now) => at = now,
            }
        }
        None
    }

    fn drawn(&self, hand: &mut Hand, cell: u32, count: u32) -> Drawn {
        // Before anything else, also when the job stops just now: others may already work on slices of this chunk,
        // and the undo must find its borders.
        self.ledger.handed_out(cell, count);
        let layout = self.plan.layout();
        let slices = (layout.first_slice(cell), layout.first_slice(cell + count));
        if layout.sliced() {
            hand.own = slices;
            Drawn::Sliced
        } else {
            Drawn::Whole(Piece {
                chunk: layout.chunk(cell, count),
                slices,
                taken_over: false,
            })
        }
    }

    /// A slice that was handed out with another worker's chunk and not begun.
    ///
    /// Called when all cells are handed out. Each hand walks down once: a claim is never given back, so what it has
    /// passed stays claimed.
    fn take_over(&self, hand: &mut Hand) -> Option<Piece> {
        let layout = self.plan.layout();
        if !layout.sliced() {
            return None;
        }
        let mut below = hand.free_below.unwrap_or(layout.slices());
        while let Some(slice) = self.claims.highest_absent(below) {
            below = slice;
            hand.free_below = Some(below);
            if let Some(piece) = self.claim(slice, true) {
                return Some(piece);
            }
        }
        hand.free_below = Some(0);
        None
    }

    /// Makes `slice` the caller's own, unless somebody else has it or it is empty.
    fn claim(&self, slice: u32, taken_over: bool) -> Option<Piece> {
        if !self.claims.insert(slice) {
            return None;
        }
        let piece = self.plan.layout().slice(slice);
        if piece.is_none() {
            self.slices_done((slice, slice + 1));
        }
        piece.map(|chunk| Piece {
            chunk,
            slices: (slice, slice + 1),
            taken_over,
        })
    }
}

enum Drawn {
    /// A chunk that is done in one call.
    Whole(Piece),
    /// The hand has slices of its own now.
    Sliced,
    /// All cells are handed out.
    Exhausted,
}

#[cfg(all(test, loom))]
mod models {
    //! Interleavings of the product's own code for two and three workers, all that need at most
    //! [`PREEMPTIONS`] preemptions: the rates and hints of every piece are atomics too, and without a bound the
    //! larger models run for hours.
    //!
    //! `RUSTFLAGS="--cfg loom" cargo test -p parapin-pinning --lib --release models`

    use std::num::{NonZeroU64, NonZeroUsize};

    use loom::{
        sync::{
            Arc,
            atomic::{AtomicU32 as Counter, Ordering::SeqCst},
        },
        thread,
    };

    use super::*;
    use crate::{Allowance, Constraints, Job, Node, Range};

    const PAGE: u64 = 4096;
    const PREEMPTIONS: usize = 3;

    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(check);
    }

    /// A plan of `cells` cells; with `slices` each has two.
    fn plan(cells: u64, slices: bool) -> &'static Plan {
        sealed_plan(cells, slices, Sealing::None)
    }

    fn sealed_plan(cells: u64, slices: bool, sealing: Sealing) -> &'static Plan {
        let mut job = Job::new([Range::new(0, cells * 2 * PAGE, PAGE).unwrap()]).unwrap();
        job.min_chunk = 2 * PAGE;
        job.max_chunk = 4 * PAGE;
        let constraints = Constraints {
            slice: slices.then(|| NonZeroU64::new(PAGE).unwrap()),
            sealing,
            ..Constraints::default()
        };
        let budget = Allowance {
            threads: NonZeroUsize::MIN,
            limited_by: "model",
        };
        Box::leak(Box::new(Plan::new(&job, &constraints, &budget).unwrap()))
    }

    struct Model {
        hand_out: HandOut<'static>,
        /// How often each page was begun.
        begun: Vec<Counter>,
    }

    impl Model {
        fn new(plan: &'static Plan, workers: usize) -> Arc<Self> {
            Arc::new(Self {
                hand_out: HandOut::new(plan, workers),
                begun: (0..plan.size() / PAGE).map(|_| Counter::new(0)).collect(),
            })
        }

        /// Works like `Running::work_through`; the piece that holds `fails_at` fails.
        fn work(&self, worker: usize, fails_at: Option<u64>) {
            let mut hand = Hand::new(
                worker,
                self.hand_out.plan.places().home(worker),
                Duration::ZERO,
            );
            while let Some(piece) = self.hand_out.next(&mut hand) {
                let pages = piece.chunk.start() / PAGE..piece.chunk.end() / PAGE;
                for page in pages.clone() {
                    self.begun[page as usize].fetch_add(1, SeqCst);
                }
                if fails_at.is_some_and(|page| pages.contains(&page)) {
                    self.hand_out.stop();
                    return;
                }
                self.hand_out.done(&piece);
            }
        }

        fn begun(&self) -> Vec<u32> {
            self.begun.iter().map(|page| page.load(SeqCst)).collect()
        }
    }

    fn run(cells: u64, slices: bool, workers: usize, fails_at: Option<u64>, check: fn(&Model)) {
        run_plan(plan(cells, slices), workers, fails_at, check);
    }

    fn run_plan(plan: &'static Plan, workers: usize, fails_at: Option<u64>, check: fn(&Model)) {
        model(move || {
            let job = Model::new(plan, workers);
            let helpers: Vec<_> = (1..workers)
                .map(|worker| {
                    let job = Arc::clone(&job);
                    thread::spawn(move || job.work(worker, fails_at))
                })
                .collect();
            job.work(0, fails_at);
            for helper in helpers {
                helper.join().unwrap();
            }
            check(&job);
        });
    }

    fn everything_once(job: &Model) {
        assert!(
            job.begun().iter().all(|&times| times == 1),
            "{:?}",
            job.begun()
        );
        let done: u64 = job.hand_out.ledger.completed().map(|c| c.size()).sum();
        assert_eq!(done, job.begun.len() as u64 * PAGE, "nothing is lost");
    }

    /// Page 1 failed: nothing was begun twice, and the undo finds exactly what was begun and did not fail.
    fn undo_finds_what_was_done(job: &Model) {
        assert!(
            job.begun().iter().all(|&times| times <= 1),
            "{:?}",
            job.begun()
        );
        let mut held: Vec<bool> = job.begun().iter().map(|&times| times == 1).collect();
        let failed = job.hand_out.plan.layout().step() / PAGE;
        for page in (0..held.len()).filter(|&page| page as u64 / failed == 1 / failed) {
            held[page] = false;
        }
        for undoable in job.hand_out.ledger.to_undo() {
            let (crate::ledger::Undoable::Whole(chunk) | crate::ledger::Undoable::Part(chunk)) =
                undoable;
            for page in chunk.start() / PAGE..chunk.end() / PAGE {
                assert!(held[page as usize], "{chunk} is undone and was not done");
                held[page as usize] = false;
            }
        }
        assert!(!held.contains(&true), "done and not undone: {held:?}");
    }

    #[test]
    fn two_workers_do_every_chunk_once() {
        run(3, false, 2, None, everything_once);
    }

    #[test]
    fn two_workers_do_every_slice_once() {
        run(2, true, 2, None, everything_once);
    }

    #[test]
    fn three_workers_do_every_slice_once() {
        run(1, true, 3, None, everything_once);
    }

    /// One cell on each of two nodes, and a worker at home on each.
    #[test]
    fn two_nodes_are_done_once() {
        let ranges = [0, 1].map(|node| {
            let start = u64::from(node) * 2 * PAGE;
            Range::new(start, 2 * PAGE, PAGE)
                .unwrap()
                .on_node(Some(node))
        });
        let mut job = Job::new(ranges).unwrap();
        job.min_chunk = 2 * PAGE;
        job.max_chunk = 2 * PAGE;
        job.home = Some(0);
        job.nodes = [0, 1]
            .map(|id| Node {
                id,
                cpus: vec![id as usize],
            })
            .into();
        let constraints = Constraints {
            slice: NonZeroU64::new(PAGE),
            ..Constraints::default()
        };
        let budget = Allowance {
            threads: NonZeroUsize::new(2).unwrap(),
            limited_by: "model",
        };
        let plan = Plan::new(&job, &constraints, &budget).unwrap();
        assert_eq!(
            [0, 1].map(|worker| plan.node_of(worker)),
            [Some(0), Some(1)]
        );
        run_plan(Box::leak(Box::new(plan)), 2, None, everything_once);
    }

    #[test]
    fn a_failing_chunk_stops_both_and_the_undo_is_exact() {
        run(3, false, 2, Some(1), undo_finds_what_was_done);
    }

    #[test]
    fn a_failing_slice_stops_both_and_the_undo_is_exact() {
        run(2, true, 2, Some(1), undo_finds_what_was_done);
    }

    /// The caller seals each cell once, and sees then what every worker did to it.
    fn seals(cells: u64) {
        let plan = sealed_plan(cells, true, Sealing::Following);
        model(move || {
            let job = Model::new(plan, 2);
            let helper = {
                let job = Arc::clone(&job);
                thread::spawn(move || job.work(1, None))
            };
            job.work(0, None);
            let (ready, sealed) = (
                job.hand_out.ready.as_ref().unwrap(),
                job.hand_out.ledger.sealed.as_ref().unwrap(),
            );
            let seal_ready = || {
                while let Some(cell) = ready.next(sealed, 0) {
                    for page in u64::from(cell) * 2..u64::from(cell) * 2 + 2 {
                        // Relaxed: only what happened before is sure to be seen.
                        let begun = job.begun[page as usize].load(Ordering::Relaxed);
                        assert_eq!(begun, 1, "cell {cell} is sealed too early");
                    }
                    assert!(sealed.insert(cell), "cell {cell} is sealed twice");
                }
            };
            seal_ready();
            helper.join().unwrap();
            seal_ready();
            let all: u64 = job.hand_out.ledger.completed().map(|c| c.size()).sum();
            assert_eq!(all, plan.size(), "every cell is sealed");
        });
    }

    #[test]
    fn a_cell_is_sealed_once_after_all_of_it_is_run() {
        seals(1);
    }

    #[test]
    fn two_cells_are_sealed_once_each() {
        seals(2);
    }

    #[test]
    fn who_sees_the_stop_begins_nothing() {
        let plan = plan(2, true);
        model(move || {
            let job = Model::new(plan, 2);
            let helper = {
                let job = Arc::clone(&job);
                thread::spawn(move || {
                    if job.hand_out.stopped() {
                        let mut hand = Hand::new(1, None, Duration::ZERO);
                        assert_eq!(job.hand_out.next(&mut hand), None);
                    }
                })
            };
            job.work(0, Some(0));
            helper.join().unwrap();
            let mut hand = Hand::new(0, None, Duration::ZERO);
            assert_eq!(job.hand_out.next(&mut hand), None);
        });
    }
}
