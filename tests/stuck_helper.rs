// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A helper that the kernel really holds: it faults on memory whose faults are answered by somebody else
//! (userfaultfd(2)), who takes his time, as the memory server of a VM in post-copy migration may.
//!
//! ```text
//!  helper   registers its piece ─► populates it ─► held in handle_userfault ····················► goes on
//!  caller   does the rest ─► waits ─► finds it, twice ─► tells pager ─┐                      │
//!  pager    waits ────────────────────────────────────────────────────┴─► answers all faults ─┘
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;
mod steered;

use std::{
    fs,
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use machine::skip;
use parapin::{Iova, Mapping, Pages, Pinner, Populate, Region, Regions, Stuck};
use steered::{Gate, Meeting, Piece, Steered, no_helpers};
use uffd::Userfaults;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// After so long a helper counts as stuck.
const AFTER: Duration = Duration::from_millis(200);

/// What the callback was told.
#[derive(Debug, Clone)]
struct Seen {
    worker: usize,
    name: String,
    at: Option<(u64, u64)>,
    time: Duration,
    state: Option<char>,
    wchan: Option<String>,
    note: String,
}

impl Seen {
    fn new(stuck: &Stuck<'_>) -> Self {
        let name = fs::read_to_string(format!("/proc/self/task/{}/comm", stuck.thread));
        Self {
            worker: stuck.worker,
            name: name.unwrap_or_default().trim().to_owned(),
            at: stuck.at,
            time: stuck.time,
            state: stuck.state,
            wchan: stuck.wchan.map(str::to_owned),
            note: stuck.to_string(),
        }
    }

    fn is_held(&self) -> bool {
        let wchan = self.wchan.as_deref();
        wchan.is_some_and(|wchan| wchan.contains("userfault"))
    }
}

/// Whether the kernel says where a thread sleeps (`CONFIG_KALLSYMS`); of one that runs it says 0.
fn has_wchan() -> bool {
    fs::read_to_string("/proc/self/wchan").is_ok_and(|wchan| !wchan.is_empty())
}

#[test]
fn a_helper_that_waits_for_an_answer_to_a_fault_is_found_and_finishes_with_it() {
    let faults = match Userfaults::open() {
        Ok(faults) => Arc::new(faults),
        Err(error) => return skip(&format!("faults of the kernel cannot be taken: {error}")),
    };
    if no_helpers() {
        return;
    }
    if !has_wchan() {
        return skip("the kernel does not say where a thread sleeps");
    }
    let mapping = Arc::new(Mapping::anonymous(SIZE, Pages::Small).unwrap());
    let region = Region::of_mapping(Arc::clone(&mapping), Iova(0)).unwrap();
    let regions = Regions::new([region]).unwrap();

    let held = Arc::new(OnceLock::new());
    let target = held_by(&faults, &held);
    let (seen, answer) = (Mutex::new(Vec::<Seen>::new()), Gate::default());
    let populated = thread::scope(|scope| {
        let pager = scope.spawn(|| {
            let told = answer.wait();
            // In any case, so that the job ends.
            if let Some(&(start, size)) = held.get() {
                faults.answer_with_zeros(start, size);
            }
            told
        });
        let populated = Pinner::new()
            .threads(NonZeroUsize::new(2).unwrap())
            .min_chunk(MIB)
            .max_chunk(8 * MIB)
            .stuck(AFTER, |stuck: &Stuck<'_>| {
                let mut seen = seen.lock().unwrap();
                seen.push(Seen::new(stuck));
                if seen.iter().filter(|seen| seen.is_held()).count() == 2 {
                    answer.open();
                }
            })
            .pin(&target, &regions);
        answer.open();
        (populated.unwrap(), pager.join().unwrap())
    });
    let (populated, told) = populated;
    let seen = seen.into_inner().unwrap();
    assert!(told, "the callback was told in time: {seen:?}");

    assert_told(&seen, *held.get().unwrap());
    let report = populated.report();
    let notes: Vec<_> = seen.iter().map(|one| one.note.clone()).collect();
    assert_eq!(report.notes, notes);
    assert_eq!(report.job.bytes, SIZE);
    assert!(report.job.workers[1].bytes > 0, "{report:?}");
    assert!(report.job.time >= 2 * AFTER);
    let resident = regions.survey().unwrap().found()[0].resident;
    assert_eq!(resident, SIZE, "the pages that were answered included");
}

