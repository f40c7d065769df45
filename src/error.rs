// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`PinError`]: why a pin call failed, what the user can change, and what it left behind (usually nothing).

use std::fmt;

use cgroup::{MemoryBudget, Shortage};
use pinning::{JobError, PlanError, RunError, RunErrorKind};
use thiserror::Error;
use vfio::{Accounting, Addressing, FaultAt, FaultKind, PinFault, Placed, Regions, SurveyError};

use crate::{PinErrorKind, PinReport, budget};

/// A pin call that failed. Unless [`left_pinned`](Self::left_pinned) says otherwise, nothing of it is left.
#[derive(Debug, Error)]
#[error("{}", detail.message)]
pub struct PinError {
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    detail: Box<Detail>,
}

#[derive(Debug)]
struct Detail {
    message: String,
    kind: PinErrorKind,
    remedy: Option<String>,
    at: Option<FaultAt>,
    chunks_undone: u64,
    left_pinned: Vec<Placed>,
    report: Option<PinReport>,
}

impl PinError {
    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> PinErrorKind {
        self.detail.kind
    }

    /// What the user can change.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.detail.remedy.as_deref()
    }

    /// Where it failed, where that is known.
    #[must_use]
    pub fn at(&self) -> Option<FaultAt> {
        self.detail.at
    }

    /// Completed chunks that were undone.
    #[must_use]
    pub fn chunks_undone(&self) -> u64 {
        self.detail.chunks_undone
    }

    /// What could not be undone and may still be pinned; empty where all went well.
    #[must_use]
    pub fn left_pinned(&self) -> &[Placed] {
        &self.detail.left_pinned
    }

    /// What had been done before the failure, where the job had started.
    #[must_use]
    pub fn report(&self) -> Option<&PinReport> {
        self.detail.report.as_ref()
    }

    fn new(kind: PinErrorKind, message: impl fmt::Display) -> Self {
        Self {
            source: None,
            detail: Box::new(Detail {
                message: message.to_string(),
                kind,
                remedy: None,
                at: None,
                chunks_undone: 0,
                left_pinned: Vec::new(),
                report: None,
            }),
        }
    }

    fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.detail.remedy = Some(remedy.into());
        self
    }

    /// The thread of a call that should have been started early.
    pub(crate) fn no_thread(error: &std::io::Error) -> Self {
        Self::new(
            PinErrorKind::Other,
            format!("no thread could be started: {error}"),
        )
        .with_remedy("raise ulimit -u or pids.max, or pin without starting early")
    }

    /// Limits that are too low, found before the first page was touched.
    pub(crate) fn short(shortages: &[Shortage]) -> Self {
        let Some(first) = shortages.first() else {
            return Self::new(PinErrorKind::Other, "a limit is too low");
        };
        let all: Vec<String> = shortages.iter().map(ToString::to_string).collect();
        Self::new(first.kind.into(), all.join("; ")).with_remedy(first.remedy.clone())
    }

    /// A fault of the target; for a lack of memory it looks up what there was too little of.
    pub(crate) fn of_fault(fault: PinFault, regions: &Regions, accounting: Accounting) -> Self {
        let (kind, detail, remedy) = match fault.kind {
            FaultKind::NoMemory => no_memory(&fault, regions, accounting),
            kind => (kind.into(), None, None),
        };
        let message = match detail {
            Some(detail) => format!("{fault} ({detail})"),
            None => fault.to_string(),
        };
        let remedy = remedy.unwrap_or_else(|| fault.remedy.into_owned());
        let mut error = Self::new(kind, message).with_remedy(remedy);
        error.detail.at = fault.at;
        error.source = fault.errno.map(Into::into);
        error
    }

    /// A job that was stopped.
    pub(crate) fn of_run(
        error: RunError<PinFault>,
        report: Option<PinReport>,
        regions: &Regions,
        addressing: Addressing,
        accounting: Accounting,
    ) -> Self {
        let left: Vec<String> = error
            .left_pinned
            .iter()
            .map(|left| format!("{} ({})", left.chunk, left.reason))
            .collect();
        let mut failed = match (error.kind, error.source) {
            (RunErrorKind::Work, Some(fault)) => Self::of_fault(fault, regions, accounting),
            (RunErrorKind::Cancelled, _) => Self::new(PinErrorKind::Cancelled, "cancelled"),
            (RunErrorKind::Reentered, _) => Self::new(
                PinErrorKind::Other,
                "the crew is already at work for the job that called it",
            )
            .with_remedy("use another crew, or none, for a job inside a job"),
            (kind, _) => Self::new(PinErrorKind::Other, format!("the job stopped ({kind:?})")),
        };
        failed.detail.chunks_undone = error.chunks_undone;
        failed.detail.report = report;
        failed.detail.left_pinned = error
            .left_pinned
            .iter()
            .map(|left| regions.locate(&left.chunk, addressing))
            .collect();
        if !left.is_empty() {
            failed.detail.kind = PinErrorKind::UndoFailed;
            failed.detail.message = format!(
                "{}; could not be undone: {}",
                failed.detail.message,
                left.join(", ")
            );
        }
        failed
    }
}

