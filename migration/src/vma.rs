// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Vma`]: what the kernel says of a mapping of this process: `/proc/self/smaps` (proc(5)).

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    ops::Range,
};

/// One mapping, as far as zero pages depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) readable: bool,
    pub(crate) shared: bool,
    /// Where in its file it begins.
    pub(crate) offset: u64,
    /// Major and minor number of what its file lies on.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// A path, or a word of the kernel's in brackets, or nothing.
    pub(crate) name: String,
    /// Two letters each; `None` where the kernel does not tell.
    pub(crate) flags: Option<String>,
}

impl Vma {
    /// Private memory with no file behind it, where a page that has never been touched reads as zero.
    pub(crate) fn is_private_anonymous(&self) -> bool {
        let named = matches!(self.name.as_str(), "" | "[heap]" | "[stack]")
            || self.name.starts_with("[anon:");
        let special = ["ht", "io", "pf", "mm"];
        !self.shared
            && self.inode == 0
            && self.device == (0, 0)
            && named
            && !special.iter().any(|flag| self.has(flag))
    }

    /// Whether a userfaultfd may fill in pages (`um`), or be asked before they are written (`uw`) or mapped (`ui`).
    pub(crate) fn has_userfaultfd(&self) -> bool {
        ["um", "uw", "ui"].iter().any(|flag| self.has(flag))
    }

    fn has(&self, flag: &str) -> bool {
        let flags = self.flags.iter();
        flags.flat_map(|flags| flags.split(' ')).any(|f| f == flag)
    }

    /// `7f0000000000-7f0000200000 rw-p 00000000 00:00 0   [name]`
    fn from_header(line: &str) -> Option<Self> {
        let mut rest = line;
        let mut field = || {
            rest = rest.trim_start_matches(' ');
            let (field, after) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = after;
            field
        };
        let (start, end) = field().split_once('-')?;
        let permissions = field().as_bytes();
        let offset = field();
        let (major, minor) = field().split_once(':')?;
        let inode = field().parse().ok()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            readable: permissions.first() == Some(&b'r'),
            shared: *permissions.get(3)? == b's',
            offset: u64::from_str_radix(offset, 16).ok()?,
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            inode,
            name: rest.trim().to_owned(),
            flags: None,
        })
    }
}

/// The mappings of this process that overlap `range`, lowest first.
///
/// The kernel counts the pages of every mapping up to the end of the range for it: 12 ms for 1 GiB of small pages.
pub(crate) fn overlapping(range: Range<u64>) -> io::Result<Vec<Vma>> {
    read(BufReader::new(File::open("/proc/self/smaps")?), range)
}

fn read(smaps: impl BufRead, range: Range<u64>) -> io::Result<Vec<Vma>> {
    let mut vmas: Vec<Vma> = Vec::new();
    // Flags follow their header; those of a mapping outside the range belong to nobody.
    let mut inside = false;
    for line in smaps.split(b'\n') {
        let line = line?;
        // A path may be any bytes.
        let line = String::from_utf8_lossy(&line);
        if let Some(vma) = Vma::from_header(&line) {
            if range.end <= vma.start {
                break;
            }
            inside = range.start < vma.end;
            if inside {
                vmas.push(vma);
            }
        } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            if let Some(vma) = vmas.last_mut() {
                vma.flags = Some(flags.trim().to_owned());
            }
        }
    }
    Ok(vmas)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
VmFlags: rd wr mr mw me ac sd hg um
7f0000200000-7f0000400000 r--s 00003000 00:1a 1034                       /memfd:guest  ram (deleted)
Rss:                   0 kB
VmFlags: rd mr mw me ms sd
7f0000400000-7f0000500000 ---p 00000000 00:00 0                          [anon:a b]
";

    fn vmas(from: u64, to: u64) -> Vec<Vma> {
        let base = 0x7f00_0000_0000;
        read(TEXT.as_bytes(), base + from..base + to).unwrap()
    }

    #[test]
    fn mappings_are_read_with_what_is_behind_them() {
        let all = vmas(0, 0x50_0000);
        let [guest, memfd, guard] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert!(guest.is_private_anonymous() && guest.has_userfaultfd() && guest.readable);
        assert_eq!(memfd.name, "/memfd:guest  ram (deleted)");
        assert_eq!(
            (memfd.offset, memfd.device, memfd.inode),
            (0x3000, (0, 0x1a), 1034)
        );
        assert!(memfd.shared && !memfd.is_private_anonymous() && !memfd.has_userfaultfd());
        assert!(guard.is_private_anonymous() && !guard.readable);
        assert_eq!(guard.flags, None);
    }

    #[test]
    fn only_what_overlaps_is_read() {
        assert_eq!(vmas(0x20_0000, 0x20_0001).len(), 1);
        assert_eq!(vmas(0x1f_ffff, 0x20_0000).len(), 1);
        assert_eq!(vmas(0x1f_ffff, 0x40_0001).len(), 3);
        assert_eq!(vmas(0x50_0000, 0x60_0000), []);
    }

    #[test]
    fn what_only_looks_like_anonymous_memory_is_not() {
        let like = |name: &str, shared, inode, device, flags: &str| Vma {
            name: name.to_owned(),
            shared,
            inode,
            device,
            flags: Some(flags.to_owned()),
            ..vmas(0, 1)[0].clone()
        };
        assert!(like("[heap]", false, 0, (0, 0), "rd wr").is_private_anonymous());
        assert!(!like("[vvar]", false, 0, (0, 0), "rd wr").is_private_anonymous());
        assert!(!like("", true, 0, (0, 0), "rd wr").is_private_anonymous());
        assert!(!like("", false, 7, (0, 0), "rd wr").is_private_anonymous());
        assert!(!like("", false, 0, (0, 1), "rd wr").is_private_anonymous());
        for special in ["ht", "io", "pf", "mm"] {
            assert!(!like("", false, 0, (0, 0), special).is_private_anonymous());
        }
        assert!(!like("/anon_hugepage (deleted)", false, 0, (0, 0), "rd").is_private_anonymous());
    }

    #[test]
    fn garbage_is_passed_over() {
        for text in [
            "",
            "\0\0",
            "VmFlags: um",
            "zz-yy rw-p 0 0 0",
            "1-2",
            "1-2 rw",
            "1-2 rw-p 0 00:00 x",
        ] {
            assert_eq!(read(text.as_bytes(), 0..u64::MAX).unwrap(), [], "{text:?}");
        }
    }
}
