// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory of this process, as `/proc/self/status` counts it.

use std::path::Path;

use crate::{
    error::ReadError,
    keyed::{kilobytes, shown},
    root::Root,
};

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessMemory {
    /// `VmLck`: locked by `mlock`, and what VFIO type1 has pinned.
    pub locked: u64,
    /// `VmPin`: pinned for good, by iommufd or io_uring for instance.
    pub pinned: u64,
    /// `VmRSS`: in memory.
    pub resident: u64,
}

impl ProcessMemory {
    /// Reads the memory of this process now; one small file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or lacks one of the lines.
    pub fn current() -> Result<Self, ReadError> {
        Self::read(&Root::live())
    }

    /// Reads the memory of the process that the files below `root` describe.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or lacks one of the lines.
    pub fn read(root: &Root) -> Result<Self, ReadError> {
        let read = |path| {
            let path = Path::new(path);
            let text = root.text(path)?;
            parse(&text).map_err(|key| {
                let why = format!("no usable line {}", key.trim_end_matches(':'));
                ReadError::garbled(path, shown(&text, key), why)
            })
        };
        // The process has no memory of its own left once its first thread has ended; the others do.
        read("/proc/self/status").or_else(|e| read("/proc/thread-self/status").map_err(|_| e))
    }
}

/// The three lines of a status file, or the key of the first that is of no use.
pub(crate) fn parse(status: &str) -> Result<ProcessMemory, &'static str> {
    let bytes = |key| kilobytes(status, key).ok_or(key);
    Ok(ProcessMemory {
        locked: bytes("VmLck:")?,
        pinned: bytes("VmPin:")?,
        resident: bytes("VmRSS:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status() {
        let text = "Name:\tvmm\nVmLck:\t 8 kB\nVmPin:\t 4 kB\nVmRSS:\t 16 kB\n";
        let expected = ProcessMemory {
            locked: 8192,
            pinned: 4096,
            resident: 16384,
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(&text.replace("8 kB", "8")), Err("VmLck:"));
        assert_eq!(parse(&text.replace("4 kB", "-4 kB")), Err("VmPin:"));
        assert_eq!(parse("VmLck:\t0 kB\nVmPin:\t0 kB\n"), Err("VmRSS:"));
    }
}
