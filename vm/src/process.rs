// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs a program to its end or to its deadline, and leaves no other process behind.
//!
//! ```text
//!  spawn ─► poll its output ─► it ended? ─► kill whatever is left ─► reap ─► read the rest
//!                 └─ too late: say where its threads are, kill its group
//! ```
//!
//! A first process inherits every orphan: children are reaped here and nowhere else, so `Child::wait` is not used.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2},
};
use parapin_vm::Ended;

use crate::threads;

/// How often a child is asked for that keeps silent, and whose output somebody else holds open.
const TICK: Duration = Duration::from_millis(100);
/// How long a killed process may take to be gone.
const GRACE: Duration = Duration::from_secs(5);
/// What is kept of each end of a program's output: memory is what the tests are for.
const MOST_OUTPUT: usize = 1 << 20;

/// How a program ended, and what it printed on both of its outputs.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ended: Ended,
    pub(crate) output: String,
}

/// Runs `command` in a process group of its own. `live` gets each piece of the output as it comes.
pub(crate) fn run(
    mut command: Command,
    limit: Duration,
    mut live: impl FnMut(&str),
) -> Result<Finished> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer)
        .process_group(0);
    let child = command.spawn().with_context(|| {
        format!(
            "cannot start {}",
            Path::new(command.get_program()).display()
        )
    })?;
    // The ends of the pipe that it holds: the last writer shall be the child.
    drop(command);
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid is an i32")?);
    let mut output = Output::new(reader.into());
    let ended = wait(pid, limit, &mut || output.read(TICK, &mut live));
    if let Ended::TooLate(_) = ended {
        let threads = threads::describe();
        live(&threads);
        output.keep(threads.as_bytes());
        // For whoever reads the log: who waits inside the kernel, on any CPU.
        let _ = fs::write("/proc/sysrq-trigger", "w");
        let _ = killpg(pid, Signal::SIGKILL);
    }
    // Whoever else holds the pipe could write for ever.
    kill_all();
    while output.read(Duration::ZERO, &mut live) {}
    Ok(Finished {
        ended,
        output: output.text(),
    })
}

/// Waits until a child ends; `pass_time` returns soon.
fn wait(pid: Pid, limit: Duration, pass_time: &mut dyn FnMut() -> bool) -> Ended {
    let deadline = Instant::now() + limit;
    loop {
        pass_time();
        if let Some(ended) = reap(pid) {
            return ended;
        }
        if Instant::now() > deadline {
            return Ended::TooLate(limit.as_secs());
        }
    }
}

/// Waits for a child that is neither watched nor limited.
pub(crate) fn wait_for(pid: u32) -> Result<Ended> {
    let pid = Pid::from_raw(i32::try_from(pid).context("a pid is an i32")?);
    loop {
        if let Some(ended) = reap(pid) {
            return Ok(ended);
        }
        thread::sleep(TICK);
    }
}

/// Reaps every child that has ended; says how this one did, if it did.
fn reap(pid: Pid) -> Option<Ended> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(who, code)) if who == pid => ended = Some(Ended::Code(code)),
            Ok(WaitStatus::Signaled(who, signal, _)) if who == pid => {
                ended = Some(Ended::Signal(signal as i32));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(_) => {}
        }
    }
}

/// What a test left running would disturb the next one. Whoever loses its parent becomes a child of this process, so
/// that all are gone when there is no child any more.
fn kill_all() {
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        // To everybody but the caller; always succeeds, since kernel threads get it too, and ignore it.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(1)),
            Ok(_) | Err(_) => {}
        }
    }
}

/// The reading end of a program's output.
#[derive(Debug)]
struct Output {
    pipe: File,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// How many bytes between the two are lost.
    cut: usize,
    is_at_end: bool,
}

impl Output {
    fn new(pipe: File) -> Self {
        Self {
            pipe,
            head: Vec::new(),
            tail: Vec::new(),
            cut: 0,
            is_at_end: false,
        }
    }

    /// Reads one piece if there is any within `time`. Returns whether there was.
    fn read(&mut self, time: Duration, live: &mut impl FnMut(&str)) -> bool {
        if self.is_at_end {
            thread::sleep(time.min(Duration::from_millis(1)));
            return false;
        }
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        let mut watched = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut watched, timeout).is_ok_and(|ready| ready > 0) {
            return false;
        }
        let mut piece = [0; 65536];
        match self.pipe.read(&mut piece) {
            Ok(0) => self.is_at_end = true,
            Ok(length) => {
                live(&String::from_utf8_lossy(&piece[..length]));
                self.keep(&piece[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.is_at_end = true,
        }
        !self.is_at_end
    }

    /// The end counts as much as the beginning: that is where a panic is.
    fn keep(&mut self, piece: &[u8]) {
        let room = MOST_OUTPUT.saturating_sub(self.head.len());
        let (head, tail) = piece.split_at(piece.len().min(room));
        self.head.extend(head);
        self.tail.extend(tail);
        // Twice as much, so that not every piece moves all of it.
        if self.tail.len() > 2 * MOST_OUTPUT {
            let surplus = self.tail.len() - MOST_OUTPUT;
            self.tail.drain(..surplus);
            self.cut += surplus;
        }
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.cut > 0 {
            text += &format!("\n--- {} bytes are left out\n", self.cut);
        }
        text + &String::from_utf8_lossy(&self.tail)
    }
}
