// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages as an allocator leaves them, and sparse ones.

use super::random::Random;

/// Where made-up heaps and libraries lie: high bits that all pointers of a page share.
const HEAP: u64 = 0x7f3a_4000_0000;
const LIBRARY: u64 = 0x7f3a_c1e0_0000;

const NAMES: [&[u8]; 12] = [
    b"name",
    b"eth0",
    b"id",
    b"/dev/vda",
    b"localhost",
    b"user",
    b"GET",
    b"status",
    b"virtio",
    b"config",
    b"utf-8",
    b"/usr/lib",
];

/// What a word of a structure holds, decided once for all structures of a page.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// To one of a few tables of functions.
    Table,
    Pointer,
    Small,
    Flags,
    Name,
    Nothing,
    /// A hash or a floating-point number.
    Value,
}

/// Structures of one size and layout, some of them free.
pub(super) fn fill(random: &mut Random, page: &mut [u8]) {
    let words = 3 + random.below(13);
    let layout: Vec<Field> = (0..words).map(|_| field(random)).collect();
    let table = LIBRARY + random.below(64) * 0x40;
    let arena = HEAP + (random.below(16) << 24);
    // What malloc keeps in front of each: its size and whether the one before is in use.
    let header = ((words + 2) * 8).next_multiple_of(16) + 1;
    let mut at = 0;
    while at < page.len() {
        let is_free = random.one_in(6);
        at = put(page, at, header);
        for (index, field) in layout.iter().enumerate() {
            let value = match (is_free, index) {
                (true, 0 | 1) => pointer(random, arena),
                (true, _) => 0,
                (false, _) => value(random, *field, table, arena),
            };
            at = put(page, at, value);
        }
    }
}

fn field(random: &mut Random) -> Field {
    match random.below(20) {
        0..=1 => Field::Table,
        2..=7 => Field::Pointer,
        8..=11 => Field::Small,
        12..=13 => Field::Flags,
        14..=15 => Field::Name,
        16..=18 => Field::Nothing,
        _ => Field::Value,
    }
}

fn value(random: &mut Random, field: Field, table: u64, arena: u64) -> u64 {
    match field {
        Field::Table => table + random.below(3) * 0x20,
        Field::Pointer if random.one_in(4) => 0,
        Field::Pointer => pointer(random, arena),
        Field::Small => random.mostly_small(1000),
        Field::Flags => (1 << random.below(8)) + (random.below(4) << 32),
        Field::Name => {
            let mut bytes = [0; 8];
            let name = random.pick(&NAMES).copied().unwrap_or_default();
            for (to, from) in bytes.iter_mut().zip(name) {
                *to = *from;
            }
            u64::from_le_bytes(bytes)
        }
        Field::Nothing => 0,
        Field::Value => random.next(),
    }
}

/// Objects that belong together mostly lie near each other.
fn pointer(random: &mut Random, arena: u64) -> u64 {
    let near = random.mostly_small(1 << 16);
    arena + near * 16
}

fn put(page: &mut [u8], at: usize, value: u64) -> usize {
    if let Some(place) = page.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    at + 8
}

/// A few words, anywhere.
pub(super) fn fill_sparse(random: &mut Random, page: &mut [u8]) {
    let places = page.len() as u64 / 8;
    for _ in 0..=random.below(32) {
        let at = usize::try_from(random.below(places)).unwrap_or(0) * 8;
        // Never 0, or the page might be.
        let value = match random.below(3) {
            0 => pointer(random, HEAP),
            1 => 1 + random.mostly_small(1000),
            _ => random.next() | 1,
        };
        put(page, at, value);
    }
}
