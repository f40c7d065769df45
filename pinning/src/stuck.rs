// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Stuck`]: a helper that makes no progress, and where the kernel has it.

use std::{fmt, time::Duration};

/// A helper that has been at one piece for longer than expected. The job waits for it: a piece in flight cannot be
/// taken from a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck<'a> {
    /// Which worker: helper `parapin-1` is 1.
    pub worker: usize,
    /// Its thread id; 0 where the helper has not even begun.
    pub thread: i32,
    /// First address and size in bytes of what it is at, in the coordinates of the job; `None` where it has not begun.
    pub at: Option<(u64, u64)>,
    /// For how long.
    pub time: Duration,
    /// The kernel's letter for the thread's state: `R` runs or waits for a CPU, `D` and `S` sleep (proc(5)).
    pub state: Option<char>,
    /// The kernel function in which it sleeps (`/proc/PID/wchan`); `None` where it runs, or where that may not be seen.
    pub wchan: Option<&'a str>,
}

/// Whom to tell of a helper that is stuck; called on the calling thread.
pub struct Alarm<'a> {
    /// How long a helper may be at one piece. It is told again each time as much has passed again.
    pub after: Duration,
    /// Is told.
    pub call: &'a mut dyn FnMut(&Stuck<'_>),
}

impl Alarm<'_> {
    /// An [`after`](Self::after) that no healthy machine reaches: a helper at one percent of a CPU has done its slice
    /// by then.
    pub const AFTER: Duration = Duration::from_secs(5);
}

impl fmt::Debug for Alarm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Stuck<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64();
        let Some((start, size)) = self.at else {
            return write!(
                f,
                "helper parapin-{} has not begun for {seconds:.1} s: it gets no CPU",
                self.worker
            );
        };
        write!(
            f,
            "helper parapin-{} (thread {}) has been at {start:#x}..{:#x} for {seconds:.1} s",
            self.worker,
            self.thread,
            start.saturating_add(size)
        )?;
        match (self.state, self.wchan) {
            (Some(state), Some(wchan)) => write!(f, ": state {state}, in the kernel's {wchan}"),
            (Some('R'), None) => write!(f, ": state R, it runs or waits for a CPU"),
            (Some(state), None) => write!(f, ": state {state}"),
            (None, _) => Ok(()),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_the_kernel_has_it() {
        let stuck = Stuck {
            worker: 2,
            thread: 77,
            at: Some((0x20_0000, 0x1000)),
            time: Duration::from_millis(5100),
            state: Some('D'),
            wchan: Some("folio_wait_bit"),
        };
        let here = "helper parapin-2 (thread 77) has been at 0x200000..0x201000 for 5.1 s";
        assert_eq!(
            stuck.to_string(),
            format!("{here}: state D, in the kernel's folio_wait_bit")
        );
        let running = Stuck {
            state: Some('R'),
            wchan: None,
            ..stuck
        };
        let text = format!("{here}: state R, it runs or waits for a CPU");
        assert_eq!(running.to_string(), text);
        let late = Stuck { at: None, ..stuck };
        assert_eq!(
            late.to_string(),
            "helper parapin-2 has not begun for 5.1 s: it gets no CPU"
        );
    }
}
