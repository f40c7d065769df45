// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Copies between guest memory and this process's own, while the guest may write to its side.
//!
//! ```text
//!  guest memory ──copy_out, each byte read once──► a buffer of ours ──► a compressor, which may read it twice
//!  guest memory ◄──copy_in──────────────────────── a buffer of ours
//! ```
//!
//! A compressor that reads a byte twice and finds two values writes a stream of neither, or past its tables; and no Rust
//! reference may point to what somebody else writes to. So pages are copied by instructions that the compiler does not see
//! into, or atomically.

use idxd::Source;

/// Makes `to` what `to.len()` bytes from `from` on hold. Every byte is one that was there at some moment of the call.
///
/// # Safety
///
/// 1. The bytes are mapped and readable, at any alignment, and not a part of `to`.
/// 2. All that writes to them meanwhile is volatile, atomic, or not of this program.
#[inline]
pub(crate) unsafe fn copy_out(from: *const u8, to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: readable (1), writable because `to` is borrowed, and of the same length.
    unsafe {
        copy_bytes(from, to.as_mut_ptr(), to.len());
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promises.
    unsafe {
        copy_out_by_words(from, to);
    }
}

/// Makes `from.len()` bytes from `to` on what `from` holds.
///
/// # Safety
///
/// 1. The bytes are mapped and writable, at any alignment, and not a part of `from`.
/// 2. No Rust reference to them exists; all that accesses them meanwhile is volatile, atomic, or not of this program.
#[cfg(any(test, feature = "codecs"))]
#[inline]
pub(crate) unsafe fn copy_in(from: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: writable (1), readable because `from` is borrowed, and of the same length.
    unsafe {
        copy_bytes(from.as_ptr(), to, from.len());
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promises.
    unsafe {
        copy_in_by_words(from, to);
    }
}

/// Makes `to` what `source` holds from `offset` on; false, and `to` as it was, if not all of it lies inside.
pub(crate) fn copy_page(source: &Source, offset: u64, to: &mut [u8]) -> bool {
    let Ok(at) = usize::try_from(offset) else {
        return false;
    };
    if !source.contains(offset, to.len() as u64) {
        return false;
    }
    // SAFETY: inside of a source, whose bytes are readable whatever others write to them (`Source::new`), and no part of `to`,
    // which would be a Rust reference into it.
    unsafe { copy_out(source.as_ptr().wrapping_add(at), to) };
    true
}

/// # Safety
///
/// `len` bytes from `from` on are readable, as many from `to` on writable, and none is both.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the instruction copies `rcx` bytes from `rsi` to `rdi` upwards (the ABI keeps the direction flag clear), as the
    // caller allows, and the compiler does not see into it.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use super::super::zero_portable::{load_byte, load_word};

    const WORD: usize = size_of::<u64>();

    /// As `copy_out`, on any CPU: by words from where they are aligned, and bytes around them.
    ///
    /// # Safety
    ///
    /// As for `copy_out`.
    pub(super) unsafe fn copy_out_by_words(from: *const u8, to: &mut [u8]) {
        let head = from.align_offset(WORD).min(to.len());
        let words = (to.len() - head) / WORD;
        let tail = head + words * WORD;
        for (index, bytes) in to[head..tail].chunks_exact_mut(WORD).enumerate() {
            // SAFETY: eight bytes of the range, aligned because `head` is where alignment begins.
            let word = unsafe { load_word(from.wrapping_add(head + index * WORD)) };
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        for at in (0..head).chain(tail..to.len()) {
            // SAFETY: a byte of the range.
            to[at] = unsafe { load_byte(from.wrapping_add(at)) };
        }
    }

    /// As `copy_in`, on any CPU.
    ///
    /// # Safety
    ///
    /// As for `copy_in`.
    pub(super) unsafe fn copy_in_by_words(from: &[u8], to: *mut u8) {
        let head = to.align_offset(WORD).min(from.len());
        let words = (from.len() - head) / WORD;
        let tail = head + words * WORD;
        for (index, bytes) in from[head..tail].chunks_exact(WORD).enumerate() {
            let mut word = [0; WORD];
            word.copy_from_slice(bytes);
            let place = to.wrapping_add(head + index * WORD);
            // SAFETY: eight bytes of the range, aligned because `head` is where alignment begins.
            let place = unsafe { AtomicU64::from_ptr(place.cast()) };
            // Relaxed: a value of its own, through which no other memory is read.
            place.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        for at in (0..head).chain(tail..from.len()) {
            // SAFETY: a byte of the range.
            let place = unsafe { AtomicU8::from_ptr(to.wrapping_add(at)) };
            // Relaxed: as above.
            place.store(from[at], Ordering::Relaxed);
        }
    }
}
#[cfg(not(target_arch = "x86_64"))]
use words::{copy_in_by_words, copy_out_by_words};

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::{
        copy_in, copy_out, copy_page,
        words::{copy_in_by_words, copy_out_by_words},
    };
    use crate::{Backed, Mapping};

    const AROUND: u8 = 0xee;

    fn memory() -> Arc<Mapping> {
        // What lies around it cannot be accessed: one byte too far ends the process.
        let memory = Mapping::new(4096, Backed::Small).unwrap();
        let pattern: Vec<u8> = (0..4096_u32)
            .map(|at| (at * 7 + (at >> 8)).to_le_bytes()[0])
            .collect();
        memory.write(0, &pattern);
        memory
    }

    /// Every alignment and length in front, and everything that ends where the mapping does.
    fn places() -> impl Iterator<Item = (u64, usize)> {
        let front = (0..64).flat_map(|shift| (0..200).map(move |len| (shift, len)));
        let back = (0..200).map(|len| (4096 - len as u64, len));
        front.chain(back).chain([(0, 4096), (1, 4095), (3, 4090)])
    }

    #[test]
    fn exactly_the_bytes_are_read_at_every_alignment_and_length() {
        let memory = memory();
        let source = memory.source().unwrap();
        for (offset, len) in places() {
            let expected: Vec<u8> = (offset..offset + len as u64)
                .map(|at| memory.load(at).unwrap())
                .collect();
            for shift in 0..8 {
                let mut room = vec![AROUND; shift + len + 8];
                assert!(copy_page(&source, offset, &mut room[shift..shift + len]));
                assert_eq!(room[shift..shift + len], expected);
                assert!(room[..shift].iter().all(|byte| *byte == AROUND));
                assert!(room[shift + len..].iter().all(|byte| *byte == AROUND));
            }
            let from = source
                .as_ptr()
                .wrapping_add(usize::try_from(offset).unwrap());
            let mut copies = [vec![AROUND; len], vec![AROUND; len]];
            // SAFETY: `places` names bytes of the mapping only, which is accessed atomically.
            unsafe { copy_out(from, &mut copies[0]) };
            // SAFETY: as above.
            unsafe { copy_out_by_words(from, &mut copies[1]) };
            assert_eq!(copies, [expected.clone(), expected]);
        }
    }

    #[test]
    fn exactly_the_bytes_are_written_at_every_alignment_and_length() {
        let memory = memory();
        let start = memory.source().unwrap().as_ptr().cast_mut();
        let bytes: Vec<u8> = (0..4096)
            .map(|at: u32| (at % 200).to_le_bytes()[0])
            .collect();
        for (offset, len) in places() {
            let to = start.wrapping_add(usize::try_from(offset).unwrap());
            for by_words in [false, true] {
                memory.fill(0, 4096, AROUND);
                if by_words {
                    // SAFETY: `places` names bytes of the mapping only, which is accessed atomically.
                    unsafe { copy_in_by_words(&bytes[..len], to) };
                } else {
                    // SAFETY: as above.
                    unsafe { copy_in(&bytes[..len], to) };
                }
                let written = offset..offset + len as u64;
                let near = offset.saturating_sub(16)..(written.end + 16).min(4096);
                for at in near {
                    let expected = match written.contains(&at) {
                        true => bytes[usize::try_from(at - offset).unwrap()],
                        false => AROUND,
                    };
                    assert_eq!(memory.load(at), Some(expected), "byte {at} of {written:?}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_lie_inside_is_not_copied() {
        let memory = memory();
        let source = memory.part_source(0, 2048).unwrap();
        let mut to = [AROUND; 1024];
        for offset in [1025, 2048, 4096, u64::MAX, u64::MAX - 1023] {
            assert!(!copy_page(&source, offset, &mut to), "{offset}");
            assert_eq!(to, [AROUND; 1024]);
        }
        assert!(copy_page(&source, 1024, &mut to));
        assert_ne!(to, [AROUND; 1024]);
    }

    #[test]
    fn a_page_that_is_written_to_meanwhile_is_copied_from_some_moments() {
        let memory = memory();
        let source = memory.source().unwrap();
        let done = AtomicBool::new(false);
        memory.fill(0, 4096, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Relaxed: it says no more than that it is time to go.
                while !done.load(Ordering::Relaxed) {
                    memory.fill(0, 4096, 2);
                    memory.fill(0, 4096, 1);
                }
            });
            let mut copy = [0; 4096];
            for _ in 0..2000 {
                assert!(copy_page(&source, 0, &mut copy));
                assert!(copy.iter().all(|byte| [1, 2].contains(byte)));
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
