// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel says of this process's mappings: `/proc/self/smaps` (proc(5)).

use crate::{Backing, BackingKind, PageSize};

/// One mapping, as far as pinning depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) writable: bool,
    /// Bytes that are there already, huge pages from a pool included.
    pub(crate) resident: u64,
    pub(crate) backing: Backing,
}

/// All mappings in the text of an smaps file, lowest first; lines of other forms are passed over.
pub(crate) fn parse(text: &str, pmd_size: Option<PageSize>) -> Vec<Vma> {
    let mut vmas: Vec<Raw> = Vec::new();
    for line in text.lines() {
        if let Some(vma) = Raw::from_header(line) {
            vmas.push(vma);
        } else if let (Some(vma), Some((key, value))) = (vmas.last_mut(), line.split_once(':')) {
            vma.take(key, value);
        }
    }
    vmas.into_iter().map(|raw| raw.finish(pmd_size)).collect()
}

#[derive(Debug)]
struct Raw {
    start: u64,
    end: u64,
    writable: bool,
    shared: bool,
    inode: u64,
    kernel_page_size: u64,
    resident: u64,
    huge_resident: u64,
    anonymous_huge_pages: bool,
}

impl Raw {
    /// `7f0000000000-7f0000200000 rw-p 00000000 00:00 0   [name]`
    fn from_header(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?.as_bytes();
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            writable: permissions.get(1) == Some(&b'w'),
            shared: permissions.get(3) == Some(&b's'),
            inode: fields.nth(2)?.parse().ok()?,
            kernel_page_size: 0,
            resident: 0,
            huge_resident: 0,
            anonymous_huge_pages: false,
        })
    }

    fn take(&mut self, key: &str, value: &str) {
        let number = value
            .split_ascii_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        let bytes = || number.unwrap_or(0).saturating_mul(1024);
        match key {
            "KernelPageSize" => self.kernel_page_size = bytes(),
            "Rss" => self.resident = bytes(),
            "Private_Hugetlb" | "Shared_Hugetlb" => {
                self.huge_resident = self.huge_resident.saturating_add(bytes());
            }
            "THPeligible" => self.anonymous_huge_pages = number == Some(1),
            _ => {}
        }
    }

    fn finish(self, pmd_size: Option<PageSize>) -> Vma {
        let base = PageSize::base();
        let kernel = PageSize::new(self.kernel_page_size).unwrap_or(base);
        let kind = if kernel > base {
            BackingKind::Hugetlb
        } else if self.shared || self.inode != 0 {
            BackingKind::File
        } else {
            BackingKind::Anonymous
        };
        let page_size = match pmd_size {
            Some(pmd) if kernel == base && self.anonymous_huge_pages => pmd,
            _ => kernel,
        };
        Vma {
            start: self.start,
            end: self.end,
            writable: self.writable,
            resident: self.resident.saturating_add(self.huge_resident),
            backing: Backing {
                kind,
                page_size,
                shared: self.shared,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                1024 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac sd hg
7f0000200000-7f0000400000 r--s 00000000 00:01 1034                       /memfd:guest (deleted)
KernelPageSize:        4 kB
Rss:                   0 kB
THPeligible:           0
7f0040000000-7f0080000000 rw-s 00000000 00:0f 77                         /dev/hugepages/x y
KernelPageSize:  1048576 kB
Rss:                   0 kB
Shared_Hugetlb:  1048576 kB
Private_Hugetlb:       0 kB
THPeligible:           0
";

    #[test]
    fn mappings_are_read_with_what_is_behind_them() {
        let vma = |start, end, writable, resident, kind, page_size, shared| Vma {
            start,
            end,
            writable,
            resident,
            backing: Backing {
                kind,
                page_size,
                shared,
            },
        };
        assert_eq!(
            parse(TEXT, Some(PageSize::SIZE_2M)),
            [
                vma(
                    0x7f00_0000_0000,
                    0x7f00_0020_0000,
                    true,
                    1 << 20,
                    BackingKind::Anonymous,
                    PageSize::SIZE_2M,
                    false,
                ),
                vma(
                    0x7f00_0020_0000,
                    0x7f00_0040_0000,
                    false,
                    0,
                    BackingKind::File,
                    PageSize::SIZE_4K,
                    true,
                ),
                vma(
                    0x7f00_4000_0000,
                    0x7f00_8000_0000,
                    true,
                    1 << 30,
                    BackingKind::Hugetlb,
                    PageSize::SIZE_1G,
                    true,
                ),
            ]
        );
    }

    #[test]
    fn garbage_is_passed_over() {
        for text in [
            "",
            "\0\0",
            "Rss: 12 kB",
            "zz-yy rw-p 0 0 0",
            "1-2",
            "1-2 rw",
            "1-2 rw-p 0 00:00 x",
        ] {
            assert_eq!(parse(text, None), [], "{text:?}");
        }
        let overflow =
            "1000-2000 rw-p 0 00:00 0\nRss: 18446744073709551615 kB\nKernelPageSize: -1 kB\n";
        assert_eq!(parse(overflow, None)[0].resident, u64::MAX);
    }
}
