// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The cases of QEMU's `tests/unit/test-dsa.c` as behaviours of ours: on the model always, on queues of real devices where
//! this process may use any.

#![cfg(feature = "model")]
#![expect(unsafe_code, reason = "memory that nobody has touched comes from mmap")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/fly.rs"]
mod fly;
#[path = "stage/pages.rs"]
mod pages;

use std::{fs, ptr::NonNull, sync::Arc};

use fly::{LONG, fly};
use idxd::{
    AccelPaths, CompletionEngine, Discovery, Kind, Queue, Roots, Source, Status, Task, TaskError,
    model::{Device, Model},
};
use pages::{Pages, answers};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    param::page_size,
};

const PAGE: u32 = 4096;

/// Queues of DSAs, and who can open them again.
struct Place {
    queues: Vec<Arc<Queue>>,
    open: Box<dyn Fn() -> Vec<Arc<Queue>>>,
    /// None for real devices.
    model: Option<Arc<Model>>,
}

impl Place {
    /// Two devices of the model, which fault as real ones do.
    fn model() -> Self {
        let device = |name: &str| Device::new(name, Device::LIMITS).faults_on_missing_pages();
        let model = Arc::new(Model::start(vec![device("first"), device("second")]).unwrap());
        let played = Arc::clone(&model);
        let open = move || (0..2).map(|index| played.open(index).unwrap()).collect();
        Self {
            queues: open(),
            open: Box::new(open),
            model: Some(model),
        }
    }

    /// The shared queues of this host, if this process can open any.
    fn hardware() -> Option<Self> {
        let found = Discovery::read(&Roots::live()).unwrap();
        let shared: Vec<_> = found
            .usable(Kind::Dsa)
            .filter(|queue| queue.mode == Some(idxd::Mode::Shared))
            .cloned()
            .collect();
        let open = move || -> Vec<_> {
            let opened = shared.iter().map(Queue::open);
            opened.filter_map(Result::ok).collect()
        };
        let queues = open();
        (!queues.is_empty()).then(|| Self {
            queues,
            open: Box::new(open),
            model: None,
        })
    }

    /// With and without an engine, on every queue: a task of these pages comes back right.
    fn answers_are_right(&self, pages: &Pages) {
        let engine = CompletionEngine::new();
        for queue in &self.queues {
            let task = fly(queue, pages.task(), LONG).wait().unwrap();
            assert_eq!(answers(&task), pages.answers(), "{queue:?}");
            assert!(engine.start().unwrap());
            let task = engine.hand_over(fly(queue, pages.task(), LONG));
            assert_eq!(answers(&task.wait().unwrap()), pages.answers(), "{queue:?}");
            assert!(engine.stop());
        }
    }
}

/// A test of each case on the model, and all of them together on what this host has.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod on_the_model {
            $(
                #[test]
                fn $case() {
                    super::$case(&super::Place::model());
                }
            )*
        }

        #[test]
        fn on_hardware() {
            let Some(place) = Place::hardware() else {
                println!("skipped: no DSA work queue that this process may use");
                return;
            };
            $(
                println!("{}", stringify!($case));
                $case(&place);
            )*
        }
    };
}

cases![
    multiple_engines,
    batch,
    various_buffer_sizes,
    null_buffer,
    zero_length,
    oversized_batch,
    zero_count,
    single_zero,
    single_nonzero,
    null_task,
    page_fault,
    double_start_stop,
    is_running,
    configure_twice,
    configure_bad_path,
    cleanup_before_configure,
    number_of_devices,
    cleanup_twice,
];

fn multiple_engines(place: &Place) {
    let pages = Pages::new(64, PAGE, |page| page % 5 == 1);
    let engine = CompletionEngine::new();
    engine.start().unwrap();
    let tickets: Vec<_> = (0..32)
        .map(|round| {
            let queue = &place.queues[round % place.queues.len()];
            engine.hand_over(fly(queue, pages.task(), LONG))
        })
        .collect();
    for ticket in tickets {
        assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
    }
    if let Some(model) = &place.model {
        assert_eq!(
            [0, 1].map(|device| model.counts(device).descriptors),
            [16 * 64; 2]
        );
    }
}

fn batch(place: &Place) {
    place.answers_are_right(&Pages::new(128, PAGE, |page| page % 2 == 1));
    place.answers_are_right(&Pages::new(128, PAGE, |_| false));
    place.answers_are_right(&Pages::new(128, PAGE, |_| true));
    if let Some(model) = &place.model {
        let counts = model.counts(0);
        assert_eq!((counts.batches, counts.largest_batch), (6, 128));
    }
}

