// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device of the model refuses before it begins.

use std::sync::Arc;

use idxd::{
    Compress, Decompress, Descriptor, Flags, Keep, Kind, Status, Task,
    iaa::{Aecs, Coding},
    model::Device,
};

use crate::{
    fly::{LONG, fly},
    operate::{Memory, compress, iaa, started},
    samples::sample,
};

/// Where everything is: 4096 bytes of source, as many of destination, and an AECS. No descriptor of these tests that is
/// not refused writes elsewhere.
struct Stage {
    source: Memory,
    destination: Memory,
    aecs: Aecs,
}

impl Stage {
    fn new() -> Self {
        Self {
            source: Memory::new(8192),
            destination: Memory::new(8192),
            aecs: Aecs::fixed(),
        }
    }

    fn keep(&self) -> Keep {
        let memory = (
            self.source.destination.clone(),
            self.destination.destination.clone(),
        );
        Arc::new((memory, self.aecs.clone()))
    }

    fn compress(&self) -> Compress {
        Compress {
            src1_addr: self.source.destination.address(),
            src1_size: 4096,
            dst_addr: self.destination.destination.address(),
            max_dst_size: 4095,
            src2_addr: self.aecs.address(),
            src2_size: 1568,
            compr_flags: 0x0006,
        }
    }

    fn decompress(&self) -> Decompress {
        Decompress {
            src1_addr: self.source.destination.address(),
            src1_size: 100,
            dst_addr: self.destination.destination.address(),
            max_dst_size: 4096,
            decompr_flags: 0x1f,
        }
    }
}

fn with_bytes(descriptor: Descriptor, at: usize, bytes: &[u8]) -> Descriptor {
    let mut all = descriptor.to_bytes();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    Descriptor::from_bytes(&all)
}

fn statuses(device: Device, stage: &Stage, descriptors: &[Descriptor]) -> Vec<Status> {
    let (_model, queue) = started(device);
    let mut task = Task::with_capacity(Kind::Iax, descriptors.len()).unwrap();
    for descriptor in descriptors {
        // SAFETY: the stage keeps what they name.
        unsafe { task.push(*descriptor, &stage.keep()) }.unwrap();
    }
    let task = fly(&queue, task, LONG).wait().unwrap();
    (0..task.len())
        .map(|index| task.completion(index).status)
        .collect()
}

fn expect(device: Device, stage: &Stage, cases: &[(Descriptor, Status)]) {
    let descriptors: Vec<_> = cases.iter().map(|case| case.0).collect();
    let said = statuses(device, stage, &descriptors);
    for (index, ((descriptor, expected), said)) in cases.iter().zip(said).enumerate() {
        assert_eq!(said, *expected, "{index}: {descriptor:?}");
    }
}

#[test]
fn opcodes_flags_and_reserved_fields() {
    let stage = Stage::new();
    let good = Descriptor::compress(&stage.compress());
    let inflate = Descriptor::decompress(&stage.decompress());
    let mut cases = vec![
        (good, Status::SUCCESS),
        (Descriptor::noop(), Status::SUCCESS),
        (Descriptor::drain(), Status::SUCCESS),
        // The source is no stream, but the descriptor is sound.
        (inflate, Status::ANALYTICS_ERROR),
    ];
    // Of DSA: batch, copy, fill, compare; and of none.
    for opcode in [0x01, 0x03, 0x04, 0x05, 0x06, 0x41, 0x44, 0xff] {
        cases.push((with_bytes(good, 7, &[opcode]), Status::BAD_OPCODE));
    }
    for flag in [
        Flags::FENCE,
        Flags::BLOCK_ON_FAULT,
        Flags::REQUEST_COMPLETION_INTERRUPT,
        Flags::STEER_COMPLETION_RECORD,
        Flags::CHECK_RESULT,
        Flags::from_bits_retain(0x02_0000),
        Flags::from_bits_retain(0x40_0000),
    ] {
        for descriptor in [good, inflate, Descriptor::noop(), Descriptor::drain()] {
            let flags = descriptor.flags() | flag;
            cases.push((descriptor.with_flags(flags), Status::INVALID_FLAGS));
        }
    }
    for descriptor in [inflate, Descriptor::noop()] {
        let flags = descriptor.flags() | Flags::READ_SOURCE_2_AECS;
        cases.push((descriptor.with_flags(flags), Status::INVALID_FLAGS));
    }
    for at in [0, 3, 36, 56, 60, 63] {
        cases.push((with_bytes(good, at, &[1]), Status::NOZERO_RESERVE));
        cases.push((with_bytes(inflate, at, &[1]), Status::NOZERO_RESERVE));
    }
    for at in [40, 47, 52, 55] {
        cases.push((with_bytes(inflate, at, &[1]), Status::NOZERO_RESERVE));
    }
    for at in (0..4).chain(16..64) {
        let noop = with_bytes(Descriptor::noop(), at, &[1]);
        cases.push((noop, Status::NOZERO_RESERVE));
    }
    expect(iaa(), &stage, &cases);
}

