// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which codec a migration between two hosts like this one would agree on, for links of several rates.
//!
//! ```text
//!  pages ─► migration::measure ─► the same offer for both ends ─► migration::agree ─► a codec for each link
//! ```

use std::time::Duration;

use migration::{AgreeError, CodecOffer, IaaOptions, Link, PageCodec, PageFormat, agree, measure};
use parapin::bench::Skipped;

use super::{
    Settings,
    devices::Devices,
    pages::{PAGE, Pages},
};
use crate::cli::bench::table::Table;

/// Gbit/s.
const LINKS: [u64; 4] = [1, 10, 25, 100];
/// Pages that a migration would take a sample of.
const SAMPLE: usize = 512;

pub(super) fn tell(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: Option<&Devices>,
    pages: &Pages,
) {
    let time = table.size(Duration::from_millis(100), Duration::from_millis(1));
    let channels = settings.args.channels;
    let told = offer(devices, pages, time).and_then(|offer| {
        let links = LINKS.map(|gbits| choice(&offer, gbits, channels));
        Ok(links.into_iter().collect::<Result<Vec<_>, _>>()?.join(", "))
    });
    table.note(match told {
        Ok(told) => {
            format!("between two hosts like this one, with {channels} channels, pages would travel as: {told}")
        }
        Err(reason) => format!("no codec can be chosen for a migration: {reason}"),
    });
}

fn offer(devices: Option<&Devices>, pages: &Pages, time: Duration) -> Result<CodecOffer, Skipped> {
    let deflate = match devices {
        Some(Devices::Queues(queues)) => PageCodec::iaa(queues.clone(), IaaOptions::default())?,
        // A model is as fast as it is told to be.
        Some(Devices::Model) | None => PageCodec::software(PageFormat::Deflate),
    };
    let codecs = [
        deflate,
        PageCodec::software(PageFormat::Zstd),
        PageCodec::software(PageFormat::Lz4),
    ];
    let sample = pages.offsets(0..pages.len().min(SAMPLE));
    Ok(measure(&codecs, &pages.block, PAGE as u64, sample, time)?)
}

fn choice(offer: &CodecOffer, gbits: u64, channels: u8) -> Result<String, AgreeError> {
    let link = Link {
        bytes_per_second: Some(gbits * 1_000_000_000 / 8),
        channels: u32::from(channels),
        page_size: PAGE as u64,
    };
    let agreed = agree(offer, offer, link, None)?;
    let expected = agreed.expected.unwrap_or(0) as f64 / 1e9;
    let format = agreed.format;
    Ok(format!(
        "{format} at {gbits} Gbit/s ({expected:.2} GB/s of pages)"
    ))
}
