// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ctrl-C and SIGTERM: they cancel a job that runs, end `--hold`, and end a bench at once.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use nix::sys::signal::{SigSet, Signal};
use parapin::CancelToken;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

/// Signals that arrived since this was made are not lost.
#[derive(Debug)]
pub(crate) struct Interrupts {
    pub(crate) cancel: CancelToken,
    signals: Signals,
}

impl Interrupts {
    pub(crate) fn new() -> io::Result<Self> {
        let cancel = CancelToken::new();
        let signals = Signals::new([SIGINT, SIGTERM])?;
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, cancel.flag())?;
        }
        unblock()?;
        Ok(Self { cancel, signals })
    }

    /// Returns when one of the signals has arrived.
    pub(crate) fn wait(&mut self) {
        let _ = self.signals.forever().next();
    }
}

/// From now on either signal ends the process, as one that was cancelled: for work that leaves nothing behind.
pub(crate) fn end_at_once() -> io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, CANCELLED, Arc::clone(&always))?;
    }
    unblock()
}

/// The exit code of [`Exit::Cancelled`](super::Exit).
const CANCELLED: i32 = 130;

/// Whoever started this may have had them blocked, and --hold would then wait for ever.
fn unblock() -> io::Result<()> {
    let ours = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    Ok(ours.thread_unblock()?)
}
