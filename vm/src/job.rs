// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest shall do: a file of lines `key value` in its initramfs.

use std::fmt::{self, Display, Write};

use crate::Boot;

/// What the guest does before it powers itself off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every test of every program in [`Job::TESTS`].
    Test,
    /// Every program in [`Job::BENCHES`].
    Bench,
    /// The commands in [`Job::SCRIPT`].
    Script,
    /// Whoever sits at the console.
    Shell,
}

/// One boot's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What to do.
    pub mode: Mode,
    /// How long one test, bench or script may take.
    pub seconds: u64,
    /// Only what has one of these in its name; everything if there is none.
    pub filters: Vec<String>,
    /// For each bench's own command line.
    pub arguments: Vec<String>,
}

/// A line of a job that makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub struct JobError(String);

impl Job {
    /// Where the guest finds its job.
    pub const FILE: &str = "/etc/job";
    /// Where the guest finds programs full of tests.
    pub const TESTS: &str = "/tests";
    /// Where the guest finds benches.
    pub const BENCHES: &str = "/benches";
    /// Where the guest finds examples, for tests to start.
    pub const EXAMPLES: &str = "/examples";
    /// Where the guest finds the commands of [`Mode::Script`].
    pub const SCRIPT: &str = "/etc/script";
    /// The guest's view of the directory that it shares with the host.
    pub const SHARE: &str = "/out";
    /// The tag of that directory, and the name of the port that takes the lines.
    pub const SHARE_TAG: &str = "out";
    /// The name of the virtio port that takes the lines.
    pub const PORT: &str = "parapin.results";
    /// The PCI addresses of the devices that are given to vfio-pci.
    pub const DEVICES: [&str; 2] = ["0000:00:02.0", "0000:00:03.0"];

    /// The boots that have some of `tests` to run, in their order.
    #[must_use]
    pub fn boots(&self, tests: &[String]) -> Vec<Boot> {
        let has_some = |boot: &Boot| tests.iter().any(|test| self.selects_in(*boot, test));
        Boot::ALL.into_iter().filter(has_some).collect()
    }

    /// Whether the test of this name is to run in this boot.
    #[must_use]
    pub fn selects_in(&self, boot: Boot, name: &str) -> bool {
        self.selects(name) && Boot::of_test(name) == boot
    }

    /// Whether something of this name is to run.
    #[must_use]
    pub fn selects(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter))
    }

    /// Reads what [`Display`] wrote.
    ///
    /// # Errors
    ///
    /// The first line that is unknown, or the key that is absent.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let (mut mode, mut seconds) = (None, None);
        let (mut filters, mut arguments) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let unknown = || JobError(format!("line `{line}` of the job is unknown"));
            let (key, value) = line.split_once(' ').ok_or_else(unknown)?;
            match key {
                "mode" => mode = Some(Mode::parse(value).ok_or_else(unknown)?),
                "seconds" => seconds = Some(value.parse().map_err(|_| unknown())?),
                "filter" => filters.push(value.to_owned()),
                "argument" => arguments.push(value.to_owned()),
                _ => return Err(unknown()),
            }
        }
        let absent = |key| JobError(format!("the job has no line `{key}`"));
        Ok(Self {
            mode: mode.ok_or_else(|| absent("mode"))?,
            seconds: seconds.ok_or_else(|| absent("seconds"))?,
            filters,
            arguments,
        })
    }
}

impl Mode {
    const ALL: [Self; 4] = [Self::Test, Self::Bench, Self::Script, Self::Shell];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Bench => "bench",
            Self::Script => "script",
            Self::Shell => "shell",
        }
    }
}

impl Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mode {}", self.mode.word())?;
        writeln!(f, "seconds {}", self.seconds)?;
        for (key, values) in [("filter", &self.filters), ("argument", &self.arguments)] {
            for value in values {
                write!(f, "{key} ")?;
                // A line ends a value.
                f.write_str(&value.replace('\n', " "))?;
                f.write_char('\n')?;
            }
        }
        Ok(())
    }
}

impl Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JobError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let job = Job {
            mode: Mode::Bench,
            seconds: 120,
            filters: vec!["a b".into(), "c".into()],
            arguments: vec!["--test".into()],
        };
        assert_eq!(Job::parse(&job.to_string()), Ok(job));
    }

    #[test]
    fn an_unknown_line_is_named() {
        let error = Job::parse("mode test\nseconds x\n").expect_err("x is no number");
        assert_eq!(error.to_string(), "line `seconds x` of the job is unknown");
        assert!(Job::parse("mode test\n").is_err());
    }

    #[test]
    fn only_what_has_something_to_run_is_booted() {
        let tests = ["a::b", "a::c_cgroup_v1", "d::e_without_iommu"].map(str::to_owned);
        let boots = |filters: &[&str]| {
            let mut job = Job::parse("mode test\nseconds 1\n").unwrap();
            job.filters = filters.iter().map(|&filter| filter.to_owned()).collect();
            job.boots(&tests)
        };
        assert_eq!(boots(&[]), Boot::ALL);
        assert_eq!(boots(&["a::"]), [Boot::Usual, Boot::CgroupV1]);
        assert_eq!(boots(&["c_"]), [Boot::CgroupV1]);
        assert_eq!(boots(&["d::"]), [Boot::WithoutIommu]);
        assert_eq!(boots(&["f"]), []);
    }

    #[test]
    fn filters_select_by_any_part_of_a_name() {
        let mut job = Job::parse("mode test\nseconds 1\n").unwrap();
        assert!(job.selects("pins::memfd"));
        job.filters = vec!["thp".into(), "::mem".into()];
        assert!(job.selects("pins::memfd") && !job.selects("pins::huge"));
    }
}
