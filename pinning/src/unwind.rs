// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The panic policy, in one place: a panic in the caller's code stops the job, the undo runs, and the payload resumes
//! on the calling thread.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `code` and turns its panic into an `Err`.
///
/// Whatever `code` left half done is not looked at again: the job only calls `undo` for pieces whose `run` had
/// returned, and then resumes the panic.
pub(crate) fn halt_unwinding<T>(code: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(code))
}

/// The text of a panic, where it has one.
pub(crate) fn message(payload: &Payload) -> String {
    payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
