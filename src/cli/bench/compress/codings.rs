// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How small pages get by each way in which an IAA comes by its Huffman codes.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `ratio coding=C` | the software twin's | bytes of pages for a byte that travels | |
//! | `restored coding=C` | all | pages that software restores from what the device wrote | all |

use migration::{PageCodec, PageFormat};
use parapin::bench::{Compare, Row, Skipped};

use super::{
    Settings,
    args::CodingName,
    devices::{self, Devices},
    pages::{Bodies, Pages},
};
use crate::cli::bench::table::Table;

const NOTE: &str = "ratios of the model are those of its own search for matches: a device's differs, and was never run";

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    pages: &Pages,
) {
    if matches!(devices, Devices::Model) {
        table.note(NOTE);
    }
    let software = PageCodec::software(PageFormat::Deflate);
    let twin = Bodies::of(&software, pages);
    for name in CodingName::ALL {
        if settings.args.coding.is_some_and(|only| only != name) {
            continue;
        }
        let row = |what: &str, unit, compare, target| Row {
            name: format!("compress/{}/{what} coding={}", devices.name(), name.name()),
            unit,
            bytes: None,
            compare,
            target,
        };
        let bodies = of_device(devices, name, pages);
        let bodies = bodies.as_ref().map_err(Clone::clone);
        let mut baseline = || Ok(twin.as_ref().map_err(Clone::clone)?.ratio());
        let mut value = || Ok(bodies.clone()?.ratio());
        let ratio = row("ratio", "x", Compare::Rate, None);
        table.measure(ratio, Some(&mut baseline), &mut value);
        let mut baseline = || Ok(pages.len() as f64);
        let mut value = || pages.restored(&mut software.decoder()?, bodies.clone()?);
        let restored = row("restored", "pages", Compare::Same, Some(1.0));
        table.measure(restored, Some(&mut baseline), &mut value);
    }
}

/// What a device writes, and none of it the CPU.
fn of_device(devices: &Devices, name: CodingName, pages: &Pages) -> Result<Bodies, Skipped> {
    let lane = devices.computing(&devices::coding(name, pages)?)?;
    let (bodies, report) = Bodies::with_report(&lane.codec, pages)?;
    match report.by_cpu {
        0 => Ok(bodies),
        pages => Err(Skipped::for_reason(format!(
            "{pages} pages fell to the CPU: {:?}",
            report.trouble
        ))),
    }
}
