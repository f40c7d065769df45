// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Exit codes, the same for all subcommands.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; also after `--hold`, a signal and a clean unpin.
    Done,
    /// Failed, with nothing left pinned.
    Failed,
    /// Wrong usage.
    Usage,
    /// Failed, and something stayed pinned.
    LeftPinned,
    /// Cancelled by a signal, and undone.
    Cancelled,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::LeftPinned => 3,
            Exit::Cancelled => 130,
        })
    }
}
