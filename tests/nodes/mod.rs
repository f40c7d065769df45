// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory whose pages can be counted by node, policies for it, and the CPUs of a thread.
//!
//! ```text
//!  guard │ memory: one mapping, never merged with a neighbour │ guard
//!          └─ one line of /proc/self/numa_maps: its policy, and how many pages it has on which node
//! ```
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    ptr::NonNull,
    sync::Arc,
    thread,
};

use cgroup::CpuSet;
use nix::{
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap},
    },
    unistd::ftruncate,
};
use parapin::{Iova, Region};

const PAGE: u64 = 4096;
/// On both sides of a mapping; and what its address is a multiple of.
const GUARD: usize = 2 << 20;
/// Nodes that there may be, as a mask of one word.
const NODES: libc::c_ulong = 64;

/// What memory consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Small,
    Transparent,
    Memfd,
    Hugetlb,
}

impl Kind {
    /// Bytes of what `numa_maps` counts as one page: for transparent huge pages, what they consist of.
    pub(crate) fn counted(self) -> u64 {
        match self {
            Self::Hugetlb => 2 << 20,
            Self::Small | Self::Transparent | Self::Memfd => PAGE,
        }
    }

    /// Bytes that come from one node together.
    pub(crate) fn whole(self) -> u64 {
        match self {
            Self::Hugetlb | Self::Transparent => 2 << 20,
            Self::Small | Self::Memfd => PAGE,
        }
    }
}

/// A memory policy, as set_mempolicy(2) and mbind(2) take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Default,
    Local,
    Bind(u32),
    /// Whatever a cpuset does: MPOL_F_STATIC_NODES.
    BindStatic(u32),
    Prefer(u32),
    PreferMany(u32),
    /// Over nodes 0 and 1.
    Interleave,
    /// The same, by weights, which are all 1 unless somebody has changed them.
    Weighted,
}

impl Policy {
    fn mode(self) -> libc::c_int {
        match self {
            Self::Default => libc::MPOL_DEFAULT,
            Self::Local => libc::MPOL_LOCAL,
            Self::Bind(_) => libc::MPOL_BIND,
            Self::BindStatic(_) => libc::MPOL_BIND | libc::MPOL_F_STATIC_NODES,
            Self::Prefer(_) => libc::MPOL_PREFERRED,
            Self::Interleave => libc::MPOL_INTERLEAVE,
            // From include/uapi/linux/mempolicy.h; `libc` does not have them.
            Self::PreferMany(_) => 5,
            Self::Weighted => 6,
        }
    }

    fn mask(self) -> libc::c_ulong {
        match self {
            Self::Default | Self::Local => 0,
            Self::Bind(node)
            | Self::BindStatic(node)
            | Self::Prefer(node)
            | Self::PreferMany(node) => 1 << node,
            Self::Interleave | Self::Weighted => 0b11,
        }
    }

    /// As `numa_maps` shows it.
    fn shown(self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Local => "local".to_owned(),
            Self::Bind(node) => format!("bind:{node}"),
            Self::BindStatic(node) => format!("bind=static:{node}"),
            Self::Prefer(node) => format!("prefer:{node}"),
            Self::PreferMany(node) => format!("prefer (many):{node}"),
            Self::Interleave => "interleave:0-1".to_owned(),
            Self::Weighted => "weighted interleave:0-1".to_owned(),
        }
    }

    /// Makes it the calling thread's.
    pub(crate) fn of_thread(self) {
        let mask = self.mask();
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: the kernel reads one word from a word, and changes nothing but where next pages come from.
        let answer =
            unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode(), &raw const mask, NODES) };
        assert_eq!(answer, 0, "{self:?}: {}", std::io::Error::last_os_error());
    }

    /// Whether it is the calling thread's: get_mempolicy(2).
    pub(crate) fn is_the_threads(self) -> bool {
        let (mut mode, mut mask): (libc::c_int, [libc::c_ulong; 16]) = (-1, [0; 16]);
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: the kernel writes a number, and as many bits as it is told that there is room for.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut mode,
                mask.as_mut_ptr(),
                libc::c_ulong::BITS * 16,
                0,
                0,
            )
        };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
        (mode, mask[0]) == (self.mode(), self.mask())
    }
}

/// A mapping between two guards; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Memory {
    reserved: NonNull<u8>,
    start: NonNull<u8>,
    size: u64,
    kind: Kind,
}

