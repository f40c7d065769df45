// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Signals that wait for the calling thread or for its process, from two masks of its status file (proc(5)).
//!
//! ```text
//! SigPnd: 0000000000000002     sent to this thread      bit 1: SIGINT (2)
//! ShdPnd: 0000000000004000     sent to the process      bit 14: SIGTERM (15)
//! ```
//!
//! # Gotchas
//!
//! A signal waits only while it is blocked; one that is not is delivered at once, or ignored. A VMM that takes its
//! signals through a signalfd blocks them in all of its threads, so that they wait here until it reads them.

use crate::{
    error::ReadError,
    keyed::{hexadecimal, shown, value},
    root::Root,
};

const THREAD: &str = "SigPnd:";
const PROCESS: &str = "ShdPnd:";

/// What asks a process to end, in the order in which it is looked for: SIGTERM, SIGINT, SIGQUIT, SIGHUP.
const TERMINATION: [i32; 4] = [15, 2, 3, 1];

/// A set of signals that were sent and not yet delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingSignals(u64);

impl PendingSignals {
    /// The signals that wait for the calling thread or its process now; one small file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or lacks one of the lines.
    pub fn current() -> Result<Self, ReadError> {
        Self::read(&Root::live())
    }

    /// The signals that the files below `root` describe.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or lacks one of the lines.
    pub fn read(root: &Root) -> Result<Self, ReadError> {
        let (path, status) = root.own_text("status")?;
        parse(&status).map_err(|key| {
            let why = format!("no usable line {}", key.trim_end_matches(':'));
            ReadError::garbled(&path, shown(&status, key), why)
        })
    }

    /// Whether `signal` waits; never for a number that is no signal's.
    pub fn contains(&self, signal: i32) -> bool {
        let bit = u32::try_from(signal).ok().and_then(|n| n.checked_sub(1));
        let mask = bit.and_then(|bit| 1_u64.checked_shl(bit));
        mask.is_some_and(|mask| self.0 & mask != 0)
    }

    /// The signal that asks the process to end, if one waits: the first of SIGTERM, SIGINT, SIGQUIT and SIGHUP.
    pub fn termination(&self) -> Option<i32> {
        TERMINATION
            .into_iter()
            .find(|&signal| self.contains(signal))
    }
}

/// The two lines of a status file, or the key of the first that is of no use.
pub(crate) fn parse(status: &str) -> Result<PendingSignals, &'static str> {
    let mask = |key| value(status, key).and_then(hexadecimal).ok_or(key);
    Ok(PendingSignals(mask(THREAD)? | mask(PROCESS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(thread: &str, process: &str) -> Result<PendingSignals, &'static str> {
        parse(&format!(
            "SigQ:\t0/9\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\tffffffffffffffff\n"
        ))
    }

    #[test]
    fn signals_of_the_thread_and_of_the_process() {
        const NONE: &str = "0000000000000000";
        let cases = [
            (NONE, NONE, None),
            (NONE, "0000000000004000", Some(15)),
            ("0000000000000002", NONE, Some(2)),
            ("0000000000000002", "0000000000004000", Some(15)),
            ("0000000000000001", "0000000000000004", Some(3)),
            ("0000000000000001", NONE, Some(1)),
            // SIGKILL, SIGCHLD and the last of the real-time signals.
            ("0000000000000100", "8000000000010000", None),
            ("ffffffffffffffff", NONE, Some(15)),
        ];
        for (thread, process, expected) in cases {
            let signals = pending(thread, process).unwrap();
            assert_eq!(signals.termination(), expected, "{thread} {process}");
        }
    }

    #[test]
    fn numbers_that_are_no_signals_never_wait() {
        let all = PendingSignals(u64::MAX);
        let found: Vec<i32> = (-2..70).filter(|&signal| all.contains(signal)).collect();
        assert_eq!(found, (1..=64).collect::<Vec<_>>());
        assert!(!all.contains(i32::MIN) && !all.contains(i32::MAX));
        assert!(!PendingSignals::default().contains(15));
    }

    #[test]
    fn what_is_no_mask() {
        for mask in ["", "x", "-1", "0x4000", "10000000000000000"] {
            assert_eq!(pending(mask, "0"), Err("SigPnd:"), "{mask:?}");
            assert_eq!(pending("0", mask), Err("ShdPnd:"), "{mask:?}");
        }
        assert_eq!(parse(""), Err("SigPnd:"));
        assert_eq!(parse("SigPnd:\t0\n"), Err("ShdPnd:"));
    }
}
