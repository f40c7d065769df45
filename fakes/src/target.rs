// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`FakeTarget`]: a target over a [`FakeKernel`], for tests of what stands above targets.

use std::{io, sync::Arc};

use pinning::{Chunk, Constraints, Plan, Work};
use vfio::{Accounting, Addressing, FaultKind, PinFault, Regions, Session, Target};

use crate::{FakeError, FakeKernel};

/// Pins nothing; the fake kernel behind it is shared with the test, and addresses are those of this process.
#[derive(Debug, Clone)]
pub struct FakeTarget {
    kernel: Arc<FakeKernel>,
}

impl FakeTarget {
    /// A target over `kernel`.
    #[must_use]
    pub fn new(kernel: &Arc<FakeKernel>) -> Self {
        Self {
            kernel: Arc::clone(kernel),
        }
    }
}

impl Target for FakeTarget {
    type Session = FakeSession;

    fn name(&self) -> &'static str {
        "fake"
    }

    fn addressing(&self) -> Addressing {
        Addressing::Hva
    }

    fn constraints(&self, _regions: &Regions) -> Result<Constraints, PinFault> {
        Ok(Constraints::default())
    }

    fn accounting(&self) -> Accounting {
        Accounting::Nothing
    }

    fn begin(&self, _regions: &Regions, _plan: &Plan) -> Result<FakeSession, PinFault> {
        Ok(FakeSession {
            kernel: Arc::clone(&self.kernel),
        })
    }
}

/// A run of a [`FakeTarget`]. Dropping it releases nothing, so that a test sees what was not undone.
#[derive(Debug)]
pub struct FakeSession {
    kernel: Arc<FakeKernel>,
}

impl Work for FakeSession {
    type Error = PinFault;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), PinFault> {
        self.kernel.run(chunk, worker).map_err(fault)
    }

    fn undo(&self, chunk: Chunk) -> Result<(), PinFault> {
        self.kernel.undo(chunk).map_err(fault)
    }
}

impl Session for FakeSession {
    fn strategy(&self) -> &'static str {
        "fake"
    }

    fn keep(self) {}
}

fn fault(error: FakeError) -> PinFault {
    PinFault {
        operation: "fake",
        at: None,
        kind: FaultKind::Other,
        cause: "as told".into(),
        remedy: "tell it otherwise".into(),
        errno: Some(io::Error::other(error)),
    }
}
