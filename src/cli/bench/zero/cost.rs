// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What asking devices costs: CPU time of those who submit and of those who wait, for each page.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `cpu_per_page batch=B waits=W` | software, on the same memory | every page asked of a device, by one channel | ≤ 60 ns at 128 |
//! | `cpu_as_used batch=B` | software | as a migration does it: a word of each page is looked at first, where that pays | |
//! | `one_engine devices=4` | four channels and devices, a completion engine for each | one engine for all | |
//!
//! W is `engine`, a completion engine's thread, or `caller`, the channel itself, whose thread wakes up on time
//! (`PR_SET_TIMERSLACK`).

use std::sync::Arc;

use idxd::CompletionEngine;
use migration::{DsaOptions, ZeroReport};
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    devices::{Devices, Lane, running_engine, scanner, takes},
    memory::Memory,
    scan::Scan,
    software::software_cpu,
};
use crate::cli::bench::table::Table;

/// Pages of a call: several times what is in flight, so that the end of a call, where devices idle, weighs little.
const CALL: usize = 16384;
/// The batch that the target is for.
const JUDGED: usize = 128;
const TARGET: f64 = 60.0;
const QEMU: &str = "beside cpu_per_page: QEMU's published run on hardware took about 185 ns of CPU a page with DSA, and about \
                    240 ns without; other machine, other work for each page: not comparable one to one";

/// Who waits for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Engine,
    Caller,
}

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
) {
    let batches = match settings.args.batch_pages {
        Some(batch) => vec![batch],
        None => (4..=10).map(|power| 1 << power).collect(),
    };
    for waits in [Waits::Engine, Waits::Caller] {
        for batch in &batches {
            of_batch(table, settings, devices, memory, (*batch, waits, false));
        }
    }
    let batch = settings.args.batch();
    of_batch(
        table,
        settings,
        devices,
        memory,
        (batch, Waits::Engine, true),
    );
    table.note(QEMU);
    one_engine(table, settings, devices, memory);
}

fn of_batch(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
    (batch, waits, sampling): (usize, Waits, bool),
) {
    let what = match (sampling, waits) {
        (true, _) => format!("cpu_as_used batch={batch}"),
        (_, Waits::Engine) => format!("cpu_per_page batch={batch} waits=engine"),
        (_, Waits::Caller) => format!("cpu_per_page batch={batch} waits=caller"),
    };
    let row = Row {
        name: format!("zero/{}/{what}", devices.name()),
        unit: "ns",
        bytes: None,
        compare: Compare::Limit,
        target: (batch == JUDGED && !sampling).then_some(TARGET),
    };
    let lane = lane(settings, devices, memory, (batch, waits, sampling));
    let mut total = ZeroReport::default();
    let mut value = || {
        let lane = lane.as_ref().map_err(Clone::clone)?;
        let scan = Scan {
            scanners: &lane.scanners,
            memory,
            channels: 1,
            call: CALL,
            time: settings.time,
            exact: waits == Waits::Caller,
        };
        let scanned = scan.run()?;
        total.add(&scanned.report);
        Ok(scanned.cpu_nanos_a_page())
    };
    let mut baseline = || software_cpu(settings, memory);
    table.measure(row, Some(&mut baseline), &mut value);
    tell_trouble(table, &what, &total);
}

fn lane(
    settings: &Settings<'_>,
    devices: &Devices,
    memory: &Memory,
    (batch, waits, sampling): (usize, Waits, bool),
) -> Result<Lane, Skipped> {
    let open = devices.open(
        settings.devices(devices),
        settings.args.model_rate(),
        memory,
    )?;
    takes(&open.queues, batch)?;
    let engine = match waits {
        Waits::Engine => running_engine()?,
        Waits::Caller => Arc::new(CompletionEngine::new()),
    };
    let scanner = scanner(&open.queues, &engine, DsaOptions::default(), batch)?;
    let ratio = settings.args.normal_page_ratio;
    Ok(Lane {
        scanners: vec![scanner.sampling(sampling).normal_page_ratio(ratio)],
        _engines: vec![engine],
        _open: open,
    })
}

/// A cost that is in part that of the CPU's own looking is another one than the name says.
pub(super) fn tell_trouble(table: &mut Table<'_>, what: &str, report: &ZeroReport) {
    if report.by_cpu > 0 {
        let percent = report.by_cpu as f64 * 100.0 / report.pages.max(1) as f64;
        let trouble = report.trouble;
        table.note(format!(
            "  {what}: {percent:.2} % of pages fell to the CPU: {trouble:?}"
        ));
    }
}

/// One poller for all, against one for each.
fn one_engine(table: &mut Table<'_>, settings: &Settings<'_>, devices: &Devices, memory: &Memory) {
    const DEVICES: usize = 4;
    let row = Row {
        name: format!("zero/{}/one_engine devices={DEVICES}", devices.name()),
        unit: "ns",
        bytes: None,
        compare: Compare::Cost,
        target: None,
    };
    // All of them together are as fast as one was before, so that CPUs are not the limit.
    let rate = settings.args.model_rate() / DEVICES as f64;
    let lane = |engines: usize| {
        let open = devices.open(DEVICES, rate, memory)?;
        let engines: Result<Vec<_>, Skipped> = (0..engines).map(|_| running_engine()).collect();
        let engines = engines?;
        let scanners = open.queues.iter().zip(engines.iter().cycle());
        let scanners = scanners.map(|(queue, engine)| {
            let queue = std::slice::from_ref(queue);
            scanner(queue, engine, DsaOptions::default(), settings.args.batch())
        });
        Ok(Lane {
            scanners: scanners.collect::<Result<_, Skipped>>()?,
            _engines: engines,
            _open: open,
        })
    };
    let cost = |lane: &Result<Lane, Skipped>| -> Outcome {
        let lane = lane.as_ref().map_err(Clone::clone)?;
        let scan = Scan {
            scanners: &lane.scanners,
            memory,
            channels: DEVICES,
            call: CALL,
            time: settings.time,
            exact: false,
        };
        Ok(scan.run()?.cpu_nanos_a_page())
    };
    let (each, one) = (lane(DEVICES), lane(1));
    table.measure(row, Some(&mut || cost(&each)), &mut || cost(&one));
}
