// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs a program whose output is what one wants to see, and which has nothing but its exit code to say how it went.

use std::{process::Command, time::Duration};

use parapin_vm::{Ended, Job, Verdict};

use crate::{process, results::Results};

pub(crate) fn run(name: &str, command: Command, job: &Job, results: &mut Results) -> Verdict {
    let limit = Duration::from_secs(job.seconds);
    results.run(name, limit);
    let mut lines = Lines::default();
    let finished = process::run(command, limit, |piece| {
        lines.add(piece, |line| results.output(line));
    });
    lines.finish(|line| results.output(line));
    match finished {
        Ok(finished) => verdict(finished.ended),
        Err(error) => Verdict::Fail(format!("{error:#}")),
    }
}

fn verdict(ended: Ended) -> Verdict {
    match ended {
        Ended::Code(0) => Verdict::Pass,
        Ended::Code(code) => Verdict::Fail(format!("exit code {code}")),
        Ended::Signal(signal) => Verdict::Fail(format!("killed by signal {signal}")),
        Ended::TooLate(seconds) => Verdict::Fail(format!("killed after {seconds} s")),
    }
}

/// Whole lines out of pieces.
#[derive(Debug, Default)]
struct Lines {
    begun: String,
}

impl Lines {
    fn add(&mut self, piece: &str, mut each: impl FnMut(&str)) {
        self.begun += piece;
        while let Some(end) = self.begun.find('\n') {
            each(&self.begun[..end]);
            self.begun.drain(..=end);
        }
    }

    /// The last line may have no end.
    fn finish(&mut self, each: impl FnOnce(&str)) {
        if !self.begun.is_empty() {
            each(&std::mem::take(&mut self.begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for piece in ["a", "b\nc\n\n", "d"] {
            lines.add(piece, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["ab", "c", "", "d"]);
    }
}
