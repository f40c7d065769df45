// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`RamBlock`]: a piece of guest RAM, and whether its pages tell that they are zero without being read.
//!
//! ```text
//! private anonymous memory: no page yet         ─► zero
//! memfd, tmpfs:             a hole in the file  ─► zero      (no page *here* says nothing: the file may hold data)
//! anything else, or with a userfaultfd          ─► read it
//! ```

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use idxd::Source;
use rustix::fs::{fstat, fstatfs, major, minor};
use thiserror::Error;

use crate::{
    vma::{self, Vma},
    zero::Looks,
};

/// `TMPFS_MAGIC` (include/uapi/linux/magic.h).
const TMPFS: u64 = 0x0102_1994;

/// A piece of guest RAM. Clones are the same block: what one learns of it all know.
#[derive(Debug, Clone)]
pub struct RamBlock {
    source: Source,
    asked: Asked,
    known: Arc<Known>,
}

/// What was learnt of a block, by whichever clone of it.
#[derive(Debug, Default)]
struct Known {
    /// Held while the kernel is asked, so that an answer which is out of date is not the last one.
    asking: Mutex<()>,
    /// Whether the kernel has confirmed what was asked for.
    sound: AtomicBool,
    /// Where in its file the block begins.
    offset: AtomicU64,
    looks: Looks,
}

/// What a page that has never been touched can be told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Nothing is known: every page is read.
    Unknown,
    /// Private anonymous memory: the page map tells.
    PrivateAnonymous,
    /// A shared mapping of a memfd or of another file on tmpfs: holes in the file tell.
    Tmpfs,
}

#[derive(Debug, Clone)]
enum Asked {
    Nothing,
    PrivateAnonymous,
    Tmpfs(Arc<File>),
}

/// How untouched pages of a block are found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shortcut<'a> {
    None,
    PageMap,
    Holes { file: &'a File, offset: u64 },
}

impl RamBlock {
    /// Memory of which nothing is known, so that every page is read.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            asked: Asked::Nothing,
            known: Arc::default(),
        }
    }

    /// Private anonymous memory, such as a guest's RAM without a memory back end.
    ///
    /// Call [`recheck`](Self::recheck) when its mappings may have changed.
    ///
    /// # Errors
    ///
    /// If the kernel says that some of it is anything else, or that a userfaultfd may fill in pages.
    pub fn detect(source: Source) -> Result<Self, BackingError> {
        let mut block = Self::new(source);
        block.asked = Asked::PrivateAnonymous;
        block.recheck()?;
        Ok(block)
    }

    /// Memory that is a shared mapping of `file`, a memfd or a file on tmpfs.
    ///
    /// The file is opened again where that is possible, so that its position, which seeking for holes moves, stays as it
    /// is; where it is not (no /proc, or no permission), the position of `file` moves.
    ///
    /// Call [`recheck`](Self::recheck) when its mappings may have changed.
    ///
    /// # Errors
    ///
    /// If the file is of another kind, some of the memory is not a shared mapping of it, its parts are not in the file's
    /// order, the file is too short, or a userfaultfd may fill in pages.
    pub fn with_file(source: Source, file: impl AsFd) -> Result<Self, BackingError> {
        let file = reopened(file.as_fd()).map_err(|source| BackingError::File { source })?;
        let mut block = Self::new(source);
        block.asked = Asked::Tmpfs(Arc::new(file));
        block.recheck()?;
        Ok(block)
    }

    /// Asks the kernel again whether the block is still what it was made for.
    ///
    /// Any clone will do. It must be called before the next scan after anything was mapped over a part of it, and after a
    /// userfaultfd was registered on it (for a postcopy or a background snapshot): a page that a userfaultfd has not
    /// delivered yet looks untouched, and is not zero. Giving pages back (a balloon) needs no call.
    ///
    /// The kernel walks through the page tables for the answer: that takes about a second for 100 GiB of small pages.
    ///
    /// # Errors
    ///
    /// As for what made it. All its pages are read from then on, until a call succeeds.
    pub fn recheck(&self) -> Result<(), BackingError> {
        let _asking = self
            .known
            .asking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Pairs with the loads in `shortcut`: a scan of any clone that begins after this reads every page.
        self.known.sound.store(false, Ordering::SeqCst);
        self.known.looks.forget();
        let start = self.source.address();
        let range = start..start + self.source.len();
        match &self.asked {
            Asked::Nothing => {}
            Asked::PrivateAnonymous => {
                covering(range, |vma, _| match vma.is_private_anonymous() {
                    true => Ok(()),
                    false => Err(BackingError::NotAnonymous {
                        address: vma.start,
                        name: called(vma),
                    }),
                })?;
            }
            Asked::Tmpfs(file) => {
                let offset = offset_in(file, range)?;
                self.known.offset.store(offset, Ordering::SeqCst);
            }
        }
        self.known.sound.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The memory.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Length in bytes, which is never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.source.len()
    }

    /// What its untouched pages are told by.
    #[must_use]
    pub fn backing(&self) -> Backing {
        match self.shortcut() {
            Shortcut::None => Backing::Unknown,
            Shortcut::PageMap => Backing::PrivateAnonymous,
            Shortcut::Holes { .. } => Backing::Tmpfs,
        }
    }

    pub(crate) fn shortcut(&self) -> Shortcut<'_> {
        if !self.known.sound.load(Ordering::SeqCst) {
            return Shortcut::None;
        }
        match &self.asked {
            Asked::Nothing => Shortcut::None,
            Asked::PrivateAnonymous => Shortcut::PageMap,
            Asked::Tmpfs(file) => Shortcut::Holes {
                file,
                // Written before `sound`.
                offset: self.known.offset.load(Ordering::SeqCst),
            },
        }
    }

    pub(crate) fn looks(&self) -> &Looks {
        &self.known.looks
    }
}