/// The kernel says `ENOMEM` for a limit, for a lack of memory, and for a hole in the mapping: which one it was, what the
/// limit is, and the remedy.
fn no_memory(
    fault: &PinFault,
    regions: &Regions,
    accounting: Accounting,
) -> (PinErrorKind, Option<String>, Option<String>) {
    let budget = MemoryBudget::current();
    if let Some(short) = budget
        .check(&budget::locked(regions, accounting))
        .err()
        .and_then(|shortages| shortages.into_iter().next())
    {
        return (
            short.kind.into(),
            Some(short.to_string()),
            Some(short.remedy),
        );
    }
    if let (Some(_), Err(hole @ SurveyError::Unmapped { .. })) = (fault.at, regions.survey()) {
        return (PinErrorKind::BadAddress, Some(hole.to_string()), None);
    }
    let memlock = || {
        budget
            .limits()
            .iter()
            .find(|limit| limit.name == "RLIMIT_MEMLOCK")
    };
    match accounting {
        // No file shows what other processes of the user have locked.
        Accounting::User
            if !budget.lock_exempt() && memlock().is_some_and(|l| l.allows.is_some()) =>
        {
            let detail = "other processes of this user may have locked memory too";
            (PinErrorKind::Memlock, Some(detail.to_owned()), None)
        }
        _ => (PinErrorKind::OutOfMemory, None, None),
    }
}

/// For what fails before a pin call: making a target.
impl From<PinFault> for PinError {
    fn from(fault: PinFault) -> Self {
        let mut error = Self::new(fault.kind.into(), &fault).with_remedy(fault.remedy);
        error.detail.at = fault.at;
        error.source = fault.errno.map(Into::into);
        error
    }
}

impl From<SurveyError> for PinError {
    fn from(error: SurveyError) -> Self {
        let mut failed = match &error {
            SurveyError::Unmapped { .. } => Self::new(PinErrorKind::BadAddress, &error)
                .with_remedy("map the region for its whole length before it is pinned"),
            SurveyError::NotWritable { .. } => Self::new(PinErrorKind::BadAddress, &error)
                .with_remedy("map the region readable and writable"),
            _ => Self::new(PinErrorKind::Other, &error).with_remedy(
                "say what is behind each region (Region::with_backing) and switch the check off",
            ),
        };
        failed.source = match error {
            SurveyError::Read { source } => Some(Box::new(source)),
            _ => None,
        };
        failed
    }
}

impl From<JobError> for PinError {
    fn from(error: JobError) -> Self {
        let kind = match error {
            JobError::Overlap { .. } => PinErrorKind::Overlap,
            JobError::Alignment { .. } => PinErrorKind::Misaligned,
            _ => PinErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<PlanError> for PinError {
    fn from(error: PlanError) -> Self {
        let (kind, remedy) = match error {
            PlanError::AlignmentOverMaximum { .. } => (
                PinErrorKind::Misaligned,
                "use smaller pages, or another target",
            ),
            _ => (PinErrorKind::Entries, "use fewer and larger regions"),
        };
        Self::new(kind, error).with_remedy(remedy)
    }
}
