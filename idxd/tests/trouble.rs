// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any trouble at random: what a device says that it has done is right, everything else is no answer, and nobody waits for ever.

#![cfg(feature = "model")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/pages.rs"]
mod pages;

use std::{sync::Arc, time::Duration};

use idxd::{
    CompletionEngine, Flight, Limits, Mode, Queue, Status, Task, WaitError,
    model::{Chances, Device, Model, Random},
};
use pages::{Pages, answers};
use proptest::{prelude::*, sample::select};

/// How long a device that does not answer holds a test up.
const PATIENCE: Duration = Duration::from_millis(20);

fn chances() -> impl Strategy<Value = Chances> {
    let often = || select(vec![0, 0, 2, 5, 20]);
    let seldom = || select(vec![0, 0, 0, 10, 40]);
    (
        often(),
        often(),
        0..3_000_u64,
        seldom(),
        often(),
        often(),
        often(),
        often(),
        often(),
    )
        .prop_map(
            |(
                full,
                late,
                delay,
                silent,
                unknown,
                list_fault,
                page_fault,
                member_status,
                member_silent,
            )| {
                Chances {
                    full,
                    late,
                    delay: Duration::from_micros(delay),
                    silent,
                    unknown,
                    list_fault,
                    page_fault,
                    member_status,
                    member_silent,
                }
            },
        )
}

/// What is said of each page is either right or not to be believed, and a fault is never behind a difference.
fn is_true(task: &Task, pages: &Pages, differences: &[Option<usize>]) {
    for (index, (told, truth)) in answers(task).into_iter().zip(pages.answers()).enumerate() {
        assert!(told.is_none() || told == truth, "{index}: {told:?}");
        let said = task.completion(index);
        if said.status == Status::PAGE_FAULT_NOBOF && said.fault_addr != 0 {
            let before = said.completed as usize;
            assert!(
                differences[index].is_none_or(|at| at >= before),
                "{index}: {said:?}"
            );
        }
        if index >= task.sent() {
            assert_eq!(said.status, Status::NONE);
        }
    }
}

/// Submits a few times, as somebody does who has another way if the queue stays full.
fn send(queue: &Arc<Queue>, task: Task) -> Flight {
    let mut flight = Flight::new(queue, task, PATIENCE).unwrap();
    for _ in 0..4 {
        if flight.submit().unwrap() {
            break;
        }
    }
    flight
}

/// A model of one device with such trouble, and its queue.
fn unlucky(
    seed: u64,
    chances: Chances,
    mode: Mode,
    max_batch: u32,
    by_write: bool,
) -> (Model, Arc<Queue>) {
    let limits = Limits {
        mode,
        size: 6,
        max_batch,
        ..Device::LIMITS
    };
    let mut device = Device::new("unlucky", limits).behaviour(Random::new(seed, chances));
    if by_write {
        device = device.by_write();
    }
    let model = Model::start(vec![device]).unwrap();
    let queue = model.open(0).unwrap();
    (model, queue)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_to_be_done_is_right(
        seed in any::<u64>(),
        chances in chances(),
        mode in select(vec![Mode::Shared, Mode::Dedicated]),
        max_batch in select(vec![1_u32, 2, 3, 8, 128]),
        by_write in any::<bool>(),
        size in select(vec![1_u32, 7, 64, 511]),
        count in 1..40_usize,
        engine in any::<bool>(),
    ) {
        let (model, queue) = unlucky(seed, chances, mode, max_batch, by_write);
        let differs = |page: usize| (page as u64 ^ seed).count_ones() % 2 == 0;
        let pages = Pages::new(count, size, differs);
        let place = |page: usize| differs(page).then_some(page * 7919 % size as usize);
        let differences: Vec<_> = (0..count).map(place).collect();
        let waiter = CompletionEngine::new();
        if engine {
            waiter.start().unwrap();
        }
        let mut task = Some(pages.task());
        for _ in 0..6 {
            // Half of them are used again without being cleared.
            let tickets: Vec<_> = [task.take().unwrap_or_else(|| pages.task()), pages.task()]
                .map(|task| waiter.hand_over(send(&queue, task)))
                .into();
            for ticket in tickets {
                match ticket.wait() {
                    Ok(back) => {
                        is_true(&back, &pages, &differences);
                        task = Some(back);
                    }
                    Err(error) => prop_assert!(matches!(error, WaitError::TimedOut { .. }), "{error}"),
                }
            }
        }
        prop_assert_eq!(waiter.is_running(), engine);
        prop_assert_eq!(model.counts(0).dropped, 0);
        let keep = Arc::downgrade(pages.source.keep());
        drop((task, pages, waiter, queue));
        // Nothing stays behind.
        prop_assert_eq!(keep.strong_count(), 0);
    }
}