fn various_buffer_sizes(place: &Place) {
    for shift in 4..=16 {
        place.answers_are_right(&Pages::new(16, 1 << shift, |page| page % 3 == 0));
    }
}

/// There is no source at address 0, so that there is no descriptor of it.
fn null_buffer(_: &Place) {
    let error = Source::of_vec(Vec::new()).unwrap_err();
    assert_eq!(error.size, 0);
    // SAFETY: it is refused, being empty.
    let empty = unsafe { Source::new(NonNull::dangling(), 0, Arc::new(())) };
    assert_eq!(empty.unwrap_err().size, 0);
    // SAFETY: it is refused, since it wraps around.
    let wrapping = unsafe { Source::new(NonNull::dangling(), usize::MAX, Arc::new(())) };
    assert_eq!(wrapping.unwrap_err().size, usize::MAX);
}

fn zero_length(place: &Place) {
    let pages = Pages::new(1, PAGE, |_| false);
    let mut task = Task::with_capacity(Kind::Dsa, 2).unwrap();
    let refused = TaskError::Outside {
        offset: 0,
        len: 0,
        size: u64::from(PAGE),
    };
    assert_eq!(task.push_compval(&pages.source, 0, 0, 0), Err(refused));
    assert_eq!(task.len(), 0);
    // It is as good as new.
    task.push_compval(&pages.source, 0, PAGE, 0).unwrap();
    let task = fly(&place.queues[0], task, LONG).wait().unwrap();
    assert_eq!(answers(&task), pages.answers());
}

/// QEMU refuses 129; here a queue gets what it allows, as often as it takes.
fn oversized_batch(place: &Place) {
    let max_batch = place.queues[0].limits().max_batch.max(2);
    for count in [129, max_batch as usize + 1, 3 * max_batch as usize + 1] {
        let pages = Pages::new(count, 512, |page| page % 7 == 0);
        place.answers_are_right(&pages);
    }
    if let Some(model) = &place.model {
        assert_eq!(model.counts(0).largest_batch, 128);
        assert_eq!(model.counts(0).batches, 2 * (2 + 2 + 4));
    }
}

fn zero_count(place: &Place) {
    let engine = CompletionEngine::new();
    for started in [false, true] {
        assert!(!started || engine.start().unwrap());
        let empty = Task::with_capacity(Kind::Dsa, 1).unwrap();
        let flight = fly(&place.queues[0], empty, LONG);
        assert_eq!(flight.sent(), 0);
        let task = engine.hand_over(flight).wait().unwrap();
        assert_eq!((task.len(), task.sent()), (0, 0));
    }
    if let Some(model) = &place.model {
        assert_eq!(model.counts(0).taken, 0);
    }
}

fn single_zero(place: &Place) {
    place.answers_are_right(&Pages::new(1, PAGE, |_| false));
    if let Some(model) = &place.model {
        // A batch of one is an error.
        assert_eq!(
            (model.counts(0).batches, model.counts(0).descriptors),
            (0, 2)
        );
    }
}

fn single_nonzero(place: &Place) {
    place.answers_are_right(&Pages::new(1, PAGE, |_| true));
}

fn null_task(_: &Place) {
    let error = Task::with_capacity(Kind::Dsa, 0).unwrap_err();
    assert_eq!(error, TaskError::Capacity { capacity: 0 });
}

/// Unmaps a mapping when nobody keeps it any more.
struct Mapping(NonNull<u8>, usize);

// SAFETY: it is an address, which any thread may unmap.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `untouched`, and nobody keeps it any more.
        unsafe { munmap(self.0.as_ptr().cast(), self.1) }.unwrap();
    }
}

/// Fresh memory of so many pages, of which the first `touched` were written to.
fn untouched(pages: usize, touched: usize) -> Source {
    let size = pages * page_size();
    // SAFETY: a new mapping at an address that the kernel chooses.
    let base = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .unwrap();
    let base = NonNull::new(base.cast::<u8>()).unwrap();
    for page in 0..touched {
        // SAFETY: inside the mapping.
        let place = unsafe { base.byte_add(page * page_size()) };
        // SAFETY: as above.
        unsafe { place.write_volatile(0) };
    }
    // SAFETY: mapped until the last keep goes, and nobody writes to it.
    unsafe { Source::new(base, size, Arc::new(Mapping(base, size))) }.unwrap()
}

