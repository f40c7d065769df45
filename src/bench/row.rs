// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Row`]: what is to be measured, and what it is held against.

use std::fmt;

/// What a side took, in the unit of its row, or why it cannot run here.
pub type Outcome = Result<f64, Skipped>;

/// One side of a comparison.
pub type Side<'s> = &'s mut dyn FnMut() -> Outcome;

/// Why something cannot be measured on this machine.
#[derive(Debug, Clone)]
pub struct Skipped(String);

impl Skipped {
    /// With every source of `error`, since the reason is often the last one.
    #[must_use]
    pub fn because(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        Self(text)
    }

    /// For a reason that is no error of anything.
    #[must_use]
    pub fn for_reason(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Skipped {
    fn from(error: E) -> Self {
        Self::because(&error)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a value is held against its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Of times: how many times faster; a target is the least.
    SpeedUp,
    /// How many times dearer; a target is the most.
    Cost,
    /// Of rates: how many times as much; a target is the least.
    Rate,
    /// How many times dearer; a target is the most that the value itself may be, in its unit.
    Limit,
    /// Of counts: whether they are the same; a target is 1.
    Same,
}

impl Compare {
    /// Of one pair.
    pub(super) fn ratio(self, baseline: f64, value: f64) -> f64 {
        match self {
            Self::SpeedUp => baseline / value,
            // Nothing, where there should be nothing.
            Self::Same if baseline == value => 1.0,
            Self::Cost | Self::Rate | Self::Limit | Self::Same => value / baseline,
        }
    }
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is called, without white space at its ends.
    pub name: String,
    /// Of value and baseline.
    pub unit: &'static str,
    /// Bytes behind a value in seconds, to show a rate.
    pub bytes: Option<u64>,
    /// How value and baseline are compared.
    pub compare: Compare,
    /// What is to be reached.
    pub target: Option<f64>,
}
