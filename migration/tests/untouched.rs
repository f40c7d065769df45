// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Untouched pages are found without being touched, only where that is sound, and never where they hold data.

#![expect(
    unsafe_code,
    reason = "userfaultfd is an ioctl, and a closure runs between fork and exec"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::c_void,
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, process::CommandExt},
    },
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
};

use migration::{
    Backed, Backing, BackingError, Mapping, PageBitmap, RamBlock, Scanned, SoftwareScanner,
};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstat, memfd_create};

const PAGE: u64 = 4096;

/// One at a time: another test's thread must not fork, or change what is mapped, meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn offsets(pages: u64) -> Vec<u64> {
    (0..pages).map(|page| page * PAGE).collect()
}

fn scan(block: &RamBlock, page_size: u64) -> (Scanned, Vec<u64>) {
    let offsets: Vec<u64> = (0..block.len() / page_size)
        .map(|page| page * page_size)
        .collect();
    let mut zero = PageBitmap::default();
    let mut scanner = SoftwareScanner::new();
    let scanned = scanner.scan(block, page_size, &offsets, &mut zero).unwrap();
    assert!(scanner.shortcut_error().is_none());
    (scanned, zero.ones().map(|index| index as u64).collect())
}

fn all_but(pages: u64, data: &[u64]) -> Vec<u64> {
    (0..pages).filter(|page| !data.contains(page)).collect()
}

/// Base pages of the block that are there.
fn resident(block: &RamBlock) -> u64 {
    entries(block)
        .iter()
        .filter(|entry| **entry >> 63 == 1)
        .count() as u64
}

fn entries(block: &RamBlock) -> Vec<u64> {
    let file = File::open("/proc/self/pagemap").unwrap();
    let first = block.source().address() / PAGE;
    let entry = |page| {
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, page * 8).unwrap();
        u64::from_ne_bytes(entry)
    };
    (first..first + block.len() / PAGE).map(entry).collect()
}

/// Bytes that the file takes.
fn allocated(memory: &Mapping) -> u64 {
    let blocks = fstat(memory.file().unwrap()).unwrap().st_blocks;
    u64::try_from(blocks).unwrap() * 512
}

fn memfd_block(memory: &Arc<Mapping>) -> RamBlock {
    let file = memory.file().unwrap();
    let block = RamBlock::with_file(memory.source().unwrap(), file).unwrap();
    assert_eq!(block.backing(), Backing::Tmpfs);
    block
}

#[test]
fn untouched_private_pages_are_found_and_stay_untouched() {
    let _alone = alone();
    for backed in [Backed::Small, Backed::Transparent] {
        let memory = Mapping::new(16 << 20, backed).unwrap();
        let block = RamBlock::detect(memory.source().unwrap()).unwrap();
        assert_eq!(block.backing(), Backing::PrivateAnonymous);
        let (scanned, zero) = scan(&block, PAGE);
        assert_eq!((scanned.untouched, scanned.read), (4096, 0));
        assert_eq!(zero.len(), 4096);
        assert_eq!(resident(&block), 0);

        memory.store(5 * PAGE + 9, 1);
        memory.store(9 * PAGE, 0);
        let there = resident(&block);
        let (scanned, zero) = scan(&block, PAGE);
        assert_eq!(zero, all_but(4096, &[5]));
        assert_eq!(
            scanned.read as u64, there,
            "{backed:?}: what is there is read, no more"
        );
        assert_eq!(resident(&block), there);

        memory.discard(5 * PAGE, 1 << 20).unwrap();
        let there = resident(&block);
        let (_, zero) = scan(&block, PAGE);
        assert_eq!((zero.len(), resident(&block)), (4096, there));
    }
}

#[test]
fn pages_of_other_sizes_are_untouched_only_as_a_whole() {
    let _alone = alone();
    let memory = Mapping::new(32 << 20, Backed::Small).unwrap();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    memory.store((3 << 20) + 5, 1);
    memory.store((9 << 20) - 1, 1);
    for (size, data) in [
        (1 << 20, vec![3, 8]),
        (2 << 20, vec![1, 4]),
        (16 << 20, vec![0]),
    ] {
        let fresh = Mapping::new(32 << 20, Backed::Small).unwrap();
        fresh.store((3 << 20) + 5, 1);
        fresh.store((9 << 20) - 1, 1);
        let block = RamBlock::detect(fresh.source().unwrap()).unwrap();
        let pages = (32 << 20) / size;
        let (scanned, zero) = scan(&block, size);
        assert_eq!(zero, all_but(pages, &data), "{size}");
        assert_eq!(scanned.untouched as u64, pages - data.len() as u64);
    }
    // Eight pages on each base page: what is on one with data is read.
    let (scanned, zero) = scan(&block, 512);
    let data = [((3 << 20) + 5) / 512, ((9 << 20) - 1) / 512];
    assert_eq!(zero, all_but((32 << 20) / 512, &data));
    assert_eq!(scanned.read, 16);
}

