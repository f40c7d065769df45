// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages through IAA, and by the CPU wherever that has no room or trouble.
//!
//! ```text
//!          ┌─► task of up to 64 descriptors ─► queue ─► device ─► completions ─┬─ done
//!  pages ──┤    (open until all are taken)      │ full                          ├─ page fault: touched, once more
//!          │                                    ▼                               ▼
//!          └────────── the CPU, from the other end ◄── Policy ◄──────────── anything else
//! ```
//!
//! Devices take pages from the front and the CPU from the end, so that they meet once and nobody holds a place for the other.
//! A completion is believed if it says success and its sizes can be; whatever else a device says or does not say, the CPU does the
//! page. Queues rest as those of DSA do: see `health.rs`.

mod channel;
mod operation;
mod options;
mod pages;
mod policy;
mod run;

pub(super) use channel::IaaChannel;
pub(super) use operation::{Operation, Verdict};
pub use options::IaaOptions;
pub(super) use options::IaaQueues;
pub use policy::{Policy, UnknownPolicyError};
