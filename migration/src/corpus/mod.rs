// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Corpus`]: pages to test and measure codecs with.
//!
//! ```text
//!  seed ──► Random ──► Class: code, text, heap, sparse, random, … ────┐
//!  /proc/self/exe ──► loaded segments ──► pages of code ──────────────┼──► Corpus ──► pages
//!  any file, cut into pages ──────────────────────────────────────────┘
//! ```

mod code;
mod heap;
mod random;
mod repeats;
mod text;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use code::CodePages;
use random::Random;

/// Bytes of a page of a [`Corpus`].
const PAGE: usize = 4096;

/// What a page of a [`Corpus`] is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Machine code and constants: pages of the segments that the running program is loaded from, or made-up instructions
    /// where it cannot read its own file.
    Code,
    /// Lines of a log and of prose.
    Text,
    /// What an allocator leaves: repeated structures of pointers with the same high bits, small integers and short strings.
    Heap,
    /// All zero but for up to 32 words.
    Sparse,
    /// Few values, repeated at many short distances: what software writes DEFLATE headers for that an IAA refuses, most often.
    Repeats,
    /// Random bytes, like compressed or encrypted data.
    Random,
    /// Nothing but zero.
    Zero,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Code,
        Self::Text,
        Self::Heap,
        Self::Sparse,
        Self::Repeats,
        Self::Random,
        Self::Zero,
    ];

    /// What reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Text => "text",
            Self::Heap => "heap",
            Self::Sparse => "sparse",
            Self::Repeats => "repeats",
            Self::Random => "random",
            Self::Zero => "zero",
        }
    }

    /// How many of 100 pages of [`Corpus::synthetic`] are of it.
    const fn share(self) -> u64 {
        match self {
            Self::Code => 30,
            Self::Text => 15,
            Self::Heap => 35,
            Self::Sparse | Self::Random => 10,
            Self::Repeats | Self::Zero => 0,
        }
    }

    /// One of them, each as often as its share.
    fn draw(random: &mut Random) -> Self {
        let mut left = random.below(100);
        for class in Self::ALL {
            if left < class.share() {
                return class;
            }
            left -= class.share();
        }
        Self::Heap
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Pages of 4,096 bytes to test and measure codecs with. Not for production.
///
/// The same seed gives the same pages, but for those of [`Class::Code`], which are of the program that runs.
#[derive(Debug, Clone)]
pub struct Corpus {
    bytes: Vec<u8>,
    /// Of each page; `None` for those of a file.
    classes: Vec<Option<Class>>,
}

impl Corpus {
    /// What the pages of a guest's memory that are not zero may look like: of 100 pages, 35 are heap, 30 code, 15 text, 10
    /// sparse and 10 random, in no order.
    ///
    /// The shares are an estimate, not a measurement: take [`of_file`](Self::of_file) with a dump of a guest that matters.
    #[must_use]
    pub fn synthetic(pages: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut code = CodePages::of_this_program();
        let mut corpus = Self::with_room_for(pages);
        for _ in 0..pages {
            let class = Class::draw(&mut random);
            corpus.push(class, &mut random, &mut code);
        }
        corpus
    }

    /// Pages of one class only.
    #[must_use]
    pub fn only(class: Class, pages: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut code = CodePages::of_this_program();
        let mut corpus = Self::with_room_for(pages);
        for _ in 0..pages {
            corpus.push(class, &mut random, &mut code);
        }
        corpus
    }

    /// The first pages of a file, no more than `most`; what is left behind the last whole page is dropped. They have no
    /// class.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn of_file(path: &Path, most: usize) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let limit = (most as u64).saturating_mul(PAGE as u64);
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        let pages = bytes.len() / PAGE;
        bytes.truncate(pages * PAGE);
        Ok(Self {
            bytes,
            classes: vec![None; pages],
        })
    }

    /// The pages, in their order.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(PAGE)
    }

    /// Those of one class, in their order.
    pub fn of_class(&self, class: Class) -> impl Iterator<Item = &[u8]> {
        let of_class = move |(page, is): (_, &Option<Class>)| (*is == Some(class)).then_some(page);
        self.pages().zip(&self.classes).filter_map(of_class)
    }

    /// All pages as one piece of memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many pages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    fn with_room_for(pages: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(pages * PAGE),
            classes: Vec::with_capacity(pages),
        }
    }

    fn push(&mut self, class: Class, random: &mut Random, code: &mut CodePages) {
        let start = self.bytes.len();
        self.bytes.resize(start + PAGE, 0);
        let page = &mut self.bytes[start..];
        match class {
            Class::Code => code.fill(random, page),
            Class::Text => text::fill(random, page),
            Class::Heap => heap::fill(random, page),
            Class::Sparse => heap::fill_sparse(random, page),
            Class::Repeats => repeats::fill(random, page),
            Class::Random => random.fill(page),
            Class::Zero => {}
        }
        self.classes.push(Some(class));
    }
}