/// Calls `check` with every mapping of `range` and the address in the range that it begins at, or else at the range's start.
fn covering(
    range: Range<u64>,
    mut check: impl FnMut(&Vma, u64) -> Result<(), BackingError>,
) -> Result<(), BackingError> {
    let vmas = vma::overlapping(range.clone()).map_err(|source| BackingError::Smaps { source })?;
    let mut at = range.start;
    for vma in &vmas {
        if at < vma.start {
            break;
        }
        let address = at;
        if vma.flags.is_none() {
            return Err(BackingError::NoFlags { address });
        }
        if vma.has_userfaultfd() {
            return Err(BackingError::Userfaultfd { address });
        }
        if !vma.readable {
            return Err(BackingError::NotReadable { address });
        }
        check(vma, at)?;
        at = vma.end;
    }
    match at < range.end {
        true => Err(BackingError::Unmapped { address: at }),
        false => Ok(()),
    }
}

/// Where in `file`, which has to be one on tmpfs, the memory of `range` begins.
fn offset_in(file: &File, range: Range<u64>) -> Result<u64, BackingError> {
    let failed = |errno: rustix::io::Errno| BackingError::File {
        source: errno.into(),
    };
    // Signed and of the machine's length, where it is no number to count with.
    let magic = u64::try_from(fstatfs(file).map_err(failed)?.f_type).unwrap_or(0);
    if magic != TMPFS {
        return Err(BackingError::NotTmpfs { magic });
    }
    let stat = fstat(file).map_err(failed)?;
    let device = (major(stat.st_dev), minor(stat.st_dev));
    let mut begins = None;
    covering(range.clone(), |vma, address| {
        if !vma.shared || vma.device != device || vma.inode != stat.st_ino {
            return Err(BackingError::OtherFile {
                address,
                name: called(vma),
            });
        }
        let here = vma.offset + (address - vma.start);
        let expected = *begins.get_or_insert(here) + (address - range.start);
        match here == expected {
            true => Ok(()),
            false => Err(BackingError::OutOfOrder {
                address,
                offset: here,
                expected,
            }),
        }
    })?;
    let offset = begins.unwrap_or(0);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let needed = offset + (range.end - range.start);
    match size < needed {
        true => Err(BackingError::Short { size, needed }),
        false => Ok(offset),
    }
}

/// Another open file description, whose position is its own; failing that, another descriptor of the same one.
fn reopened(file: BorrowedFd<'_>) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .or_else(|_| file.try_clone_to_owned().map(File::from))
}

fn called(vma: &Vma) -> String {
    let shared = if vma.shared { "shared" } else { "private" };
    match vma.name.as_str() {
        "" => format!("{shared} memory without a name"),
        name => format!("{name}, {shared}"),
    }
}

/// Why untouched pages of a block cannot be told from others. [`RamBlock::new`] is always possible.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackingError {
    /// The kernel does not tell about mappings.
    #[error("/proc/self/smaps cannot be read")]
    Smaps {
        /// The reason.
        source: io::Error,
    },
    /// The kernel does not tell whether there is a userfaultfd.
    #[error("/proc/self/smaps has no VmFlags for the mapping at {address:#x}")]
    NoFlags {
        /// An address of the mapping.
        address: u64,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {address:#x}, inside the block")]
    Unmapped {
        /// The first address without a mapping.
        address: u64,
    },
    /// The memory cannot be read.
    #[error("the mapping at {address:#x}, inside the block, cannot be read")]
    NotReadable {
        /// The first such address.
        address: u64,
    },
    /// A page that looks untouched may have to come from whoever handles the userfaultfd.
    #[error("a userfaultfd is registered at {address:#x}, inside the block")]
    Userfaultfd {
        /// The first such address.
        address: u64,
    },
    /// Something else may be behind a page that is not there.
    #[error("the mapping at {address:#x} is not private anonymous memory: {name}")]
    NotAnonymous {
        /// Where the mapping begins.
        address: u64,
        /// What it is.
        name: String,
    },
    /// The file cannot be looked at.
    #[error("the file behind the block cannot be looked at")]
    File {
        /// The reason.
        source: io::Error,
    },
    /// Only tmpfs is known to report no hole where data waits to be written back.
    #[error("the file behind the block is not on tmpfs: its file system is {magic:#x}")]
    NotTmpfs {
        /// The file system's magic number.
        magic: u64,
    },
    /// The memory is not that file's.
    #[error("the mapping at {address:#x} is not a shared one of the file: {name}")]
    OtherFile {
        /// The first such address.
        address: u64,
        /// What it is.
        name: String,
    },
    /// The file is mapped in pieces that do not follow each other.
    #[error(
        "the mapping at {address:#x} shows the file from {offset:#x} on, not from {expected:#x} on"
    )]
    OutOfOrder {
        /// Where the piece begins.
        address: u64,
        /// The place in the file that is mapped there.
        offset: u64,
        /// The place that would follow what is in front of it.
        expected: u64,
    },
    /// The end of the block cannot be read.
    #[error("the file has {size:#x} bytes, and the block needs {needed:#x}")]
    Short {
        /// Length of the file.
        size: u64,
        /// Where in the file the block ends.
        needed: u64,
    },
}