#[test]
fn scattered_pages_in_any_order_are_found() {
    let _alone = alone();
    let memory = Mapping::new(64 << 20, Backed::Small).unwrap();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let pages = [
        16_000, 3, 5, 4, 4, 90, 16_001, 0, 8_000, 8_030, 8_031, 16_383,
    ];
    let offsets = pages.map(|page: u64| page * PAGE);
    memory.store(4 * PAGE + 1, 1);
    memory.store(8_030 * PAGE, 0);
    let mut zero = PageBitmap::default();
    let scanned = SoftwareScanner::new()
        .scan(&block, PAGE, &offsets, &mut zero)
        .unwrap();
    assert_eq!((scanned.untouched, scanned.zero), (9, 10));
    assert!(!zero.get(3) && !zero.get(4) && zero.get(9));
    assert_eq!(resident(&block), 2);
}

#[test]
fn looking_in_vain_is_done_ever_more_rarely_and_never_gives_another_answer() {
    let _alone = alone();
    let memory = Mapping::new(400 * PAGE, Backed::Small).unwrap();
    memory.populate(0, 300 * PAGE).unwrap();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let mut scanner = SoftwareScanner::new();
    let mut zero = PageBitmap::default();
    let mut scan = |page: u64| {
        let scanned = scanner
            .scan(&block, PAGE, &[page * PAGE], &mut zero)
            .unwrap();
        assert_eq!(scanned.zero, 1);
        scanned.untouched
    };
    assert!((0..300).all(|page| scan(page) == 0));
    // After 300 batches in vain it looks at every 65th.
    let first = (300..400).position(|page| scan(page) == 1).unwrap();
    assert!((1..=64).contains(&first), "{first}");
    assert!(
        (300 + first as u64 + 1..400).all(|page| scan(page) == 1),
        "and then at all"
    );
}

#[test]
fn a_page_of_a_memfd_that_holds_data_is_data_though_it_was_never_faulted() {
    let _alone = alone();
    let memory = Mapping::new(512 * PAGE, Backed::Memfd).unwrap();
    let block = memfd_block(&memory);
    let (scanned, _) = scan(&block, PAGE);
    assert_eq!((scanned.untouched, allocated(&memory)), (512, 0));

    let mut file = memory.file().unwrap().as_ref();
    file.write_all_at(b"data", 7 * PAGE + 100).unwrap();
    file.write_all_at(&[0; 4096], 300 * PAGE).unwrap();
    file.write_all_at(b"!", 511 * PAGE + 4095).unwrap();
    assert_eq!(resident(&block), 0);
    let (scanned, zero) = scan(&block, PAGE);
    assert_eq!(zero, all_but(512, &[7, 511]));
    assert_eq!((scanned.untouched, scanned.read), (509, 3));
    assert_eq!(
        allocated(&memory),
        3 * PAGE,
        "nothing was allocated by looking"
    );

    // The file's own position is where it was.
    file.write_all(b"at 0").unwrap();
    let (_, zero) = scan(&block, PAGE);
    assert_eq!(zero, all_but(512, &[0, 7, 511]));
}

