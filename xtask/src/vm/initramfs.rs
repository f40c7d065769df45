// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The files inside the machine, as an archive that the kernel unpacks at boot (cpio, format `newc`).
//!
//! It is not compressed: an emulated CPU takes longer to unpack it than QEMU to hand it over.
//! Each entry is a header of fixed width in hexadecimal digits, the name, and the content, both filled up to 4 bytes.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    to: W,
    entries: u32,
    /// The names that are there already; also, the first one wins.
    names: BTreeSet<String>,
}

impl Archive<BufWriter<File>> {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Archive<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            entries: 0,
            names: BTreeSet::new(),
        }
    }

    /// A copy of a file of the host that may be executed inside.
    pub(crate) fn program(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(name, PROGRAM, &content)
    }

    pub(crate) fn text(&mut self, name: &str, content: &str) -> Result<()> {
        self.add(name, TEXT, content.as_bytes())
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.add(name, LINK, target.as_bytes())
    }

    pub(crate) fn directory(&mut self, name: &str) -> Result<()> {
        self.add(name, DIRECTORY, &[])
    }

    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])
            .and_then(|()| self.to.flush())
            .context("cannot write the initramfs")?;
        Ok(self.to)
    }

    /// Adds an entry by its absolute path, and the directories above it.
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let name = name.trim_matches('/');
        if self.names.contains(name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.names.insert(name.to_owned());
        self.entry(name, mode, content)
            .with_context(|| format!("cannot add {name} to the initramfs"))
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other("4 GiB are too much");
        let length = u32::try_from(content.len()).map_err(too_large)?;
        let name_length = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        write!(self.to, "070701")?;
        // inode, mode, uid, gid, links, mtime, length, device (2), device of a node (2), length of the name, checksum
        for field in [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ] {
            write!(self.to, "{field:08X}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&[0])?;
        // The header's 110 bytes and the name.
        self.fill(110 + name.len() + 1)?;
        self.to.write_all(content)?;
        self.fill(content.len())
    }

    fn fill(&mut self, length: usize) -> io::Result<()> {
        self.to
            .write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_looks_as_the_kernel_wants_it() {
        let mut archive = Archive::new(Vec::new());
        archive.text("/etc/job", "mode").unwrap();
        archive.text("/etc/job", "again").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let etc = "07070100000001000041ED000000000000000000000002000000000000000000000000000000000000000000000000\
                   0000000400000000etc\0";
        let job = "07070100000002000081A4000000000000000000000001000000000000000400000000000000000000000000000000\
                   0000000800000000etc/job\0mode";
        assert!(text.starts_with(etc), "{text}");
        assert!(
            text[etc.len()..]
                .trim_start_matches('\0')
                .starts_with(job.split("job\0").next().unwrap()),
            "{text}"
        );
        assert!(text.contains("etc/job\0\0\0mode"), "{text:?}");
        assert!(!text.contains("again"));
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(text.len() % 4, 0);
    }
}
