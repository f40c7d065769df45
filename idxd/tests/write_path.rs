// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From sysfs to the completion record without a device: a queue is found on a made-up tree, its node is a pipe, which cannot be
//! mapped, and who reads the pipe is the device.
//!
//! ```text
//!  tree/sys/… ─► Discovery ─► Queue::open(tree/dev/dsa/wq0.0) ─ write ─► pipe ─► 64 bytes each ─► execute ─► records
//! ```

#![expect(unsafe_code, reason = "plays a device: reads and writes by address")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "stage/fly.rs"]
mod fly;
#[path = "stage/pages.rs"]
mod pages;
#[path = "stage/records.rs"]
mod records;

use std::{
    fs::{self, File},
    io::Read as _,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use fly::{LONG, fly};
use idxd::{
    CompletionEngine, Descriptor, Discovery, Flags, Flight, Kind, Node, Nodes, OpenError,
    PortError, Queue, Roots, SubmitError, WorkQueue,
};
use pages::{Pages, answers};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat},
    pipe::fcntl_setpipe_size,
};

const PAGE: u32 = 4096;

/// A directory that stands for a machine with one device and one queue.
#[derive(Debug)]
struct Tree(PathBuf);

impl Tree {
    fn new(mode: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("parapin-write-path-{}-{number}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        let device = [
            ("state", "enabled"),
            ("numa_node", "0"),
            ("max_batch_size", "1024"),
        ];
        let queue = [
            ("state", "enabled"),
            ("type", "user"),
            ("mode", mode),
            ("size", "16"),
            ("max_batch_size", "128"),
        ];
        tree.put("dsa0", &device);
        tree.put("wq0.0", &queue);
        fs::create_dir_all(tree.node().parent().unwrap()).unwrap();
        tree
    }

    fn put(&self, directory: &str, attributes: &[(&str, &str)]) {
        let directory = self.0.join("sys/bus/dsa/devices").join(directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, value) in attributes {
            fs::write(directory.join(name), format!("{value}\n")).unwrap();
        }
    }

    fn node(&self) -> PathBuf {
        self.0.join("dev/dsa/wq0.0")
    }

