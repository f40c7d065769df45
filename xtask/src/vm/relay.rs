// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Listens to the machine, tells what it says, and never waits longer than something may take.
//!
//! ```text
//!  QEMU's standard output ─► reader (thread) ─► channel ─► Relay ─► standard output: PASS, FAIL, SKIP, output of benches
//!                                              ▲ deadline        └► standard error: notes, output of failed tests
//! ```

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use parapin_vm::{Line, Mode, Summary, Verdict};

/// From power-on to the first line, on a busy host.
const BOOT: Duration = Duration::from_secs(180);
/// Between two programs, and what the guest's own deadline may be late.
const SLACK: Duration = Duration::from_secs(90);

/// Why the machine will not say anything any more, without a summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// QEMU has ended.
    Ended,
    /// It has not said anything for too long.
    Silent(Duration),
    /// All of it took too long.
    TooLong(Duration),
}

/// What has been heard.
#[derive(Debug)]
pub(crate) struct Relay {
    mode: Mode,
    /// What runs now.
    running: Option<String>,
    /// How long nothing may be heard.
    patience: Duration,
    summary: Summary,
    /// The part of it that the machine counts too.
    this_boot: Summary,
}

/// Sends every line of `from` until it ends, or nobody listens any more.
pub(crate) fn read_lines(from: impl Read, to: &Sender<String>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        let text = String::from_utf8_lossy(&line);
        if to
            .send(text.trim_end_matches(['\n', '\r']).to_owned())
            .is_err()
        {
            break;
        }
        line.clear();
    }
}

impl Relay {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            running: None,
            patience: BOOT,
            summary: Summary::default(),
            this_boot: Summary::default(),
        }
    }

    /// Tells all lines up to the summary, which is the caller's to tell.
    pub(crate) fn listen(&mut self, lines: &Receiver<String>, whole: Duration) -> Result<(), Loss> {
        let begin = Instant::now();
        let mut last = begin;
        loop {
            let silent = self.patience.saturating_sub(last.elapsed());
            let left = whole.saturating_sub(begin.elapsed());
            match lines.recv_timeout(silent.min(left)) {
                Ok(line) => {
                    let line = Line::parse(&line);
                    // Output says nothing about progress: a hanging loop prints as well.
                    if !matches!(line, Some(Line::Output(_)) | None) {
                        last = Instant::now();
                    }
                    if line.is_some_and(|line| self.hear(line)) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Loss::Ended),
                Err(RecvTimeoutError::Timeout) if begin.elapsed() >= whole => {
                    return Err(Loss::TooLong(whole));
                }
                Err(RecvTimeoutError::Timeout) => return Err(Loss::Silent(self.patience)),
            }
        }
    }

    /// The machine is switched on, perhaps once more; the summary goes on.
    pub(crate) fn power_on(&mut self) {
        self.running = None;
        self.patience = BOOT;
        self.this_boot = Summary::default();
    }

    /// Counts what ended without an end.
    pub(crate) fn lose(&mut self, cause: &str) {
        let name = self.running.take().unwrap_or_else(|| "vm".to_owned());
        let verdict = Verdict::Fail(cause.to_owned());
        self.ended(name, verdict);
    }

    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    /// Returns whether this was the summary.
    fn hear(&mut self, line: Line) -> bool {
        match line {
            Line::Run { seconds, name } => {
                self.running = Some(name);
                self.patience = Duration::from_secs(seconds) + SLACK;
            }
            Line::Ended { name, verdict } => {
                self.running = None;
                self.patience = SLACK;
                self.ended(name, verdict);
            }
            // Of a test it is there to explain a failure, else it is what was asked for.
            Line::Output(text) if self.mode == Mode::Test => eprintln!("    {text}"),
            Line::Output(text) => println!("{text}"),
            Line::Note(text) => {
                self.patience = SLACK;
                eprintln!("vm: {text}");
            }
            Line::Summary(summary) => {
                if summary != self.this_boot {
                    self.lose(&format!("lines were lost: the machine counted {summary}"));
                }
                return true;
            }
        }
        false
    }

    fn ended(&mut self, name: String, verdict: Verdict) {
        self.summary.count(&verdict);
        self.this_boot.count(&verdict);
        let is_plain = self.mode == Mode::Script && verdict == Verdict::Pass;
        if !is_plain {
            println!("{}", Line::Ended { name, verdict });
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the machine ended"),
            Self::Silent(time) => write!(f, "the machine was silent for {} s", time.as_secs()),
            Self::TooLong(time) => write!(f, "the whole run took more than {} s", time.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn hear(lines: &str) -> (Relay, Result<(), Loss>) {
        let (sender, receiver) = mpsc::channel();
        read_lines(lines.as_bytes(), &sender);
        drop(sender);
        let mut relay = Relay::new(Mode::Test);
        let heard = relay.listen(&receiver, Duration::from_secs(60));
        (relay, heard)
    }

    #[test]
    fn a_run_ends_with_its_summary() {
        let (relay, heard) = hear(
            "NOTE up\r\nRUN 120 a::b\nPASS a::b\nRUN 120 a::c\n| PASS no\nSKIP a::c: why\n1 passed, 0 failed, 1 skipped\n",
        );
        assert_eq!(heard, Ok(()));
        assert_eq!(relay.summary().to_string(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_lost_line_is_noticed() {
        let (relay, heard) = hear("PASS a::b\n2 passed, 0 failed, 0 skipped\n");
        assert_eq!(heard, Ok(()));
        assert_eq!(relay.summary().to_string(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_machine_that_ends_early_has_lost_what_ran() {
        let (mut relay, heard) = hear("RUN 120 a::b\nPASS a::b\nRUN 120 a::c\n");
        assert_eq!(heard, Err(Loss::Ended));
        assert_eq!(relay.running.as_deref(), Some("a::c"));
        relay.lose("kernel panic");
        assert_eq!(relay.summary().to_string(), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn output_alone_does_not_keep_a_run_alive() {
        let (sender, receiver) = mpsc::channel();
        sender.send("| still here".to_owned()).unwrap();
        let mut relay = Relay::new(Mode::Test);
        relay.patience = Duration::from_millis(20);
        let lost = relay.listen(&receiver, Duration::from_secs(60));
        assert_eq!(lost, Err(Loss::Silent(Duration::from_millis(20))));
        let lost = relay.listen(&receiver, Duration::ZERO);
        assert_eq!(lost, Err(Loss::TooLong(Duration::ZERO)));
    }
}