/// A target whose helper finds faults on its first piece, and on nothing else, held up: the caller has to be free to
/// look. The piece is then known.
fn held_by(faults: &Arc<Userfaults>, held: &Arc<OnceLock<(u64, u64)>>) -> Steered<Populate> {
    let (faults, held, meeting) = (Arc::clone(faults), Arc::clone(held), Meeting::default());
    Steered::new(Populate::default(), move |piece: Piece| {
        if piece.worker == 1 && held.get().is_none() {
            faults.register(piece.start, piece.size);
            held.set((piece.start, piece.size)).unwrap();
        }
        meeting.come(piece.worker);
    })
}

/// Twice, of the one helper that is held at this piece, with what it sleeps in.
fn assert_told(seen: &[Seen], held: (u64, u64)) {
    for one in seen {
        assert_eq!((one.worker, one.name.as_str()), (1, "parapin-1"), "{one:?}");
        assert_eq!(one.at, Some(held), "{one:?}");
        assert!(one.time >= AFTER, "{one:?}");
    }
    let found: Vec<_> = seen.iter().filter(|one| one.is_held()).collect();
    let [first, second, ..] = found[..] else {
        panic!("twice: {seen:?}");
    };
    assert!(second.time - first.time >= AFTER, "{seen:?}");
    for one in [first, second] {
        // It sleeps so that only a signal that kills can wake it.
        assert_eq!(one.state, Some('D'), "{one:?}");
        let says = ": state D, in the kernel's handle_userfault";
        assert!(one.note.ends_with(says), "{one:?}");
    }
}

/// Just as much of userfaultfd as is needed. (The crate of that name is built with libclang, which few machines have.)
mod uffd {
    #![expect(unsafe_code, reason = "system calls for which there is no crate")]

    use std::{
        fs::OpenOptions,
        io,
        os::fd::{AsRawFd, FromRawFd, OwnedFd},
    };

    use nix::libc;

    /// `uffdio_api`
    #[repr(C)]
    pub(super) struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }

    /// `uffdio_register` and `uffdio_zeropage`, which are alike: the last field is the answer.
    #[repr(C)]
    pub(super) struct Range {
        start: u64,
        size: u64,
        mode: u64,
        answer: u64,
    }

    const UFFD: u8 = 0xaa;
    const MISSING: u64 = 1;

    mod ioctls {
        use super::{Api, Range, UFFD};

        nix::ioctl_write_int_bad!(new, nix::request_code_none!(UFFD, 0x00));
        nix::ioctl_readwrite!(api, UFFD, 0x3f, Api);
        nix::ioctl_readwrite!(register, UFFD, 0x00, Range);
        nix::ioctl_readwrite!(zeropage, UFFD, 0x04, Range);
    }

    /// Faults of this process on what is registered wait, also those of the kernel, until they are answered here or
    /// this is dropped.
    #[derive(Debug)]
    pub(super) struct Userfaults(OwnedFd);

    impl Userfaults {
        /// Fails where the kernel has none, or this process may not hold up the kernel.
        pub(super) fn open() -> io::Result<Self> {
            // Where it is missing (before Linux 6.1) the system call needs CAP_SYS_PTRACE for the same.
            let raw = match OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/userfaultfd")
            {
                // SAFETY: takes flags and makes a descriptor.
                Ok(device) => unsafe { ioctls::new(device.as_raw_fd(), libc::O_CLOEXEC) }?,
                // SAFETY: as above.
                Err(_) => match unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } {
                    -1 => return Err(io::Error::last_os_error()),
                    raw => i32::try_from(raw).map_err(io::Error::other)?,
                },
            };
            // SAFETY: it was just made, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            let mut api = Api {
                api: UFFD.into(),
                features: 0,
                ioctls: 0,
            };
            // SAFETY: `api` is what this call reads and writes.
            unsafe { ioctls::api(fd.as_raw_fd(), &raw mut api) }?;
            Ok(Self(fd))
        }

        /// From now on whoever touches missing pages in the range waits.
        pub(super) fn register(&self, start: u64, size: u64) {
            let mut range = Range {
                start,
                size,
                mode: MISSING,
                answer: 0,
            };
            // SAFETY: `range` is what this call reads and writes. It changes when pages come, not what is in them.
            unsafe { ioctls::register(self.0.as_raw_fd(), &raw mut range) }.unwrap();
        }

        /// Makes all pages of the range, which are missing, and wakes whoever waits for them.
        pub(super) fn answer_with_zeros(&self, start: u64, size: u64) {
            let mut range = Range {
                start,
                size,
                mode: 0,
                answer: 0,
            };
            // SAFETY: `range` is what this call reads and writes. Missing pages of anonymous memory read as zero
            // anyway.
            unsafe { ioctls::zeropage(self.0.as_raw_fd(), &raw mut range) }.unwrap();
            assert_eq!(range.answer, size);
        }
    }
}
