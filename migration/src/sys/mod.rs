// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All unsafe code of this crate: guest memory is read by address, by instructions that the compiler does not see into.

#![expect(
    unsafe_code,
    reason = "guest memory is read by address while the guest writes to it"
)]

mod copy;
mod kernel;
mod mapping;
mod pages;
#[cfg(feature = "codecs")]
mod place;
#[cfg(feature = "codecs")]
mod touch;
#[cfg(feature = "codecs")]
mod vectored;
#[cfg(target_arch = "x86_64")]
mod zero_avx2;
#[cfg(target_arch = "x86_64")]
mod zero_avx512;
#[cfg(target_arch = "aarch64")]
mod zero_neon;
mod zero_portable;
#[cfg(target_arch = "x86_64")]
mod zero_sse2;

pub(crate) use copy::copy_page;
pub use kernel::{Isa, Kernel};
pub use mapping::{Backed, Mapping};
pub(crate) use pages::{Fetched, Pages};
#[cfg(feature = "codecs")]
pub(crate) use place::{Decompressor, Inflated, Place};
#[cfg(feature = "codecs")]
pub(crate) use touch::touch;
#[cfg(feature = "codecs")]
pub(crate) use vectored::{Pieces, Scattered};
