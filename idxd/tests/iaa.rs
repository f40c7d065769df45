// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! IAA: what it can decode, what the model's device makes and refuses, against zlib with a window of 4 KiB.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg_attr(
    feature = "model",
    expect(
        unsafe_code,
        reason = "gives descriptors to the model that no safe function makes"
    )
)]

#[path = "iaa/by_hand.rs"]
mod by_hand;
#[cfg(feature = "model")]
#[path = "iaa/compress.rs"]
mod compress;
#[cfg(feature = "model")]
#[path = "iaa/decompress.rs"]
mod decompress;
#[cfg(feature = "model")]
#[path = "stage/fly.rs"]
mod fly;
#[cfg(feature = "model")]
#[path = "iaa/operate.rs"]
mod operate;
#[cfg(feature = "model")]
#[path = "iaa/refusals.rs"]
mod refusals;
#[path = "iaa/samples.rs"]
mod samples;
#[cfg(feature = "model")]
#[path = "iaa/sharing.rs"]
mod sharing;
#[path = "iaa/streams.rs"]
mod streams;
#[cfg(feature = "model")]
#[path = "iaa/troubles.rs"]
mod troubles;
#[path = "iaa/zlib.rs"]
mod zlib;
