// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All unsafe code of this crate: the promise about a guest's memory, and the system calls that rely on it.
#![expect(
    unsafe_code,
    reason = "memory is handed to the kernel by address; each block proves its contract"
)]

pub(crate) mod ioas;
pub(crate) mod mapping;
#[cfg(feature = "vfio-ioctls")]
pub(crate) mod ops;
pub(crate) mod policy;
pub(crate) mod region;
pub(crate) mod ring;
pub(crate) mod type1;