#[test]
fn holes_between_data_are_found_wherever_they_are() {
    let _alone = alone();
    let memory = Mapping::new(2048 * PAGE, Backed::Memfd).unwrap();
    let file = memory.file().unwrap();
    // Short runs, long ones whose end is kept, and single pages.
    let data: Vec<u64> = (0..40)
        .step_by(2)
        .chain(100..103)
        .chain(200..700)
        .chain(1000..1500)
        .collect();
    for page in &data {
        file.write_all_at(b"x", page * PAGE + page % 4096).unwrap();
    }
    let block = memfd_block(&memory);
    let before = allocated(&memory);
    for _ in 0..3 {
        let (scanned, zero) = scan(&block, PAGE);
        assert_eq!(zero, all_but(2048, &data));
        assert_eq!(scanned.read, data.len());
    }
    assert_eq!(allocated(&memory), before);
    // Pages of two base pages, of which one may be data: reading both allocates the other.
    let (_, zero) = scan(&block, 2 * PAGE);
    assert!(
        zero.iter()
            .all(|page| !data.contains(&(page * 2)) && !data.contains(&(page * 2 + 1)))
    );

    // What was data is a hole now, in the middle of a run whose end is known: read, perhaps, and zero.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, punch, 300 * PAGE, 10 * PAGE).unwrap();
    let left: Vec<u64> = data
        .iter()
        .copied()
        .filter(|page| !(300..310).contains(page))
        .collect();
    assert_eq!(scan(&block, PAGE).1, all_but(2048, &left));
    // And a hole is data.
    file.write_all_at(b"x", 800 * PAGE).unwrap();
    memory.store(305 * PAGE, 1);
    let left = [left, vec![800, 305]].concat();
    assert_eq!(scan(&block, PAGE).1, all_but(2048, &left));
    // Given back here, the file's data is still there.
    memory.discard(0, 2048 * PAGE).unwrap();
    assert_eq!(scan(&block, PAGE).1, all_but(2048, &left));
}

#[test]
fn reserved_pages_that_nobody_has_written_are_zero() {
    let _alone = alone();
    let memory = Mapping::new(64 << 20, Backed::Memfd).unwrap();
    let file = memory.file().unwrap();
    fallocate(file, FallocateFlags::empty(), 0, 64 << 20).unwrap();
    file.write_all_at(b"x", 5 * PAGE).unwrap();
    let (_, zero) = scan(&memfd_block(&memory), PAGE);
    assert_eq!(zero, all_but(16384, &[5]));
}

#[test]
fn memory_of_a_part_of_a_file_is_looked_up_where_it_lies() {
    let _alone = alone();
    let file = Arc::new(File::from(
        memfd_create(c"parts", MemfdFlags::CLOEXEC).unwrap(),
    ));
    file.set_len(64 * PAGE).unwrap();
    file.write_all_at(b"x", 10 * PAGE).unwrap();
    file.write_all_at(b"x", 20 * PAGE).unwrap();
    let memory = Mapping::of_file(Arc::clone(&file), 8 * PAGE, 16 * PAGE, false).unwrap();
    let whole = RamBlock::with_file(memory.source().unwrap(), &file).unwrap();
    assert_eq!(scan(&whole, PAGE).1, all_but(16, &[2, 12]));
    let odd = memory.part_source(PAGE + 100, 4 * PAGE).unwrap();
    let odd = RamBlock::with_file(odd, &file).unwrap();
    let (scanned, zero) = scan(&odd, PAGE);
    assert_eq!(
        zero,
        [1, 2, 3],
        "page 0 is bytes 100 on from 1 to 2, where the data is"
    );
    assert_eq!(scanned.untouched, 2);

    // In pieces that do not follow each other.
    memory.remap(8 * PAGE, 4 * PAGE, 0).unwrap();
    let source = memory.source().unwrap();
    let error = RamBlock::with_file(source, &file).unwrap_err();
    assert!(
        matches!(error, BackingError::OutOfOrder { offset: 0, .. }),
        "{error}"
    );
    let stale = whole.clone();
    assert!(stale.recheck().is_err());
    assert_eq!(stale.backing(), Backing::Unknown);
    // It is the same block.
    assert_eq!(whole.backing(), Backing::Unknown);
    // Behind its end.
    file.set_len(20 * PAGE).unwrap();
    let memory = Mapping::of_file(Arc::clone(&file), 8 * PAGE, 16 * PAGE, false).unwrap();
    let error = RamBlock::with_file(memory.source().unwrap(), &file).unwrap_err();
    let short = "the file has 0x14000 bytes, and the block needs 0x18000";
    assert_eq!(error.to_string(), short);
}

