// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Neighbours: processes of the usual priority that never rest, and count how far they get.
//!
//! ```text
//!  neighbour on CPU 0 ──count──► ┌ memfd ─────┐
//!  neighbour on CPU 1 ──count──► │ u64 │ u64 │ ──► sum before and after a job, read by the job's process
//! ```

use std::{
    fs::File,
    hint::black_box,
    io,
    os::{fd::AsFd, unix::fs::FileExt, unix::process::parent_id},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use parapin::bench::Skipped;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::role::{Place, Role};

/// How one of them is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Neighbour {
    /// The only CPU that it may use; all of its parent's otherwise.
    pub(crate) cpu: Option<usize>,
    pub(crate) place: Place,
    /// The number of its counter.
    slot: u64,
    /// Whom it does not outlive.
    parent: u32,
}

impl Neighbour {
    pub(crate) fn new(cpu: Option<usize>, place: Place) -> Self {
        Self {
            cpu,
            place,
            slot: 0,
            parent: std::process::id(),
        }
    }

    /// Counts for as long as its parent lives.
    pub(crate) fn count(&self) -> io::Result<()> {
        if let Some(cpu) = self.cpu {
            let mut set = CpuSet::new();
            set.set(cpu);
            sched_setaffinity(None, &set)?;
        }
        let counter = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut count = 0u64;
        while parent_id() == self.parent {
            compute();
            count += 1;
            counter.write_all_at(&count.to_ne_bytes(), self.slot * 8)?;
        }
        Ok(())
    }
}

/// The same each time, some tenths of a millisecond, without a look at memory.
fn compute() {
    let mut number = 1u64;
    for _ in 0..200_000 {
        // A step of Knuth's MMIX generator.
        number = black_box(
            number
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
}

/// Some that run; killed on drop.
#[derive(Debug)]
pub(crate) struct Neighbours {
    children: Vec<Child>,
    counters: File,
}

impl Neighbours {
    /// Starts all of them, and returns when each has begun to count.
    pub(crate) fn start(wanted: &[Neighbour]) -> Result<Self, Skipped> {
        let mut neighbours = Self {
            children: Vec::new(),
            counters: File::from(memfd_create(c"neighbours", MFdFlags::MFD_CLOEXEC)?),
        };
        neighbours.counters.set_len(wanted.len() as u64 * 8)?;
        let program = std::env::current_exe()?;
        for (slot, neighbour) in (0..).zip(wanted) {
            let role = Role::Neighbour(Neighbour {
                slot,
                ..neighbour.clone()
            });
            let child = role
                .command(&program, &[])?
                .stdin(Stdio::null())
                .stdout(neighbours.counters.try_clone()?)
                .spawn()?;
            neighbours.children.push(child);
        }
        neighbours.wait_for_all()?;
        Ok(neighbours)
    }

    /// For the standard input of a job.
    pub(crate) fn counters(&self) -> io::Result<Stdio> {
        Ok(self.counters.try_clone()?.into())
    }

    fn wait_for_all(&self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for slot in 0..self.children.len() as u64 {
            while read(&self.counters, slot)? == 0 {
                if deadline < Instant::now() {
                    return Err(io::Error::other("a neighbour does not begin to count"));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        if !self.children.is_empty() {
            // Until the kernel's averages of the load know of them.
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It has ended by itself, or is a child that may be killed; nothing else can fail here.
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// How far all neighbours have come that have a counter in `counters`.
pub(crate) fn progress(counters: &File) -> io::Result<u64> {
    let slots = counters.metadata()?.len() / 8;
    (0..slots).map(|slot| read(counters, slot)).sum()
}

fn read(counters: &File, slot: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    counters.read_exact_at(&mut bytes, slot * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}
