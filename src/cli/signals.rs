// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ctrl-C and SIGTERM: they cancel a job that runs, and end `--hold`.

use std::io;

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
        // Whoever started this may have had them blocked, and --hold would then wait for ever.
        let ours = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        ours.thread_unblock()?;
        Ok(Self { cancel, signals })
    }

    /// Returns when one of the signals has arrived.
    pub(crate) fn wait(&mut self) {
        let _ = self.signals.forever().next();
    }
}
