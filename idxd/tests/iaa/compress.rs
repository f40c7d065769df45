// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device of the model makes of bytes, with codes of every origin.

use std::sync::Arc;

use flate2::Crc;
use idxd::{
    Compress, Descriptor, Keep, Kind, Queue, Status, Task,
    iaa::{Aecs, Coding, DynamicHeader, ErrorCode, TreeCounts, check},
    model::Model,
};
use proptest::prelude::*;

use crate::{
    fly::{LONG, fly},
    operate::{compress, iaa, started},
    samples::{KINDS, mixtures, sample},
    zlib,
};

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Fixed codes, codes for samples, and codes of the device.
fn codings() -> Vec<Coding> {
    let samples: Vec<_> = (0..KINDS).map(|kind| sample(kind, 4096, 7)).collect();
    let trained = Aecs::trained(samples.iter().map(Vec::as_slice)).unwrap();
    vec![
        Coding::Tables(Aecs::fixed()),
        Coding::Tables(trained),
        Coding::Generated,
    ]
}

fn generating() -> (Model, Arc<Queue>) {
    started(iaa().can_generate_headers())
}

/// The stream of these bytes, which is right by every judge.
fn sound(queue: &Arc<Queue>, bytes: &[u8], coding: &Coding) -> Vec<u8> {
    let room = 2 * bytes.len() + 512;
    let (said, stream) = compress(queue, bytes, room, coding);
    assert_eq!(said.common.status, Status::SUCCESS, "{said:?}");
    let stream = stream.unwrap();
    assert_eq!(said.output_size as usize, stream.len());
    assert_eq!(said.crc, crc(bytes));
    assert_eq!(said.common.completed as usize, bytes.len());
    let judged = zlib::inflate(&stream, bytes.len());
    assert_eq!(judged, Some((bytes.to_vec(), stream.len())));
    let found = check(&stream, bytes.len()).unwrap();
    assert_eq!((found.blocks, found.consumed_bytes), (1, stream.len()));
    stream
}

#[test]
fn codes_that_fit_make_shorter_streams() {
    let (_model, queue) = generating();
    let text = sample(0, 4096, 99);
    let [fixed, trained, generated] = codings()
        .iter()
        .map(|coding| sound(&queue, &text, coding).len())
        .collect::<Vec<_>>()[..]
    else {
        panic!()
    };
    assert!(generated < fixed, "{generated} {fixed}");
    assert!(trained < fixed, "{trained} {fixed}");
    assert!(fixed < 4096 / 2, "{fixed}");
    // The head is as it was accumulated: the last block, of its kind.
    let stream = sound(&queue, &text, &Coding::Tables(Aecs::fixed()));
    assert_eq!(stream[0] & 7, 0b011);
}

#[test]
fn what_does_not_fit_is_an_error_and_nothing_is_written_behind_the_room() {
    let (_model, queue) = generating();
    let noise = sample(3, 4096, 3);
    for coding in codings() {
        // `compress` looks behind the room.
        let (said, stream) = compress(&queue, &noise, 4095, &coding);
        assert_eq!(said.common.status, Status::ANALYTICS_ERROR, "{coding:?}");
        assert!(said.error_code().does_not_fit(), "{said:?}");
        assert_eq!(stream, None);
        let text = sample(0, 4096, 4);
        let len = sound(&queue, &text, &coding).len();
        let (said, exact) = compress(&queue, &text, len, &coding);
        assert_eq!(said.output_size as usize, len);
        assert_eq!(exact.map(|stream| stream.len()), Some(len));
        let (said, _) = compress(&queue, &text, len - 1, &coding);
        assert_eq!(said.error_code(), ErrorCode::OUTPUT_OVERFLOW);
    }
}

