// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Policy`]: what a channel does with a page for which no queue has room.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// What a channel does with a page for which no queue has room.
///
/// A queue hardly ever stays full for long, and a channel that waits for it uses no CPU, while one that compresses a page itself
/// makes the whole faster and costs as much as a page costs in software. Figures are in README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Three more tries at once; then the CPU takes a page, and the next one is tried on hardware again.
    Retry,
    /// Waits until there is room.
    Wait,
    /// Three more tries at once; then the page is put aside, and the CPU takes what is there after all others have been offered.
    SoftwareLater,
    /// A pause in front of each of three more tries; then the CPU takes a page.
    Delay,
    /// Three more tries at once; then the page is put aside, and offered once more after all others. What is refused then
    /// is for the CPU.
    HardwareLater,
    /// Three more tries at once, and then by the measured time of both ways: pages go to devices as far as these will be done with them before the CPU would be done
    /// with the others, and the CPU takes a page if it will be done with it before devices are with all that is left.
    #[default]
    Adaptive,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Retry,
        Self::Wait,
        Self::SoftwareLater,
        Self::Delay,
        Self::HardwareLater,
        Self::Adaptive,
    ];

    /// What the command line calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Wait => "wait",
            Self::SoftwareLater => "software-later",
            Self::Delay => "delay",
            Self::HardwareLater => "hardware-later",
            Self::Adaptive => "adaptive",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == name);
        named.ok_or_else(|| UnknownPolicyError {
            name: name.to_owned(),
        })
    }
}

/// A name that no policy has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{name:?} is no policy for full queues: take retry, wait, software-later, delay, hardware-later or adaptive"
)]
#[non_exhaustive]
pub struct UnknownPolicyError {
    /// The name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_name() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        let error = "never".parse::<Policy>().unwrap_err();
        assert!(error.to_string().contains("retry, wait"), "{error}");
    }
}