    fn with_pipe(self) -> Self {
        mknodat(CWD, self.node(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        self
    }

    fn found(&self) -> WorkQueue {
        let discovery = Discovery::read_with(&Roots::at(&self.0), &AnyNode).unwrap();
        let mut usable = discovery.usable(Kind::Dsa);
        usable.next().unwrap().clone()
    }

    fn open(&self) -> Arc<Queue> {
        Queue::open(&self.found()).unwrap()
    }

    /// What this process has open of it.
    fn descriptors(&self) -> Vec<i32> {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| {
            let fd = fd.ok()?;
            let is_node = fs::read_link(fd.path()).ok()? == self.node();
            let number = fd.file_name().to_str()?.parse().ok()?;
            is_node.then_some(number)
        })
        .collect()
    }

    /// The queue's own descriptor, for a test that changes how the pipe takes what is written.
    fn duplicate(&self) -> OwnedFd {
        let open = self.descriptors();
        assert_eq!(open.len(), 1);
        // SAFETY: the queue has it open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(open[0]) };
        borrowed.try_clone_to_owned().unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Says that the pipe is the device.
#[derive(Debug)]
struct AnyNode;

impl Nodes for AnyNode {
    fn node(&self, _: &Path) -> std::io::Result<Node> {
        Ok(Node {
            is_device: true,
            number: (0, 0),
            may_open: true,
        })
    }
}

/// The device: the end of the pipe that is read.
struct Reader(File);

impl Reader {
    /// After the queue was opened: reading ends when the queue is closed.
    fn of(tree: &Tree) -> Self {
        Self(File::open(tree.node()).unwrap())
    }

    /// The next descriptor; none if the queue is closed.
    fn next(&mut self) -> Option<Descriptor> {
        let mut bytes = [0; Descriptor::SIZE];
        self.0.read_exact(&mut bytes).ok()?;
        Some(Descriptor::from_bytes(&bytes))
    }

    /// Works until the queue is closed. Returns what it was given.
    fn work(mut self) -> Vec<Descriptor> {
        let mut all = Vec::new();
        while let Some(descriptor) = self.next() {
            // SAFETY: it was submitted, and is answered once.
            unsafe { records::execute(&descriptor) };
            all.push(descriptor);
        }
        all
    }
}

#[test]
fn what_is_written_are_comparisons_of_64_bytes_each_and_no_batch() {
    let tree = Tree::new("shared").with_pipe();
    let queue = tree.open();
    let way = queue.way();
    assert!(way.starts_with("write, without batches: "), "{way}");
    assert_eq!(queue.limits().max_batch, 1);
    assert_eq!((queue.limits().size, queue.limits().node), (16, Some(0)));
    let reader = Reader::of(&tree);
    let pages = Pages::new(300, PAGE, |page| page % 3 == 0);
    let first = pages.source.address();
    let engine = CompletionEngine::new();
    let all = thread::scope(|scope| {
        let device = scope.spawn(|| reader.work());
        for start in [false, true] {
            assert!(!start || engine.start().unwrap());
            let ticket = engine.hand_over(fly(&queue, pages.task(), LONG));
            assert_eq!(answers(&ticket.wait().unwrap()), pages.answers());
        }
        drop(queue);
        device.join().unwrap()
    });
    assert_eq!(all.len(), 600);
    for (index, descriptor) in all.iter().enumerate() {
        let page = (index % 300) as u64;
        let expected = Descriptor::compval(first + page * u64::from(PAGE), PAGE, 0)
            .completing_at(descriptor.completion_addr());
        assert_eq!(*descriptor, expected);
        assert_eq!(descriptor.completion_addr() % 32, 0);
        let flags = Flags::COMPLETION_ADDRESS_VALID | Flags::REQUEST_COMPLETION_RECORD;
        assert_eq!(descriptor.flags(), flags);
    }
}

/// A pipe of one page that does not block: it takes 64 descriptors and then says EAGAIN, as the driver does when its retries
/// are used up.
#[test]
fn a_write_that_is_taken_in_part_goes_on_where_it_was_cut() {
    let tree = Tree::new("shared").with_pipe();
    let queue = tree.open();
    let node = tree.duplicate();
    let room = fcntl_setpipe_size(&node, 4096).unwrap() / Descriptor::SIZE;
    fcntl_setfl(&node, fcntl_getfl(&node).unwrap() | OFlags::NONBLOCK).unwrap();
    let mut reader = Reader::of(&tree);
    let pages = Pages::new(3 * room + 7, 64, |page| page % 3 == 0);
    let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
    let mut sent = 0;
    while !flight.submit().unwrap() {
        let taken = flight.sent() - sent;
        assert_eq!(taken, room);
        // Full: nothing is taken, and it is no error.
        assert!(!flight.submit().unwrap());
        assert_eq!(flight.sent(), sent + taken);
        for _ in 0..taken {
            let descriptor = reader.next().unwrap();
            // SAFETY: it was submitted, and is answered once.
            unsafe { records::execute(&descriptor) };
        }
        sent += taken;
    }
    assert_eq!(flight.sent(), 3 * room + 7);
    for _ in 0..7 {
        let descriptor = reader.next().unwrap();
        // SAFETY: as above.
        unsafe { records::execute(&descriptor) };
    }
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
}

#[test]
fn a_dedicated_queue_is_counted_because_write_does_not_tell_that_it_is_full() {
    let tree = Tree::new("dedicated").with_pipe();
    let queue = tree.open();
    let mut reader = Reader::of(&tree);
    let pages = Pages::new(40, 64, |page| page % 3 == 0);
    let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
    for (taken, more) in [(16, 5), (21, 16), (37, 16)] {
        assert!(!flight.submit().unwrap());
        assert_eq!(flight.sent(), taken);
        for _ in 0..more {
            let descriptor = reader.next().unwrap();
            // SAFETY: it was submitted, and is answered once.
            unsafe { records::execute(&descriptor) };
        }
    }
    assert!(flight.submit().unwrap());
    for _ in 0..3 {
        let descriptor = reader.next().unwrap();
        // SAFETY: as above.
        unsafe { records::execute(&descriptor) };
    }
    assert_eq!(answers(&flight.wait().unwrap()), pages.answers());
}

#[test]
fn a_node_that_refuses_is_an_error_and_the_task_comes_back() {
    let tree = Tree::new("shared");
    symlink("/dev/full", tree.node()).unwrap();
    let queue = tree.open();
    let pages = Pages::new(4, 64, |_| false);
    let mut flight = Flight::new(&queue, pages.task(), LONG).unwrap();
    let error = flight.submit().unwrap_err();
    let SubmitError::Port {
        queue: name,
        source: PortError::Refused { source },
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (name.as_str(), source.raw_os_error()),
        ("wq0.0", Some(libc::ENOSPC))
    );
    assert_eq!(answers(&flight.wait().unwrap()), [None; 4]);
}

#[test]
fn a_node_that_cannot_be_opened_is_an_error_that_says_what_to_do() {
    let tree = Tree::new("shared");
    let found = tree.found();
    let hint_of = |found: &WorkQueue| {
        let error = Queue::open(found).unwrap_err();
        let OpenError::Node { path, hint, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(path, tree.node());
        hint
    };
    assert!(hint_of(&found).contains("accel-config enable-wq"));
    symlink("/proc/self/nothing", tree.node()).unwrap();
    assert!(hint_of(&found).contains("accel-config enable-wq"));
    fs::remove_file(tree.node()).unwrap();
    fs::create_dir(tree.node()).unwrap();
    assert_eq!(hint_of(&found), "see docs/accelerators.md");
}

/// QEMU leaked mappings of a configuration that failed half way, or was done twice.
#[test]
fn nothing_stays_open() {
    let tree = Tree::new("shared").with_pipe();
    assert_eq!(tree.descriptors(), []);
    for _ in 0..3 {
        let queue = tree.open();
        let second = tree.open();
        assert_eq!(tree.descriptors().len(), 2);
        drop(queue);
        assert_eq!(tree.descriptors().len(), 1);
        drop(second);
        assert_eq!(tree.descriptors(), []);
    }
}

/// Closing the node is what drains a PASID: it comes first, and what was in quarantine is freed after.
#[test]
fn a_queue_closes_its_node_and_then_frees_what_timed_out() {
    let tree = Tree::new("shared").with_pipe();
    let queue = tree.open();
    let mut reader = Reader::of(&tree);
    let pages = Pages::new(4, 64, |_| false);
    let task = pages.task();
    let keep = Arc::downgrade(pages.source.keep());
    drop(pages);
    let error = fly(&queue, task, Duration::from_millis(1)).wait();
    error.unwrap_err();
    assert!(keep.strong_count() > 0);
    drop(queue);
    assert_eq!(keep.strong_count(), 0);
    // What was written is still in the pipe, and then it ends.
    let rest = std::iter::from_fn(|| reader.next()).count();
    assert_eq!(rest, 4);
}

#[test]
fn a_process_fills_a_shared_queue_to_its_threshold_and_a_dedicated_one_to_its_size() {
    for (mode, threshold, room) in [
        ("shared", "6", 6),
        ("shared", "99", 16),
        ("dedicated", "6", 16),
    ] {
        let tree = Tree::new(mode).with_pipe();
        tree.put("wq0.0", &[("threshold", threshold)]);
        assert_eq!(tree.open().limits().size, room, "{mode} {threshold}");
    }
}