// SAFETY: a mapping belongs to the process, and this never reads or writes it.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Send for Memory {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(kind: Kind, size: u64) -> Arc<Self> {
        let length = NonZeroUsize::new(usize::try_from(size).unwrap()).unwrap();
        // One more than the guards, so that the memory can begin at a huge page.
        let whole = length.checked_add(3 * GUARD).unwrap();
        let nothing = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        #[expect(unsafe_code, reason = "room for a mapping")]
        // SAFETY: a new mapping at an address of the kernel's choice.
        let reserved = unsafe { mmap_anonymous(None, whole, ProtFlags::PROT_NONE, nothing) };
        let reserved: NonNull<u8> = reserved.unwrap().cast();
        let first = reserved.addr().get() + GUARD;
        let front = first.next_multiple_of(GUARD) - reserved.addr().get();
        #[expect(unsafe_code, reason = "an address inside")]
        // SAFETY: less than two guards behind the start of what is longer.
        let start = unsafe { reserved.add(front) };
        let at = Some(start.addr());
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let file = (kind == Kind::Memfd).then(|| file(size));
        let flags = MapFlags::MAP_FIXED
            | match kind {
                Kind::Small | Kind::Transparent => MapFlags::MAP_PRIVATE,
                Kind::Memfd => MapFlags::MAP_SHARED,
                Kind::Hugetlb => {
                    MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB
                }
            };
        #[expect(unsafe_code, reason = "the mapping itself")]
        // SAFETY: it replaces a part of what was reserved above, of which nobody knows.
        let of_file = |file| unsafe { mmap(at, length, access, flags, file, 0) };
        #[expect(unsafe_code, reason = "the mapping itself")]
        // SAFETY: as above.
        let anonymous = || unsafe { mmap_anonymous(at, length, access, flags) };
        let mapped = file.map_or_else(anonymous, of_file);
        assert_eq!(mapped.unwrap().cast(), start);
        let memory = Self {
            reserved,
            start,
            size,
            kind,
        };
        match kind {
            Kind::Small => memory.advise(MmapAdvise::MADV_NOHUGEPAGE),
            Kind::Transparent => memory.advise(MmapAdvise::MADV_HUGEPAGE),
            Kind::Memfd | Kind::Hugetlb => {}
        }
        Arc::new(memory)
    }

    fn advise(&self, advice: MmapAdvise) {
        #[expect(unsafe_code, reason = "a hint")]
        // SAFETY: a hint about memory that belongs to this value.
        unsafe { madvise(self.start.cast(), self.length(), advice) }.unwrap();
    }

    fn length(&self) -> usize {
        usize::try_from(self.size).unwrap()
    }

    /// A region that keeps it mapped.
    pub(crate) fn region(self: &Arc<Self>, iova: u64) -> Region {
        #[expect(unsafe_code, reason = "the promise about this mapping")]
        // SAFETY: it is mapped until its last owner is gone, of whom the region is one; only numbers are known of it, no
        // reference; and nothing is kept in it.
        let region = unsafe { Region::new(Iova(iova), self.start.as_ptr(), self.size) }.unwrap();
        region.owned_by(Arc::clone(self))
    }

    /// Takes all access from the page at `offset`, so that the kernel cannot pin it. Only for targets that touch nothing
    /// from user mode, to which a region promises that it may be read and written.
    pub(crate) fn forbid(&self, offset: u64) {
        #[expect(unsafe_code, reason = "an address inside")]
        // SAFETY: inside, as the length of the mapping shows below.
        let page = unsafe { self.start.add(usize::try_from(offset).unwrap()) };
        assert!(offset + PAGE <= self.size);
        #[expect(unsafe_code, reason = "a hole")]
        // SAFETY: nobody reads or writes this memory but the kernel, which fails.
        unsafe { mprotect(page.cast(), 4096, ProtFlags::PROT_NONE) }.unwrap();
    }

    /// Gives it a policy: mbind(2).
    pub(crate) fn bind(&self, policy: Policy) {
        self.bind_part(0, self.size, policy);
        if policy != Policy::Default {
            let line = self.line();
            let (_, shown) = line.split_once(' ').unwrap();
            assert!(shown.starts_with(&policy.shown()), "{policy:?}: {line}");
        }
    }

    /// Gives a part of it a policy; the rest of it is another mapping then.
    pub(crate) fn bind_part(&self, offset: u64, size: u64, policy: Policy) {
        assert!(offset + size <= self.size);
        let mask = policy.mask();
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: the kernel reads one word from a word, and changes nothing but where next pages come from.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.address() + offset,
                size,
                policy.mode(),
                &raw const mask,
                NODES,
                0,
            )
        };
        assert_eq!(answer, 0, "{policy:?}: {}", std::io::Error::last_os_error());
    }

    /// Its line in `numa_maps`.
    fn line(&self) -> String {
        let maps = fs::read_to_string("/proc/self/numa_maps").unwrap();
        let address = format!("{:08x} ", self.start.addr());
        let mut lines = maps.lines().filter(|line| line.starts_with(&address));
        let line = lines.next();
        line.unwrap_or_else(|| panic!("no {address}: {maps}"))
            .to_owned()
    }

    /// How many of its pages are on nodes 0 and 1: all of them, of the size that it was made of.
    pub(crate) fn pages(&self) -> [u64; 2] {
        let line = self.line();
        let value = |key: &str| {
            let mut words = line.split(' ').filter_map(|word| word.split_once('='));
            let found = words.find(|(name, _)| *name == key);
            found.map_or(0, |(_, value)| value.parse::<u64>().unwrap())
        };
        let pages = [value("N0"), value("N1")];
        let all = self.size / self.kind.counted();
        assert_eq!(pages[0] + pages[1], all, "{line}");
        assert_eq!(value("kernelpagesize_kB"), self.kind.counted() / 1024);
        pages
    }

    /// The node of what begins at each multiple of [`Kind::whole`]: move_pages(2), which also only asks.
    pub(crate) fn nodes(&self) -> Vec<u32> {
        let whole = usize::try_from(self.kind.whole()).unwrap();
        let addresses: Vec<_> = (0..self.length())
            .step_by(whole)
            .map(|offset| self.start.as_ptr().wrapping_add(offset))
            .collect();
        let mut nodes: Vec<libc::c_int> = vec![-1; addresses.len()];
        #[expect(unsafe_code, reason = "no crate wraps it")]
        // SAFETY: the kernel reads as many addresses, which need not even be valid, and writes as many numbers.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                addresses.len(),
                addresses.as_ptr(),
                0,
                nodes.as_mut_ptr(),
                0,
            )
        };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
        let node = |node: libc::c_int| u32::try_from(node).expect("every page is there");
        nodes.into_iter().map(node).collect()
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the end of the mapping")]
        // SAFETY: it and its guards belong to this value, and nobody uses it any more.
        let unmapped = unsafe { munmap(self.reserved.cast(), self.length() + 3 * GUARD) };
        unmapped.unwrap();
    }
}

