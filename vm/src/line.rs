// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The lines that the guest sends, one for each thing that happens.
//!
//! | line | meaning |
//! |---|---|
//! | `RUN SECONDS NAME` | it starts, and is killed after so many seconds |
//! | `PASS NAME`, `FAIL NAME: REASON`, `SKIP NAME: REASON` | how it ended |
//! | `\| TEXT` | what a program printed |
//! | `NOTE TEXT` | what the guest itself has to say |
//! | `N passed, N failed, N skipped` | the end |

use std::fmt;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Pass,
    /// Not as it should, and why.
    Fail(String),
    /// It did nothing, and why.
    Skip(String),
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Ended as they should.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
    /// Did nothing.
    pub skipped: usize,
}

/// One line from the guest to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Something starts and may take so many seconds.
    Run {
        /// How long it may take.
        seconds: u64,
        /// What starts.
        name: String,
    },
    /// Something ended.
    Ended {
        /// What ended.
        name: String,
        /// How.
        verdict: Verdict,
    },
    /// A program's output.
    Output(String),
    /// The guest's own words.
    Note(String),
    /// All is done.
    Summary(Summary),
}

impl Line {
    /// Reads what [`fmt::Display`] wrote; nothing else is a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        if let Some(summary) = Summary::parse(line) {
            return Some(Self::Summary(summary));
        }
        // An empty line of output has lost its blank on the way, or never had one.
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let with_reason = |verdict: fn(String) -> Verdict| {
            let (name, reason) = rest.split_once(": ")?;
            Some(Self::Ended {
                name: name.to_owned(),
                verdict: verdict(reason.to_owned()),
            })
        };
        match word {
            "RUN" => {
                let (seconds, name) = rest.split_once(' ')?;
                Some(Self::Run {
                    seconds: seconds.parse().ok()?,
                    name: name.to_owned(),
                })
            }
            "PASS" => Some(Self::Ended {
                name: rest.to_owned(),
                verdict: Verdict::Pass,
            }),
            "FAIL" => with_reason(Verdict::Fail),
            "SKIP" => with_reason(Verdict::Skip),
            "|" => Some(Self::Output(rest.to_owned())),
            "NOTE" => Some(Self::Note(rest.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { seconds, name } => write!(f, "RUN {seconds} {name}"),
            Self::Ended { name, verdict } => match verdict {
                Verdict::Pass => write!(f, "PASS {name}"),
                Verdict::Fail(reason) => write!(f, "FAIL {name}: {}", one_line(reason)),
                Verdict::Skip(reason) => write!(f, "SKIP {name}: {}", one_line(reason)),
            },
            Self::Output(text) => write!(f, "| {}", one_line(text)),
            Self::Note(text) => write!(f, "NOTE {}", one_line(text)),
            Self::Summary(summary) => summary.fmt(f),
        }
    }
}

impl Summary {
    /// Counts one more.
    pub fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Pass => self.passed += 1,
            Verdict::Fail(_) => self.failed += 1,
            Verdict::Skip(_) => self.skipped += 1,
        }
    }

    /// How many ended at all.
    #[must_use]
    pub fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }

    fn parse(line: &str) -> Option<Self> {
        let mut counts = line.split(", ");
        let mut count = |what: &str| -> Option<usize> {
            let (number, word) = counts.next()?.split_once(' ')?;
            (word == what).then_some(number)?.parse().ok()
        };
        let summary = Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("skipped")?,
        };
        counts.next().is_none().then_some(summary)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A reason is what follows on one line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(line: Line, expected: &str) {
        assert_eq!(line.to_string(), expected);
        assert_eq!(Line::parse(expected), Some(line));
    }

    #[test]
    fn what_is_written_is_read() {
        let ended = |verdict| Line::Ended {
            name: "vm_x::y".into(),
            verdict,
        };
        read_back(ended(Verdict::Pass), "PASS vm_x::y");
        read_back(
            ended(Verdict::Fail("left: 1, right: 2".into())),
            "FAIL vm_x::y: left: 1, right: 2",
        );
        read_back(
            ended(Verdict::Skip("no device".into())),
            "SKIP vm_x::y: no device",
        );
        read_back(Line::Output("PASS no".into()), "| PASS no");
        read_back(Line::Note("1 s".into()), "NOTE 1 s");
        let run = Line::Run {
            seconds: 120,
            name: "vm_x::y".into(),
        };
        read_back(run, "RUN 120 vm_x::y");
        let summary = Summary {
            passed: 3,
            failed: 0,
            skipped: 12,
        };
        read_back(Line::Summary(summary), "3 passed, 0 failed, 12 skipped");
    }

    #[test]
    fn a_reason_stays_on_its_line() {
        let line = Line::Ended {
            name: "a".into(),
            verdict: Verdict::Fail("1\n2 passed, 0 failed, 0 skipped".into()),
        };
        assert_eq!(line.to_string(), "FAIL a: 1 2 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn other_text_is_no_line() {
        for text in [
            "",
            "PASSED a",
            "FAIL a",
            "RUN x a",
            "1 passed, 2 failed",
            "1 passed, 2 failed, 3 skipped, 4 lost",
        ] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
        assert_eq!(Line::parse("|"), Some(Line::Output(String::new())));
    }
}