#[test]
fn what_is_no_private_anonymous_memory_and_no_tmpfs_is_refused() {
    let _alone = alone();
    let memfd = Mapping::new(8 * PAGE, Backed::Memfd).unwrap();
    let other = Mapping::new(8 * PAGE, Backed::Memfd).unwrap();
    let anonymous = Mapping::new(8 * PAGE, Backed::Small).unwrap();
    let detect = |memory: &Arc<Mapping>| RamBlock::detect(memory.source().unwrap());
    let with = |memory: &Arc<Mapping>, file: &File| {
        RamBlock::with_file(memory.source().unwrap(), file).unwrap_err()
    };
    let not = |error: BackingError| matches!(error, BackingError::NotAnonymous { .. });
    assert!(not(detect(&memfd).unwrap_err()));
    let of = |memory: &Arc<Mapping>| memory.file().unwrap().as_ref().try_clone().unwrap();
    let is_other = |error: BackingError| matches!(error, BackingError::OtherFile { .. });
    assert!(is_other(with(&memfd, &of(&other))));
    assert!(is_other(with(&anonymous, &of(&other))));

    // A private mapping of a file: its untouched pages are the file's data.
    let private = Mapping::of_file(Arc::new(of(&memfd)), 0, 8 * PAGE, true).unwrap();
    memfd.store(3 * PAGE, 1);
    assert!(not(detect(&private).unwrap_err()));
    assert!(is_other(with(&private, &of(&memfd))));
    let (scanned, zero) = scan(&RamBlock::new(private.source().unwrap()), PAGE);
    assert_eq!((scanned.untouched, zero), (0, all_but(8, &[3])));

    let me = Arc::new(File::open("/proc/self/exe").unwrap());
    let program = Mapping::of_file(Arc::clone(&me), 0, 8 * PAGE, true).unwrap();
    assert!(not(detect(&program).unwrap_err()));
    assert!(matches!(with(&program, &me), BackingError::NotTmpfs { .. }));

    // A part of it is enough.
    let mixed = Mapping::of_file(Arc::new(of(&memfd)), 0, 8 * PAGE, false).unwrap();
    let tail = mixed.part_source(4 * PAGE, 4 * PAGE).unwrap();
    assert!(RamBlock::with_file(tail.clone(), of(&memfd)).is_ok());
    assert!(RamBlock::detect(tail).is_err());
}

#[test]
fn a_child_after_a_fork_looks_at_its_own_memory() {
    let _alone = alone();
    let memory = Mapping::new(64 * PAGE, Backed::Small).unwrap();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let mut scanner = SoftwareScanner::new();
    let mut zero = PageBitmap::new(64);
    let offsets = offsets(64);
    scanner.scan(&block, PAGE, &offsets, &mut zero).unwrap();
    let in_child = {
        let memory = Arc::clone(&memory);
        move || {
            // Untouched in the parent for ever.
            memory.store(9 * PAGE, 1);
            let scanned = scanner.scan(&block, PAGE, &offsets, &mut zero);
            let right = scanned.is_ok_and(|scanned| scanned.untouched == 63) && !zero.get(9);
            match right {
                true => Ok(()),
                false => Err(std::io::ErrorKind::InvalidData.into()),
            }
        }
    };
    let mut command = Command::new("true");
    // SAFETY: the closure allocates a few bytes at most, which glibc allows after a fork, and takes no lock of another thread.
    unsafe { command.pre_exec(in_child) };
    assert!(command.status().unwrap().success());
    assert_eq!(memory.load(9 * PAGE), Some(0));
}

mod userfaultfd {
    use rustix::ioctl::{Updater, ioctl, opcode};

    use super::*;

    #[repr(C)]
    struct Api {
        api: u64,
        features: u64,
        ioctls: u64,
    }

    #[repr(C)]
    struct Register {
        start: u64,
        len: u64,
        mode: u64,
        ioctls: u64,
    }

    const MISSING: u64 = 1;

    /// Registers the block, so that nobody fills in its missing pages until the descriptor is closed.
    pub(super) fn register(block: &RamBlock) -> rustix::io::Result<OwnedFd> {
        // Only for faults of this process itself, which needs no privileges.
        let flags = rustix::mm::UserfaultfdFlags::CLOEXEC
            | rustix::mm::UserfaultfdFlags::from_bits_retain(1);
        // SAFETY: a new descriptor changes nothing about memory yet.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
        let mut api = Api {
            api: 0xaa,
            features: 0,
            ioctls: 0,
        };
        // SAFETY: the number and the structure are those of UFFDIO_API (include/uapi/linux/userfaultfd.h).
        let request =
            unsafe { Updater::<{ opcode::read_write::<Api>(0xaa, 0x3f) }, _>::new(&mut api) };
        // SAFETY: on a descriptor that nobody else knows.
        unsafe { ioctl(&fd, request) }?;
        let mut register = Register {
            start: block.source().address(),
            len: block.len(),
            mode: MISSING,
            ioctls: 0,
        };
        // SAFETY: as above, for UFFDIO_REGISTER.
        let request = unsafe {
            Updater::<{ opcode::read_write::<Register>(0xaa, 0) }, _>::new(&mut register)
        };
        // SAFETY: whoever touches a missing page of the block waits from now on; nobody does.
        unsafe { ioctl(&fd, request) }?;
        Ok(fd)
    }
}

