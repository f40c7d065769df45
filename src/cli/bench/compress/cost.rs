// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What asking devices costs: CPU time of the channel's thread to submit and to collect, for each page.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `cpu_per_page devices=D call=C encode` | software, on the same pages | every page compressed by a device, for one channel | ≤ 150 ns at 512 |
//! | `cpu_per_page devices=D call=C decode` | software, the same streams | every page restored by a device | |
//!
//! No page is for the CPU: the channel waits for room, and going to sleep and waking up is a part of the cost. So is what the
//! model's queue takes of a submitter's time, in place of an `enqcmd`; what its thread takes is not. Restoring has no target,
//! because it includes that the stream is copied to where devices read it, which is reading the socket in a migration.

use idxd::{iaa::Coding, model::Tenants};
use migration::{CodecReport, PageCodec, PageFormat, Policy};
use parapin::bench::{Compare, Row};

use super::{
    Settings,
    devices::{Devices, Known, Wanted},
    pages::Pages,
    work::{Work, Worked},
};
use crate::cli::bench::table::Table;

/// GB/s of a device of the model: what QEMU measured for one IAA.
pub(super) const RATE: f64 = 3.4;
/// The call that the target is for.
const JUDGED: usize = 512;
const TARGET: f64 = 150.0;

/// One row.
struct Case {
    what: String,
    devices: usize,
    call: usize,
    restores: bool,
    judged: bool,
}

/// All of them, those over the same devices one after the other.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for restores in [false, true] {
        let way = if restores { "decode" } else { "encode" };
        for devices in [1, 2, 4] {
            cases.extend([128, JUDGED, 2048].map(|call| Case {
                what: format!("cpu_per_page devices={devices} call={call} {way}"),
                devices,
                call,
                restores,
                judged: call == JUDGED && !restores,
            }));
        }
    }
    cases
}

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    pages: &Pages,
    (coding, known): (&Coding, &Known),
) {
    let software = PageCodec::software(PageFormat::Deflate).safe_for_iaa(true);
    for case in cases() {
        let wanted = Wanted {
            count: case.devices,
            rate: RATE,
            tenants: Tenants::NONE,
        };
        let lane = devices.open(&wanted, Policy::Wait, coding, known);
        let row = Row {
            name: format!("compress/{}/{}", devices.name(), case.what),
            unit: "ns",
            bytes: None,
            compare: Compare::Limit,
            target: case.judged.then_some(TARGET),
        };
        let work = |codec| Work {
            codec,
            pages,
            bodies: case.restores.then_some(&known.bodies),
            channels: 1,
            call: case.call,
            time: settings.time / 2,
        };
        let mut total = Worked::default();
        let mut value = || {
            let lane = lane.as_ref().map_err(Clone::clone)?;
            let worked = work(&lane.codec).run()?;
            total.add(&worked);
            Ok(worked.cpu_nanos_a_page())
        };
        let mut baseline = || Ok(work(&software).run()?.cpu_nanos_a_page());
        table.measure(row, Some(&mut baseline), &mut value);
        tell_trouble(table, &case.what, &total.report);
    }
}

/// A cost that is in part that of the CPU's own work is another one than the name says.
pub(super) fn tell_trouble(table: &mut Table<'_>, what: &str, report: &CodecReport) {
    if report.by_cpu > 0 {
        let percent = report.by_cpu as f64 * 100.0 / report.pages.max(1) as f64;
        let trouble = report.trouble;
        table.note(format!(
            "  {what}: {percent:.2} % of pages fell to the CPU: {trouble:?}"
        ));
    }
}
