// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One thing that was looked at, and what is to be said about it.

use super::host::Unreadable;

/// What is to be thought of one row, or of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not there, and not needed for what was asked.
    Absent,
    /// It works, but slower or less safely than it could; or it could not be found out.
    Warn,
    /// What was asked for cannot work.
    Fail,
}

impl Verdict {
    /// The word in reports: `ok`, `absent`, `warn` or `fail`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Absent => "absent",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at. All text is in one line and fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// A stable name, such as `iommu` or `hugetlb-2m`; at most once in a check.
    pub id: String,
    /// What there is.
    pub found: String,
    /// What has to be there, or why it matters.
    pub needed: String,
    /// What is to be thought of it.
    pub verdict: Verdict,
    /// One command or setting that changes it; there is one wherever the verdict is `Warn` or `Fail`.
    pub remedy: Option<String>,
}

impl Row {
    pub(super) fn ok(id: &str, found: impl Into<String>, needed: impl Into<String>) -> Self {
        Self::new(id, found.into(), needed.into(), Verdict::Ok, None)
    }

    pub(super) fn absent(id: &str, found: impl Into<String>, needed: impl Into<String>) -> Self {
        Self::new(id, found.into(), needed.into(), Verdict::Absent, None)
    }

    /// Absent, with what would bring it.
    pub(super) fn optional(
        id: &str,
        found: impl Into<String>,
        needed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self::new(id, found.into(), needed.into(), Verdict::Absent, remedy)
    }

    pub(super) fn warn(
        id: &str,
        found: impl Into<String>,
        needed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self::new(id, found.into(), needed.into(), Verdict::Warn, remedy)
    }

    pub(super) fn fail(
        id: &str,
        found: impl Into<String>,
        needed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self::new(id, found.into(), needed.into(), Verdict::Fail, remedy)
    }

    /// What is missing: a failure where it was asked for, and nothing but absent elsewhere.
    pub(super) fn missing(
        id: &str,
        asked: bool,
        found: impl Into<String>,
        needed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        if asked {
            Self::fail(id, found, needed, remedy)
        } else {
            Self::optional(id, found, needed, remedy)
        }
    }

    pub(super) fn unreadable(id: &str, why: &Unreadable, needed: impl Into<String>) -> Self {
        Self::warn(
            id,
            format!("could not be read: {why}"),
            needed,
            format!("let this user read `{}`, or look into it", why.path()),
        )
    }

    fn new(
        id: &str,
        found: String,
        needed: String,
        verdict: Verdict,
        remedy: Option<String>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            found,
            needed,
            verdict,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_verdict_is_the_greatest() {
        let order = [Verdict::Ok, Verdict::Absent, Verdict::Warn, Verdict::Fail];
        assert!(order.is_sorted());
        assert_eq!(order.map(Verdict::name), ["ok", "absent", "warn", "fail"]);
    }

    #[test]
    fn what_is_missing_fails_only_where_it_was_asked_for() {
        let row = |asked| Row::missing("x", asked, "none", "one", "get one");
        assert_eq!(row(true).verdict, Verdict::Fail);
        assert_eq!(row(false).verdict, Verdict::Absent);
        assert!(row(true).remedy.is_some() && row(false).remedy.is_some());
    }
}
