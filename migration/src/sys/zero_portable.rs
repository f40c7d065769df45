// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any CPU, and ranges that are shorter than a block of the others: words, by atomic loads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();
/// Words between two tests.
const STEP: usize = 8;

/// Whether `len` bytes from `start` on are all zero; returns after the first eight words that are not. Fetches
/// nothing ahead.
///
/// # Safety
///
/// The bytes are mapped and readable; others may write to them meanwhile.
pub(super) unsafe fn is_zero(start: *const u8, len: usize, _: usize) -> bool {
    let head = start.align_offset(WORD).min(len);
    let words = (len - head) / WORD;
    let tail = head + words * WORD;
    let byte = |at: usize| {
        // SAFETY: `at` is below `len`, and so a readable byte (the caller's promise).
        unsafe { load_byte(start.wrapping_add(at)) }
    };
    let word = |index: usize| {
        // SAFETY: `index` is below `words`: eight readable bytes, aligned because `head` is where alignment begins.
        unsafe { load_word(start.wrapping_add(head + index * WORD)) }
    };
    if (0..head).any(|at| byte(at) != 0) {
        return false;
    }
    let steps = words / STEP;
    for step in 0..steps {
        let ored = (0..STEP).fold(0, |ored, index| ored | word(step * STEP + index));
        if ored != 0 {
            return false;
        }
    }
    (steps * STEP..words).all(|index| word(index) == 0) && (tail..len).all(|at| byte(at) == 0)
}

/// Loads the same bytes and tests nothing: the limit that [`is_zero`] is held against.
///
/// # Safety
///
/// As for [`is_zero`].
pub(super) unsafe fn read(start: *const u8, len: usize) {
    let head = start.align_offset(WORD).min(len);
    for index in 0..(len - head) / WORD {
        // SAFETY: as in `is_zero`.
        let word = unsafe { load_word(start.wrapping_add(head + index * WORD)) };
        // Or else the compiler leaves the load out.
        std::hint::black_box(word);
    }
}

/// # Safety
///
/// The byte is readable, and all that writes to it meanwhile is volatile, atomic or not of this program.
pub(super) unsafe fn load_byte(at: *const u8) -> u8 {
    // SAFETY: the caller's promise; one byte is always aligned.
    let byte = unsafe { AtomicU8::from_ptr(at.cast_mut()) };
    // Relaxed: a value of its own, through which no other memory is read.
    byte.load(Ordering::Relaxed)
}

/// # Safety
///
/// As for [`load_byte`], for eight bytes at a multiple of eight.
pub(super) unsafe fn load_word(at: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    let word = unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) };
    // Relaxed: as for `load_byte`.
    word.load(Ordering::Relaxed)
}
