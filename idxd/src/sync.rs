// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One switch between locks and threads of the standard library and those of `loom`, so that the models run the product's code.

use std::sync::PoisonError;
#[cfg(not(loom))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder as ThreadBuilder, JoinHandle},
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder as ThreadBuilder, JoinHandle},
};

/// Locks `mutex`, also after a panic: every critical section of this crate leaves a whole value behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