#[test]
fn memory_with_a_userfaultfd_is_never_taken_for_untouched() {
    let _alone = alone();
    let memory = Mapping::new(16 * PAGE, Backed::Small).unwrap();
    memory.populate(0, 8 * PAGE).unwrap();
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let fd = match userfaultfd::register(&block) {
        Ok(fd) => fd,
        Err(error) => {
            eprintln!("skipped: no userfaultfd: {error}");
            return;
        }
    };
    let error = RamBlock::detect(memory.source().unwrap()).unwrap_err();
    assert!(matches!(error, BackingError::Userfaultfd { .. }), "{error}");
    assert!(block.recheck().is_err());
    assert_eq!(block.backing(), Backing::Unknown);
    // Only pages that are there: the others would wait for ever.
    let mut zero = PageBitmap::default();
    let mut scanner = SoftwareScanner::new();
    let scanned = scanner.scan(&block, PAGE, &offsets(8), &mut zero).unwrap();
    assert_eq!((scanned.untouched, scanned.read, scanned.zero), (0, 8, 8));

    drop(fd);
    block.recheck().unwrap();
    assert_eq!(block.backing(), Backing::PrivateAnonymous);
    assert_eq!(scan(&block, PAGE).0.untouched, 8);

    let memfd = Mapping::new(16 * PAGE, Backed::Memfd).unwrap();
    let block = memfd_block(&memfd);
    let fd = userfaultfd::register(&block).unwrap();
    let error = block.recheck().unwrap_err();
    assert!(matches!(error, BackingError::Userfaultfd { .. }), "{error}");
    drop(fd);
    block.recheck().unwrap();
    assert_eq!(scan(&block, PAGE).0.untouched, 16);
}

/// A swap file of this test's own, on a machine that may be changed.
struct Swap(std::path::PathBuf);

impl Swap {
    fn new() -> Option<Self> {
        std::env::var_os("PARAPIN_TEST_MACHINE").filter(|value| value == "1")?;
        let path = std::env::temp_dir().join(format!("parapin-swap-{}", std::process::id()));
        std::fs::write(&path, vec![0; 16 << 20]).ok()?;
        let this = Self(path);
        let done = |program: &str, arguments: &[&str]| {
            let command = Command::new(program).args(arguments).arg(&this.0).output();
            command.is_ok_and(|output| output.status.success())
        };
        let made = done("chmod", &["600"]) && done("mkswap", &["--quiet"]) && done("swapon", &[]);
        made.then_some(this)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.0).output();
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn swapped_out_pages_are_not_untouched() {
    let _alone = alone();
    let has_swap =
        || std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1);
    let own = if has_swap() { None } else { Swap::new() };
    if !has_swap() {
        println!("skipped: no swap; with PARAPIN_TEST_MACHINE=1, root makes some");
        return;
    }
    let memory = Mapping::new(64 * PAGE, Backed::Small).unwrap();
    let memfd = Mapping::new(64 * PAGE, Backed::Memfd).unwrap();
    for memory in [&memory, &memfd] {
        (0..64).for_each(|page| assert!(memory.store(page * PAGE, 1)));
        let start = memory
            .source()
            .unwrap()
            .as_ptr()
            .cast_mut()
            .cast::<c_void>();
        // SAFETY: pages that are paged out keep their contents.
        unsafe { rustix::mm::madvise(start, 64 << 12, rustix::mm::Advice::LinuxPageOut) }.unwrap();
    }
    let block = RamBlock::detect(memory.source().unwrap()).unwrap();
    let in_swap = |entry: &&u64| **entry >> 62 & 1 == 1;
    let number = entries(&block).iter().filter(in_swap).count();
    println!("in swap: {number}");
    // Other swap may be full, or of a kind that takes nothing.
    assert!(number > 0 || own.is_none());
    assert_eq!(scan(&block, PAGE).1, []);
    assert_eq!(scan(&memfd_block(&memfd), PAGE).1, []);
}

#[test]
fn a_block_can_be_made_of_any_descriptor_of_its_file() {
    let _alone = alone();
    let memory = Mapping::new(4 * PAGE, Backed::Memfd).unwrap();
    let duplicate = memory.file().unwrap().as_fd().try_clone_to_owned().unwrap();
    let block = RamBlock::with_file(memory.source().unwrap(), &duplicate).unwrap();
    drop(duplicate);
    assert_eq!(scan(&block, PAGE).0.untouched, 4);
    assert!(RamBlock::with_file(memory.source().unwrap(), std::io::stdin()).is_err());
}
