// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How fast memory can be read at all: the limit that finding zero pages is held against.

use idxd::Source;

use crate::Kernel;

/// Loads every byte of `source` in the steps of `kernel`, and tests none.
pub fn read(source: &Source, kernel: Kernel) {
    kernel.read(source);
}