#[test]
fn sizes_and_alignment() {
    let stage = Stage::new();
    let (compress, decompress) = (stage.compress(), stage.decompress());
    let of = |what: Compress| Descriptor::compress(&what);
    let mut cases = Vec::new();
    for size in [0, (2 << 20) + 1, u32::MAX] {
        let source = Compress {
            src1_size: size,
            ..compress
        };
        let room = Compress {
            max_dst_size: size,
            ..compress
        };
        cases.extend([
            (of(source), Status::XFER_ERANGE),
            (of(room), Status::XFER_ERANGE),
        ]);
        for at in [32, 48] {
            let inflate = Descriptor::decompress(&decompress);
            let inflate = with_bytes(inflate, at, &size.to_le_bytes());
            cases.push((inflate, Status::XFER_ERANGE));
        }
    }
    for off in [1, 16, 31] {
        let src2_addr = compress.src2_addr + off;
        cases.push((
            of(Compress {
                src2_addr,
                ..compress
            }),
            Status::ADDR_ALIGN,
        ));
    }
    for (src2_size, status) in [
        (1567, Status::ADDR_ALIGN),
        (1569, Status::ADDR_ALIGN),
        (1536, Status::XFER_ERANGE),
        (1600, Status::XFER_ERANGE),
    ] {
        cases.push((
            of(Compress {
                src2_size,
                ..compress
            }),
            status,
        ));
    }
    expect(iaa(), &stage, &cases);
}

#[test]
fn overlap() {
    let stage = Stage::new();
    let (compress, decompress) = (stage.compress(), stage.decompress());
    let of = |what: Compress| Descriptor::compress(&what);
    let mut cases = Vec::new();
    let (start, size) = (compress.src1_addr, u64::from(compress.src1_size));
    for (dst_addr, status) in [
        (start, Status::OVERLAP_BUFFERS),
        (start + size - 1, Status::OVERLAP_BUFFERS),
        (start + size, Status::SUCCESS),
    ] {
        cases.push((
            of(Compress {
                dst_addr,
                ..compress
            }),
            status,
        ));
    }
    let aecs = Compress {
        dst_addr: stage.aecs.address() + 1567,
        ..compress
    };
    cases.push((of(aecs), Status::OVERLAP_BUFFERS));
    let same = Decompress {
        dst_addr: decompress.src1_addr + 99,
        ..decompress
    };
    cases.push((Descriptor::decompress(&same), Status::OVERLAP_BUFFERS));
    expect(iaa(), &stage, &cases);
}

#[test]
fn flags_of_the_operations() {
    let stage = Stage::new();
    let (compress, decompress) = (stage.compress(), stage.decompress());
    let bad = Status::INVALID_COMP_FLAG;
    let flagged = |compr_flags| {
        Descriptor::compress(&Compress {
            compr_flags,
            ..compress
        })
    };
    let bare = |compr_flags, src1_size| {
        Descriptor::compress(&Compress {
            compr_flags,
            src1_size,
            src2_addr: 0,
            src2_size: 0,
            ..compress
        })
    };
    let mut cases = vec![(flagged(6), Status::SUCCESS), (bare(6, 4096), bad)];
    for compr_flags in [0, 2, 4, 7, 0x000e, 0x0016, 0x3006, 0xffff] {
        cases.push((flagged(compr_flags), bad));
    }
    for decompr_flags in [0, 0x0f, 0x1e, 0x3f, 0x21f, 0xffff] {
        let what = Decompress {
            decompr_flags,
            ..decompress
        };
        cases.push((Descriptor::decompress(&what), bad));
    }
    let mut newer = cases.clone();
    cases.push((bare(0x3006, 4096), bad));
    expect(iaa(), &stage, &cases);
    newer.extend([
        (bare(0x3006, 4096), Status::SUCCESS),
        (bare(0x3006, 4097), bad),
    ]);
    expect(iaa().can_generate_headers(), &stage, &newer);
}

#[test]
fn a_record_that_is_not_aligned_is_dropped_or_refused() {
    let (model, queue) = started(iaa());
    let text = sample(0, 512, 1);
    let (said, _) = compress(&queue, &text, 512, &Coding::Tables(Aecs::fixed()));
    assert_eq!(said.common.status, Status::SUCCESS);
    // A task of the other kind has records of 32 bytes: of two, one is not at a multiple of 64.
    let dsa = idxd::Limits {
        kind: Kind::Dsa,
        max_batch: 1,
        ..Device::IAA_LIMITS
    };
    let mistaken = model.open_as(0, dsa).unwrap();
    let mut task = Task::with_capacity(Kind::Dsa, 2).unwrap();
    task.push_noop().unwrap();
    task.push_noop().unwrap();
    let flight = fly(&mistaken, task, std::time::Duration::from_millis(20));
    assert!(flight.wait().is_err());
    assert_eq!((model.counts(0).taken, model.counts(0).dropped), (3, 1));
}