/// A fault is told with how far the device got; it is the caller who goes on from there.
fn page_fault(place: &Place) {
    let page = page_size();
    let size = u32::try_from(4 * page).unwrap();
    for (touched, completed) in [(0, 0), (1, page), (3, 3 * page)] {
        let source = untouched(4, touched);
        let honest = Pages::new(1, PAGE, |_| true);
        let mut task = Task::with_capacity(Kind::Dsa, 2).unwrap();
        task.push_compval(&source, 0, size, 0).unwrap();
        task.push_compval(&honest.source, 0, PAGE, 0).unwrap();
        let task = fly(&place.queues[0], task, LONG).wait().unwrap();
        let said = task.completion(0);
        // The other member is none the worse for it.
        assert_eq!(answers(&task)[1], Some(true));
        if place.model.is_none() && said.status == Status::SUCCESS {
            // The kernel may have brought a large page.
            assert_eq!(said.result, 0);
            continue;
        }
        assert!(said.status.is_page_fault(), "{said:?}");
        if place.model.is_some() {
            assert_eq!(said.completed as usize, completed);
            assert_eq!(said.fault_addr, source.address() + completed as u64);
            let batch: Vec<_> = task.batch_completions().map(|said| said.status).collect();
            assert_eq!(batch, [Status::BATCH_FAIL]);
        }
    }
}

fn double_start_stop(place: &Place) {
    let engine = CompletionEngine::new();
    let pages = Pages::new(20, PAGE, |page| page == 3);
    for _ in 0..3 {
        assert!(engine.start().unwrap());
        assert!(!engine.start().unwrap());
        let task = engine.hand_over(fly(&place.queues[0], pages.task(), LONG));
        assert_eq!(answers(&task.wait().unwrap()), pages.answers());
        assert!(engine.stop());
        assert!(!engine.stop());
    }
}

fn is_running(_: &Place) {
    let engine = CompletionEngine::new();
    assert!(!engine.is_running());
    engine.start().unwrap();
    assert!(engine.is_running());
    engine.stop();
    assert!(!engine.is_running());
    engine.start().unwrap();
    assert!(engine.is_running());
}

/// Opening is no global state: whoever opens again has another queue, and the first works on.
fn configure_twice(place: &Place) {
    let pages = Pages::new(20, PAGE, |page| page == 3);
    let again = (place.open)();
    assert_eq!(again.len(), place.queues.len());
    for queue in again.iter().chain(&place.queues) {
        let task = fly(queue, pages.task(), LONG).wait().unwrap();
        assert_eq!(answers(&task), pages.answers());
    }
}

fn configure_bad_path(_: &Place) {
    let bad: AccelPaths = "dsa:/dev/dsa/wq4094.4094".parse().unwrap();
    let error = bad.resolve(&Roots::live()).unwrap_err().to_string();
    assert!(error.contains("dsa:/dev/dsa/wq4094.4094"), "{error}");
    "/dev/dsa/wq0.0".parse::<AccelPaths>().unwrap_err();
}

fn cleanup_before_configure(_: &Place) {
    let engine = CompletionEngine::new();
    assert!(!engine.stop());
    drop(engine);
    drop(Model::start(Vec::new()).unwrap());
}

fn number_of_devices(place: &Place) {
    let names = |queues: &[Arc<Queue>]| -> Vec<_> {
        queues.iter().map(|queue| queue.name().to_owned()).collect()
    };
    assert_eq!(names(&(place.open)()), names(&place.queues));
    if place.model.is_some() {
        assert_eq!(names(&place.queues), ["first", "second"]);
    }
}

/// What is closed and opened again, any number of times, leaves nothing open.
fn cleanup_twice(place: &Place) {
    let pages = Pages::new(4, PAGE, |page| page == 3);
    for _ in 0..2 {
        let queues = (place.open)();
        for queue in &queues {
            let task = fly(queue, pages.task(), LONG).wait().unwrap();
            assert_eq!(answers(&task), pages.answers());
        }
        let second: Vec<_> = queues.iter().map(Arc::clone).collect();
        drop(queues);
        assert_eq!(second.iter().map(Arc::strong_count).max(), Some(1));
    }
    if place.model.is_none() {
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| {
            let target = fs::read_link(fd.ok()?.path()).ok()?;
            target.starts_with("/dev/dsa").then_some(target)
        });
        assert!(open.count() <= place.queues.len());
    }
}
