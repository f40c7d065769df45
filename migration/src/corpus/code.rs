// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`CodePages`]: pages of the running program, or made-up instructions.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use super::{PAGE, random::Random};

/// How much of a program is taken, in bytes.
const MOST: u64 = 32 << 20;

/// Of a 64-bit little-endian ELF file, as in the `elf.h` of Linux: `Elf64_Ehdr` and `Elf64_Phdr`.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const HEADER: usize = 64;
const E_PHOFF: usize = 32;
const E_PHNUM: usize = 56;
const PH_SIZE: usize = 56;
const P_OFFSET: usize = 8;
const P_FILESZ: usize = 32;
const PT_LOAD: u64 = 1;

/// Beginnings of instructions of x86-64, frequent ones first.
const INSTRUCTIONS: [&[u8]; 20] = [
    &[0x48, 0x8b, 0x45],
    &[0x48, 0x89, 0x45],
    &[0xe8],
    &[0x48, 0x8d, 0x3d],
    &[0x0f, 0x84],
    &[0x48, 0x85, 0xc0],
    &[0x31, 0xc0],
    &[0x48, 0x83, 0xc4],
    &[0x41, 0x5e, 0x41, 0x5f, 0x5d, 0xc3],
    &[0x55, 0x48, 0x89, 0xe5],
    &[0x48, 0x8b, 0x7c, 0x24],
    &[0xe9],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x8b, 0x4d],
    &[0xc7, 0x45],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00],
    &[0x4c, 0x8b, 0x74, 0x24],
    &[0xf3, 0x0f, 0x10, 0x05],
    &[0x49, 0x89, 0xfe],
    &[0x48, 0xc1, 0xe0],
];

#[derive(Debug)]
pub(super) struct CodePages {
    /// Whole pages; none if the program cannot be read.
    loaded: Vec<u8>,
}

impl CodePages {
    /// What the running program is loaded from, without its debugging information.
    pub(super) fn of_this_program() -> Self {
        Self {
            loaded: loaded_pages("/proc/self/exe").unwrap_or_default(),
        }
    }

    pub(super) fn fill(&mut self, random: &mut Random, page: &mut [u8]) {
        let pages = self.loaded.len() / PAGE;
        let first = usize::try_from(random.below(pages as u64)).unwrap_or(0);
        let drawn = self
            .loaded
            .chunks_exact(PAGE)
            .skip(first)
            .find(|page| page.iter().any(|byte| *byte != 0));
        match drawn {
            Some(drawn) => page.copy_from_slice(drawn),
            None => fill_with_instructions(random, page),
        }
    }
}

/// Whole pages of the segments that a program is loaded from.
fn loaded_pages(path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let mut loaded = Vec::new();
    if !header.starts_with(MAGIC) {
        return Ok(loaded);
    }
    let count = usize::try_from(number(&header, E_PHNUM, 2)).unwrap_or(0);
    let mut segments = vec![0; count * PH_SIZE];
    file.seek(SeekFrom::Start(number(&header, E_PHOFF, 8)))?;
    file.read_exact(&mut segments)?;
    for segment in segments.chunks_exact(PH_SIZE) {
        if number(segment, 0, 4) == PT_LOAD {
            let room = MOST - loaded.len() as u64;
            file.seek(SeekFrom::Start(number(segment, P_OFFSET, 8)))?;
            let size = number(segment, P_FILESZ, 8).min(room);
            Read::by_ref(&mut file)
                .take(size)
                .read_to_end(&mut loaded)?;
            loaded.truncate(loaded.len() / PAGE * PAGE);
        }
    }
    Ok(loaded)
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(&bytes[at..at + len]) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

fn fill_with_instructions(random: &mut Random, page: &mut [u8]) {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        let end = page.len().min(at + bytes.len());
        page[at..end].copy_from_slice(&bytes[..end - at]);
        at = end;
        at < page.len()
    };
    loop {
        let instruction = random.pick(&INSTRUCTIONS).copied().unwrap_or(&[0x90]);
        // An offset into the stack or to some function.
        let operand = match random.below(3) {
            0 => vec![],
            1 => vec![random.mostly_small(32).to_le_bytes()[0] << 3],
            _ => random.mostly_small(1 << 20).wrapping_neg().to_le_bytes()[..4].to_vec(),
        };
        if !put(instruction) || !put(&operand) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, Random, fill_with_instructions, loaded_pages};

    #[test]
    fn made_up_instructions_fill_a_page_and_are_the_same_for_a_seed() {
        let [mut one, mut same, mut other] = [[0; PAGE]; 3];
        fill_with_instructions(&mut Random::new(1), &mut one);
        fill_with_instructions(&mut Random::new(1), &mut same);
        fill_with_instructions(&mut Random::new(2), &mut other);
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert!(one[PAGE - 16..].iter().any(|byte| *byte != 0));
    }

    #[test]
    fn a_file_that_is_no_program_gives_no_pages() {
        assert!(loaded_pages("/proc/self/status").is_ok_and(|pages| pages.is_empty()));
        assert!(loaded_pages("/nonexistent").is_err());
        let own = loaded_pages("/proc/self/exe").unwrap_or_default();
        assert!(own.len() >= PAGE && own.len() % PAGE == 0);
    }
}