/// Compresses with an AECS of these bytes.
fn by(queue: &Arc<Queue>, input: &[u8], aecs: &[u8; Aecs::SIZE]) -> (Status, u8, Vec<u8>) {
    #[repr(align(64))]
    struct Block([u8; Aecs::SIZE]);
    let kept = Arc::new((Block(*aecs), input.to_vec()));
    let memory = crate::operate::Memory::new(256);
    let mut task = Task::with_capacity(Kind::Iax, 1).unwrap();
    let keep: Keep = Arc::new((Arc::clone(&kept), memory.destination.clone()));
    let descriptor = Descriptor::compress(&Compress {
        src1_addr: kept.1.as_ptr().expose_provenance() as u64,
        src1_size: u32::try_from(input.len()).unwrap(),
        dst_addr: memory.destination.address(),
        max_dst_size: 256,
        src2_addr: kept.0.0.as_ptr().expose_provenance() as u64,
        src2_size: 1568,
        compr_flags: 6,
    });
    // SAFETY: all that it names is kept.
    unsafe { task.push(descriptor, &keep) }.unwrap();
    let task = fly(queue, task, LONG).wait().unwrap();
    let said = task.iax_completion(0);
    let len = said.output_size as usize;
    (
        said.common.status,
        said.common.result,
        memory.read()[..len].to_vec(),
    )
}

#[test]
fn the_tables_in_memory_are_what_is_used() {
    let (_model, queue) = started(iaa());
    let fixed = *Aecs::fixed().as_bytes();
    let (status, _, stream) = by(&queue, b"abc", &fixed);
    assert_eq!(
        (status, &stream[..]),
        (Status::SUCCESS, &[0x4b, 0x4c, 0x4a, 0x06, 0x00][..])
    );
    // Without a code for what occurs.
    let mut without = fixed;
    without[288 + 4 * 98..][..4].fill(0);
    let (status, error, _) = by(&queue, b"abc", &without);
    assert_eq!((status, error), (Status::ANALYTICS_ERROR, 30));
    assert_eq!(by(&queue, b"aXc", &without).0, Status::SUCCESS);
    // Accumulated bits of a whole block, and then more than there are.
    let mut accumulated = fixed;
    accumulated[28] = 40;
    accumulated[32..37].copy_from_slice(&[0, 0, 0, 0xff, 0xff]);
    let (status, _, stream) = by(&queue, b"abc", &accumulated);
    assert_eq!(
        (status, &stream[..5]),
        (Status::SUCCESS, &[0, 0, 0, 0xff, 0xff][..])
    );
    // No last block follows, but symbols: fixed codes of the three letters and the end.
    assert_eq!(stream.len(), 5 + 4);
    accumulated[28..32].copy_from_slice(&2049_u32.to_le_bytes());
    let (status, error, _) = by(&queue, b"abc", &accumulated);
    assert_eq!((status, error), (Status::ANALYTICS_ERROR, 22));
    let mut long = fixed;
    long[288..292].copy_from_slice(&(16_u32 << 15).to_le_bytes());
    let (status, error, _) = by(&queue, b"abc", &long);
    assert_eq!((status, error), (Status::ANALYTICS_ERROR, 22));
}

#[test]
fn every_symbol_can_be_coded() {
    let (_model, queue) = generating();
    // Every byte, every length, and distances up to the farthest.
    let mut bytes: Vec<u8> = (0..=255).collect();
    for len in 4..=258 {
        bytes.extend(vec![0; 2]);
        bytes.extend((0..len).map(|at| [17, 3, 99, 250][at % 4]));
    }
    bytes.extend(sample(3, 3900, 5));
    bytes.extend((0..=255).collect::<Vec<u8>>());
    for coding in &codings()[..2] {
        sound(&queue, &bytes, coding);
    }
    let mut counts = TreeCounts::new();
    counts.add(&bytes);
    assert!(counts.literals.iter().filter(|count| **count > 0).count() > 280);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn streams_of_every_coding_are_sound(bytes in mixtures(4096)) {
        prop_assume!(!bytes.is_empty());
        let (_model, queue) = generating();
        for coding in codings() {
            sound(&queue, &bytes, &coding);
        }
    }

    /// Any complete codes, also ones that fit badly.
    #[test]
    fn streams_of_any_table_are_sound(
        bytes in mixtures(4096),
        literals in prop::collection::vec(1..1000_u32, 286),
        distances in prop::collection::vec(1..1000_u32, 24..=30),
    ) {
        prop_assume!(!bytes.is_empty());
        let (_model, queue) = started(iaa());
        let mut of_distances = [0; 30];
        of_distances[..distances.len()].copy_from_slice(&distances);
        let literals = literals.try_into().unwrap();
        let header = DynamicHeader::of_counts(&literals, &of_distances);
        sound(&queue, &bytes, &Coding::Tables(Aecs::canned(&header).unwrap()));
    }
}
