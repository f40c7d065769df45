// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Stand-ins for the kernel, for tests and benches only: they record, fail on demand, and notice misuse.

#![forbid(unsafe_code)]

pub mod header;
mod kernel;
mod target;

pub use kernel::{Event, FakeError, FakeKernel, Hook};
pub use target::{FakeSession, FakeTarget};
