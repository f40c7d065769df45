// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host and the inside of the virtual machine of `cargo xtask vm` say to each other, and how both judge it.
//!
//! ```text
//!  host: xtask                                   guest: init, as PID 1
//!  Job ──────► /etc/job in the initramfs ──────► which programs, how long
//!  Boot ─────► the kernel's command line ──────► which of their tests
//!  relays ◄──── a virtio port ◄───────────────── Line after Line, a Summary as the last one
//!                                                   ▲ libtest: what a program's output says
//!                                                   ▲ kernel_log: what the kernel said meanwhile
//! ```
//!
//! Everything here works on text alone, so that it is tested on any machine.

#![forbid(unsafe_code)]

mod boot;
mod job;
mod kernel_log;
mod libtest;
mod line;

pub use boot::Boot;
pub use job::{Job, JobError, Mode};
pub use kernel_log::{LOST, complaints, message};
pub use libtest::{Ended, announcements, names, verdict};
pub use line::{Line, Summary, Verdict};
