// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Work queues of the Linux idxd driver, Intel DSA and IAA, from user space. No policy.
//!
//! ```text
//!  sysfs ─► Discovery ─► WorkQueue ─► Queue::open ─┐
//!           AccelPaths ─┘                          ▼
//!  Source ─► Task ─► Flight ── submit ──────────► Queue ──► portal, write(), or a model
//!                      │                            │
//!                      └─► CompletionEngine ──► Ticket::wait ──► Task, with its completions
//! ```
//!
//! A device reads and writes this process's memory by address, with all its rights and at its own time. What it may touch
//! belongs to the task: a [`Source`] is promised once, by an `unsafe` constructor, and kept alive by every task that names
//! it; records are the task's own. Nothing of a task is freed or used again before the device is done with it: dropping a
//! [`Flight`] waits, and one that is not answered in time stays in the [`Queue`]'s quarantine until the queue is closed, which
//! has the driver drain it.
//!
//! How queues are set up, and what each failure means, is in `docs/accelerators.md`. Never run on hardware so far.

#[cfg(all(test, not(loom)))]
mod abi;
mod accel_path;
mod attribute;
mod descriptor;
mod desk;
mod device;
mod discovery;
mod engine;
mod estimate;
mod flight;
pub mod iaa;
mod kind;
#[cfg(feature = "model")]
pub mod model;
mod node;
mod open;
mod patience;
mod port;
mod queue;
mod queue_name;
mod record;
mod roots;
mod service;
mod setup;
mod slot;
mod split;
mod sync;
mod sys;
mod task;
mod unusable;
mod work_queue;

pub use accel_path::{AccelPath, AccelPathError, AccelPaths, ResolveError};
pub use descriptor::{Compress, Decompress, Descriptor, Flags, Opcode};
pub use device::{Device, DeviceState};
pub use discovery::{Discovery, DiscoveryError, LeftOut};
pub use engine::{CompletionEngine, StartError, Ticket};
pub use flight::{Flight, WaitError};
pub use kind::Kind;
pub use node::{LiveNodes, Node, Nodes};
pub use open::OpenError;
pub use port::{Port, PortError};
pub use queue::{Limits, Queue, QueueError, SubmitError};
pub use queue_name::{QueueName, QueueNameError};
pub use record::{Completion, IaxCompletion, IaxRecord, Record, Status};
pub use roots::Roots;

pub use sys::{Destination, Instructions, Keep, Process, Source, SourceError};
pub use task::{Task, TaskError};
pub use unusable::Unusable;
pub use work_queue::{Mode, QueueState, QueueType, WorkQueue};
