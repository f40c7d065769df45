// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The [`Target`]: where pages are pinned, and the [`Session`] that holds the pins of one call.
//!
//! ```text
//!  Target ──constraints──► Plan ──begin──► Session ──run(chunk)──► kernel
//!                                             │    ──undo(chunk)─► kernel
//!                                             └─ dropped: what it still holds is released; kept: stays
//! ```

use pinning::{Constraints, Plan, Work};

use crate::{Addressing, PinFault, Regions};

/// A place where memory of a guest can be pinned.
///
/// A target only borrows what it needs from the VMM; what one pin call makes lives in its [`Session`].
pub trait Target {
    /// Holds what one call has pinned.
    type Session: Session;

    /// The name in reports, JSON and on the command line.
    fn name(&self) -> &'static str;

    /// Which addresses its chunks are cut by.
    fn addressing(&self) -> Addressing;

    /// Checks `regions`, before anything is touched, and says what it asks of a plan for them.
    ///
    /// # Errors
    /// [`PinFault`] where the regions cannot be pinned by this target, with the first region that cannot.
    fn constraints(&self, regions: &Regions) -> Result<Constraints, PinFault>;

    /// How the kernel counts what it pins.
    fn accounting(&self) -> Accounting;

    /// Makes ready for a run of `plan` over `regions`: everything that is not needed for each chunk happens here.
    ///
    /// # Errors
    /// [`PinFault`] without a place, where the kernel refuses.
    fn begin(&self, regions: &Regions, plan: &Plan) -> Result<Self::Session, PinFault>;
}

/// What one call has pinned; may be sent to and dropped on any thread.
///
/// Dropping it releases at once whatever has not been undone.
pub trait Session: Work<Error = PinFault> + Send {
    /// How it goes about it, for the report; after the run, what it has come down to.
    fn strategy(&self) -> &'static str;

    /// Whether several threads that take chunks back are faster than one.
    fn unpins_in_parallel(&self) -> bool {
        true
    }

    /// Leaves all pins in place until the process ends or the VMM removes them.
    fn keep(self);
}

/// How the kernel counts pinned pages against `RLIMIT_MEMLOCK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accounting {
    /// Nothing is pinned.
    Nothing,
    /// In a counter of the user that all his processes share and no file shows; also in `VmPin`.
    User,
    /// In `VmLck` of this process.
    Process,
}
