// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel says of a thread of this process: `/proc/self/task/TID` (proc(5)), read without allocating.
//!
//! Files instead of system calls where both would do: a VMM's system call filter lets `openat` and `read` pass, and
//! kills the process for `getpriority`.

use std::{
    fs::File,
    io::{Read, Write},
    str,
};

use rustix::thread::Pid;

/// Longest path that is built here, and more: `/proc/self/task/4294967295/wchan`.
const PATH: usize = 64;

/// The state and the nice value, fields 3 and 19 of `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) nice: i32,
}

/// A kernel function's name, as `wchan` gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wchan {
    name: [u8; 64],
    length: usize,
}

impl Wchan {
    /// Where the kernel has the thread; `None` where it runs, or where this may not be seen.
    pub(crate) fn of(thread: Pid) -> Option<Self> {
        let mut name = [0; 64];
        let text = read(path(&mut [0; PATH], thread, "wchan")?, &mut name)?;
        let length = text.trim_end().len();
        (text != "0" && length > 0).then_some(Self { name, length })
    }

    pub(crate) fn name(&self) -> &str {
        str::from_utf8(&self.name[..self.length]).unwrap_or_default()
    }
}

impl Stat {
    pub(crate) fn of_caller() -> Option<Self> {
        parse(read("/proc/thread-self/stat", &mut [0; 1024])?)
    }

    pub(crate) fn of(thread: Pid) -> Option<Self> {
        let mut buffer = [0; PATH];
        parse(read(path(&mut buffer, thread, "stat")?, &mut [0; 1024])?)
    }
}

/// The system call filters that a thread is under, for comparison: who makes calls that a filter may forbid asks whether
/// one has come since they were possible.
///
/// How many there are (since Linux 5.9), or else whether there is any; from `/proc/thread-self/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCallFilters(Option<u32>);

impl SystemCallFilters {
    /// Those of the calling thread.
    #[must_use]
    pub fn of_caller() -> Self {
        Self(filters())
    }

    /// Whether there are certainly none.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0 == Some(0)
    }
}

fn filters() -> Option<u32> {
    let mut buffer = [0; 8192];
    let status = read("/proc/thread-self/status", &mut buffer)?;
    let value = |key| status.lines().find_map(|line| line.strip_prefix(key));
    value("Seccomp_filters:")
        .or_else(|| value("Seccomp:"))?
        .trim()
        .parse()
        .ok()
}

fn parse(stat: &str) -> Option<Stat> {
    // The name before it may hold anything, parentheses and spaces included.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        nice: fields.nth(15)?.parse().ok()?,
    })
}

fn path<'b>(buffer: &'b mut [u8; PATH], thread: Pid, file: &str) -> Option<&'b str> {
    let mut rest = &mut buffer[..];
    write!(rest, "/proc/self/task/{}/{file}", thread.as_raw_nonzero()).ok()?;
    let left = rest.len();
    str::from_utf8(&buffer[..PATH - left]).ok()
}

/// As much of a file as fits; these fit.
fn read<'b>(path: &str, buffer: &'b mut [u8]) -> Option<&'b str> {
    let mut file = File::open(path).ok()?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    // Not UTF-8 where the thread's name was cut inside of a character; these threads have names of ours, or the VMM's.
    str::from_utf8(&buffer[..length]).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::{process::getpriority_process, thread::gettid};

    use super::*;

    #[test]
    fn names_may_hold_parentheses() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 39 19 1 0 99";
        let expected = Stat {
            state: 'S',
            nice: 19,
        };
        assert_eq!(parse(stat), Some(expected));
        for garbage in [
            "",
            "7 (a",
            "7 (a)",
            "7 (a) R 1 2",
            "7 (a) R 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 39 x",
        ] {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn the_calling_thread_runs_at_its_nice_value() {
        let stat = Stat::of_caller().unwrap();
        assert_eq!(stat.state, 'R');
        assert_eq!(stat.nice, getpriority_process(None).unwrap());
        assert_eq!(Stat::of(gettid()), Some(stat));
        assert_ne!(SystemCallFilters::of_caller(), SystemCallFilters(None));
    }
}
