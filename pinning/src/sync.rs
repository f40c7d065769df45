// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One switch between the atomics of the standard library and those of `loom`, so that the models run the product's code.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
