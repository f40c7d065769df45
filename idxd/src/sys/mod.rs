// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All unsafe code of this crate but what passes a contract on: memory that a device reads and writes, portals, instructions.

#![expect(
    unsafe_code,
    reason = "a device reads and writes by address, and portals are written to by instructions"
)]

mod bytes;
mod destination;
mod fork;
mod instructions;
mod memory;
mod portal;
mod source;
mod span;

pub(crate) use bytes::as_bytes;
pub use destination::Destination;
pub use fork::Process;
pub use instructions::Instructions;
pub(crate) use instructions::wait_on;
pub(crate) use memory::TaskMemory;
pub(crate) use portal::Portal;
pub use source::Source;
pub use span::{Keep, SourceError};
