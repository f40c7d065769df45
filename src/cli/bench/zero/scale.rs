// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether channels and devices add up, as long as the CPUs can follow.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `scale channels=C devices=D` | GB/s of all devices of the model together, or one channel on one real queue | GB/s scanned | ≥ 0.9 of the model's |

use migration::DsaOptions;
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    devices::{Devices, Lane, running_engine, scanner},
    memory::Memory,
    scan::Scan,
};
use crate::cli::bench::table::Table;

/// GB/s of a device: so slow that two CPUs are not the limit of four.
const SLOW: f64 = 2.0;
/// Of what the model's devices could do.
const TARGET: f64 = 0.9;
/// Pages of all calls together, for each device: at the end of a call a channel waits for all of its tasks, which is to
/// weigh little.
const CALLS: usize = 16384;

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
) {
    let args = settings.args;
    let counts = |given: Option<u8>, all: &[usize]| match given {
        Some(count) => vec![usize::from(count)],
        None => all.to_vec(),
    };
    let channels = counts(args.channels, &[1, 2, 4, 8]);
    let is_model = matches!(devices, Devices::Model);
    for device_count in counts(args.devices, &[1, 2, 4]) {
        for channel_count in &channels {
            let row = Row {
                name: format!(
                    "zero/{}/scale channels={channel_count} devices={device_count}",
                    devices.name()
                ),
                unit: "GB/s",
                bytes: None,
                compare: Compare::Rate,
                target: is_model.then_some(TARGET),
            };
            let some = lane(settings, devices, memory, (*channel_count, device_count));
            let one = lane(settings, devices, memory, (1, 1));
            let mut baseline = || match is_model {
                true => Ok(SLOW * device_count as f64),
                false => rate(settings, memory, &one, (1, 1)),
            };
            let counts = (*channel_count, device_count);
            let mut value = || rate(settings, memory, &some, counts);
            table.measure(row, Some(&mut baseline), &mut value);
        }
    }
}

/// GB/s of channels that share all devices.
fn rate(
    settings: &Settings<'_>,
    memory: &Memory,
    lane: &Result<Lane, Skipped>,
    (channels, count): (usize, usize),
) -> Outcome {
    let lane = lane.as_ref().map_err(Clone::clone)?;
    let scan = Scan {
        scanners: &lane.scanners,
        memory,
        channels,
        call: (CALLS * count).div_ceil(channels),
        // Many channels on one device take a good part of that for one call each.
        time: 2 * settings.time,
        exact: false,
    };
    Ok(scan.run()?.rate())
}

fn lane(
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
    (channels, count): (usize, usize),
) -> Result<Lane, Skipped> {
    let open = devices.open(count, SLOW, memory)?;
    let engine = running_engine()?;
    let mut options = DsaOptions::default();
    // Every device has a task, and another one to go on with.
    options.depth = options.depth.max((2 * count).div_ceil(channels));
    let scanner = scanner(&open.queues, &engine, options, settings.args.batch())?;
    Ok(Lane {
        scanners: vec![scanner.normal_page_ratio(settings.args.normal_page_ratio)],
        _engines: vec![engine],
        _open: open,
    })
}
