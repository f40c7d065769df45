// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How fast an IAA of the model is, what it knows without looking, and who else uses it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use idxd::{
    Flight, Kind, Limits, Opcode, Source, Status, Task,
    iaa::{Aecs, Coding},
    model::{Device, Output, Rate, Tenants},
};

use crate::{
    fly::{LONG, fly},
    operate::{Memory, compress, decompress, iaa, started},
    samples::sample,
};

fn fixed() -> Coding {
    Coding::Tables(Aecs::fixed())
}

#[test]
fn what_is_prepared_is_written_as_it_is() {
    let bytes: Arc<[u8]> = Arc::from(&b"whatever it may be"[..]);
    let known = Arc::clone(&bytes);
    let device = iaa().prepared_outputs(Arc::new(move |descriptor| {
        let is_known = descriptor.opcode() == Opcode::Compress as u8 || descriptor.xfer_size() == 3;
        is_known.then(|| Output {
            bytes: Arc::clone(&known),
            crc: 0x1234,
        })
    }));
    let (_model, queue) = started(device);
    let (said, stream) = compress(&queue, &[1; 4096], 4095, &fixed());
    assert_eq!((said.common.status, said.crc), (Status::SUCCESS, 0x1234));
    assert_eq!(stream.as_deref(), Some(&bytes[..]));
    let (said, _) = compress(&queue, &[1; 4096], bytes.len() - 1, &fixed());
    assert!(said.error_code().does_not_fit());
    let (said, out) = decompress(&queue, &[1, 2, 3], bytes.len());
    assert_eq!(
        (said.common.status, &out[..]),
        (Status::SUCCESS, &bytes[..])
    );
    let (said, _) = decompress(&queue, &[1, 2, 3], bytes.len() - 1);
    assert_eq!(said.common.status, Status::OUTBUF_OVERFLOW);
    // What is not known is computed: a stored block of one byte.
    let (said, out) = decompress(&queue, &[1, 1, 0, 0xfe, 0xff, 77], 4);
    assert_eq!(
        (said.common.status, said.output_size, out[0]),
        (Status::SUCCESS, 1, 77)
    );
}

/// How long an operation takes that names so few bytes of source and so many of destination, and the other way round.
#[test]
fn a_rate_is_of_the_bytes_that_are_not_compressed() {
    let rate = Rate::bytes_per_second(1e6);
    let (_model, queue) = started(iaa().rate(rate));
    let begin = Instant::now();
    compress(&queue, &sample(0, 20_000, 1), 64, &fixed());
    assert!(begin.elapsed() >= Duration::from_millis(20));
    let begin = Instant::now();
    decompress(&queue, &[1, 1, 0, 0xfe, 0xff, 77], 20_000);
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[test]
fn others_take_their_share_of_the_time() {
    let tenants = Tenants {
        share: 0.75,
        ..Tenants::NONE
    };
    let rate = Rate::bytes_per_second(1e6);
    let (_model, queue) = started(iaa().rate(rate).tenants(tenants));
    let begin = Instant::now();
    compress(&queue, &sample(0, 5_000, 1), 5_000, &fixed());
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[test]
fn others_hold_entries_of_the_queue_and_fill_it_now_and_then() {
    let slow = Rate::Clock {
        bytes_per_second: 1e12,
        per_descriptor: Duration::from_secs(3600),
    };
    let tenants = Tenants {
        entries: 120,
        ..Tenants::NONE
    };
    let (model, queue) = started(iaa().rate(slow).tenants(tenants));
    let source = Source::of_vec(vec![1; 64]).unwrap();
    let mut task = Task::with_buffer(Kind::Iax, 20, 64).unwrap();
    for _ in 0..20 {
        task.push_compress(&source, 0..64, 0..64, &fixed()).unwrap();
    }
    let mut flight = Flight::new(&queue, task, Duration::from_millis(20)).unwrap();
    assert!(!flight.submit().unwrap());
    assert_eq!(model.counts(0).taken, 8);
    // An hour each.
    drop(flight);

    let tenants = Tenants {
        full_one_in: 4,
        ..Tenants::NONE
    };
    // Nobody but tenants makes it full.
    let limits = Limits {
        size: 512,
        ..Device::IAA_LIMITS
    };
    let device = Device::new("iax1/wq1.0", limits).tenants(tenants);
    let (model, queue) = started(device);
    let memory = Memory::new(64);
    let stream = Source::of_vec(vec![1, 1, 0, 0xfe, 0xff, 77]).unwrap();
    let mut task = Task::with_capacity(Kind::Iax, 400).unwrap();
    for _ in 0..400 {
        task.push_decompress(&stream, 0..6, &memory.destination, 0..64)
            .unwrap();
    }
    let task = fly(&queue, task, LONG).wait().unwrap();
    assert!((0..400).all(|index| task.completion(index).status == Status::SUCCESS));
    let counts = model.counts(0);
    assert_eq!(counts.taken, 400);
    assert!((80..200).contains(&counts.full), "{counts:?}");
}
