// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A model of DSA and IAA devices inside this process: real descriptors, real completion records, no hardware.
//!
//! ```text
//!  Queue ──► ModelPort ── descriptors ──► device: waits its turn by the clock ──► execute ──► records
//!                │                                                     ▲
//!                └── full, dropped, refused                  Behaviour: faults, silence, delay, halt
//! ```
//!
//! It checks what a device checks (opcodes, flags, reserved fields, sizes, counts, alignment) and reads the memory that
//! descriptors name at the time when it works on them. What it does wrong, it does as its [`Behaviour`] says. It answers at a
//! [`Rate`] by the clock, from the memory or from [prepared results](Device::prepared), so that a machine of two CPUs can
//! measure what submitting and completing costs without spending one on playing the device.
//!
//! **It is a model.** Rules are those of the kernel's header and of what others wrote about the hardware; where these were
//! wrong, it is wrong.

mod analytics;
mod behaviour;
mod bus;
mod crc;
mod deflate;
mod device;
mod door;
mod execute;
mod host;
mod port;
mod said;
mod tenants;
mod trouble;

pub use behaviour::{Behaviour, EntryFate, Honest, MemberFate};
pub use device::{Counts, Device, Output, Prepared, PreparedOutputs, Rate};
pub use host::Model;
pub use tenants::Tenants;
pub use trouble::{Chances, Random};