fn file(size: u64) -> File {
    let file = memfd_create(c"parapin-test", MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&file, i64::try_from(size).unwrap()).unwrap();
    File::from(file)
}

/// The CPUs near a node.
pub(crate) fn cpus_of(node: u32) -> CpuSet {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
    list.unwrap().trim().parse().unwrap()
}

/// The node that a CPU is near.
pub(crate) fn node_of(cpu: usize) -> u32 {
    let mut nodes = (0..2).filter(|&node| cpus_of(node).contains(cpu));
    nodes.next().unwrap()
}

/// The CPUs that the calling thread may use.
pub(crate) fn mask() -> CpuSet {
    let mask = rustix::thread::sched_getaffinity(None).unwrap();
    let cpus = 0..rustix::thread::CpuSet::MAX_CPU;
    cpus.filter(|&cpu| mask.is_set(cpu)).collect()
}

/// Has the calling thread use these CPUs only.
pub(crate) fn run_on(cpus: &CpuSet) {
    let mut mask = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|cpu| mask.set(cpu));
    rustix::thread::sched_setaffinity(None, &mask).unwrap();
}

/// Runs `test` on a thread whose CPUs and policy end with it.
pub(crate) fn on_a_thread<R: Send>(test: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        scope
            .spawn(test)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What helpers may use, by what `/proc` says of each.
pub(crate) fn masks_of_helpers() -> Vec<CpuSet> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    // A thread may end while they are read.
    let mut masks = Vec::new();
    for status in statuses.filter_map(Result::ok) {
        let field = |key| crate::machine::field(&status, key);
        if field("Name:").unwrap().starts_with("parapin-") {
            masks.push(field("Cpus_allowed_list:").unwrap().parse().unwrap());
        }
    }
    masks
}

/// Whether all of `inner` is in `outer`.
pub(crate) fn is_within(inner: &CpuSet, outer: &CpuSet) -> bool {
    inner.iter().all(|cpu| outer.contains(cpu))
}
