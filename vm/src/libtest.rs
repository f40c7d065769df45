// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the output of a test program means that ran one test with `--exact NAME --nocapture --test-threads=1`.
//!
//! Gotcha: libtest prints `test NAME ... ` without ending the line, so that a test's first line stands behind it.

use crate::line::Verdict;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
    /// By the runner, after so many seconds.
    TooLate(u64),
}

/// The tests in the answer to `--list --format terse`.
pub fn names(listing: &str) -> impl Iterator<Item = &str> {
    listing
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
}

/// Parts of lines that the test expects in the kernel's log.
#[must_use]
pub fn announcements(name: &str, output: &str) -> Vec<String> {
    let said = lines(name, output).filter_map(|line| line.strip_prefix("expects-kernel: "));
    said.map(|text| text.trim().to_owned()).collect()
}

/// How the test `name` ended; nothing counts as passed that did not run.
#[must_use]
pub fn verdict(name: &str, ended: Ended, output: &str) -> Verdict {
    match ended {
        Ended::TooLate(seconds) => Verdict::Fail(format!("killed after {seconds} s")),
        Ended::Signal(signal) => {
            Verdict::Fail(panicked(output).unwrap_or_else(|| format!("killed by signal {signal}")))
        }
        Ended::Code(0) => succeeded(name, output),
        Ended::Code(code) => {
            Verdict::Fail(panicked(output).unwrap_or_else(|| format!("exit code {code}")))
        }
    }
}

fn succeeded(name: &str, output: &str) -> Verdict {
    if let Some(reason) = lines(name, output).find_map(|line| line.strip_prefix("ignored")) {
        return match reason.strip_prefix(", ") {
            Some(reason) => Verdict::Skip(reason.to_owned()),
            None => Verdict::Fail("ignored without a reason".to_owned()),
        };
    }
    if !output.contains("test result: ok. 1 passed") {
        return Verdict::Fail("ended with success, but did not say that the test ran".to_owned());
    }
    let skipped = lines(name, output).find_map(|line| line.strip_prefix("skipped:"));
    match skipped.map(str::trim) {
        None => Verdict::Pass,
        Some("") => Verdict::Fail("skipped without a reason".to_owned()),
        Some(reason) => Verdict::Skip(reason.to_owned()),
    }
}

/// The lines of the output, without what libtest puts before the first one.
fn lines<'a>(name: &'a str, output: &'a str) -> impl Iterator<Item = &'a str> {
    output.lines().map(move |line| {
        line.strip_prefix("test ")
            .and_then(|rest| rest.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix(" ... "))
            .unwrap_or(line)
    })
}

/// The message of the first panic, and where it was.
fn panicked(output: &str) -> Option<String> {
    const PANICKED: &str = " panicked at ";
    let mut lines = output.lines();
    let place = lines.find_map(|line| {
        let (thread, place) = line.split_once(PANICKED)?;
        thread.contains("thread '").then_some(place)
    })?;
    let place = place.trim_end_matches(':');
    let message = lines.find(|line| !line.trim().is_empty()).unwrap_or("");
    Some(format!("{} ({place})", message.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "\nrunning 1 test\ntest a::b ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n";

    fn judge(ended: Ended, output: &str) -> Verdict {
        verdict("a::b", ended, output)
    }

    #[test]
    fn tests_are_listed_and_benches_are_not() {
        let listing = "a::b: test\nc: benchmark\nd: test\n";
        assert_eq!(names(listing).collect::<Vec<_>>(), ["a::b", "d"]);
    }

    #[test]
    fn only_what_ran_has_passed() {
        assert_eq!(judge(Ended::Code(0), PASSED), Verdict::Pass);
        let none = PASSED.replace("1 passed", "0 passed");
        assert!(matches!(judge(Ended::Code(0), &none), Verdict::Fail(_)));
        // As when a test calls exit(0).
        assert!(matches!(judge(Ended::Code(0), ""), Verdict::Fail(_)));
    }

    #[test]
    fn a_skip_needs_a_reason() {
        let skip = |word: &str| judge(Ended::Code(0), &PASSED.replace("... ok", word));
        assert_eq!(
            skip("... skipped: no device\nok"),
            Verdict::Skip("no device".into())
        );
        assert_eq!(
            skip("... one line\nskipped: no device\nok"),
            Verdict::Skip("no device".into())
        );
        assert_eq!(skip("... ignored, slow"), Verdict::Skip("slow".into()));
        assert!(matches!(skip("... ignored"), Verdict::Fail(_)));
        assert!(matches!(skip("... skipped:\nok"), Verdict::Fail(_)));
    }

    #[test]
    fn a_failure_gives_the_first_panic() {
        let output = "test a::b ... \nthread 'main' (7) panicked at tests/a.rs:1:2:\nassertion failed: x\n  left: 1\n\
                      note: run with\n\nthread 'main' panicked at other.rs:3:4:\nno\n";
        assert_eq!(
            judge(Ended::Code(101), output),
            Verdict::Fail("assertion failed: x (tests/a.rs:1:2)".into())
        );
        assert_eq!(
            judge(Ended::Code(2), "usage\n"),
            Verdict::Fail("exit code 2".into())
        );
        assert_eq!(
            judge(Ended::Signal(11), ""),
            Verdict::Fail("killed by signal 11".into())
        );
        assert_eq!(
            judge(Ended::TooLate(120), output),
            Verdict::Fail("killed after 120 s".into())
        );
    }

    #[test]
    fn announcements_are_found_behind_the_name_too() {
        let output = "test a::b ... expects-kernel: DMAR: [DMA Write\nother\nexpects-kernel: WARNING: CPU\nok\n";
        assert_eq!(
            announcements("a::b", output),
            ["DMAR: [DMA Write", "WARNING: CPU"]
        );
    }
}
