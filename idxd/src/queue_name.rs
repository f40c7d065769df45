// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`QueueName`]: `wqD.N`.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::attribute::decimal;

/// The name of a queue: the number of its device, and its own number there.
///
/// DSA and IAA devices are numbered together, so that it names one queue of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName {
    /// The number of its device: 1 of `iax1`.
    pub device: u32,
    /// Its number on that device.
    pub index: u32,
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wq{}.{}", self.device, self.index)
    }
}

impl FromStr for QueueName {
    type Err = QueueNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (device, index) = text.strip_prefix("wq")?.split_once('.')?;
            let number = |text| u32::try_from(decimal(text)?).ok();
            Some(Self {
                device: number(device)?,
                index: number(index)?,
            })
        };
        parse().ok_or(QueueNameError)
    }
}

/// Text that is no name of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a queue is named like wq0.1, with the number of its device and its own")]
#[non_exhaustive]
pub struct QueueNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = QueueName {
            device: 12,
            index: 0,
        };
        assert_eq!("wq12.0".parse(), Ok(name));
        assert_eq!(name.to_string(), "wq12.0");
        for text in [
            "",
            "wq",
            "wq0",
            "wq0.",
            "wq.0",
            "wq0.0.0",
            "wq00.1",
            "wq+1.0",
            "wq0.4294967296",
            "WQ0.0",
            "wq0.0\n",
            "engine0.0",
        ] {
            assert_eq!(text.parse::<QueueName>(), Err(QueueNameError), "{text:?}");
        }
    }
}
