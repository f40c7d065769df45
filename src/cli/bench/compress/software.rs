// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rows of codecs that the calling thread runs, by the calls that a channel makes, against zlib page by page.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `CODEC/encode` | zlib, out of the pages and into one buffer | pages compressed, as they are for a socket | ≥ 2x deflate, ≥ 3x zstd |
//! | `CODEC/decode` | zlib, its own streams | streams restored | ≥ 1.8x deflate, ≥ 2.3x zstd |
//! | `CODEC/ratio` | zlib's | bytes of pages for a byte that travels | ≥ 1x deflate and zstd |
//! | `CODEC/cpu_per_page` | | CPU time of the thread, both ways | |
//! | `CODEC/restored` | all | pages that are what they were | all |
//! | `deflate/decode_same_streams` | zlib, our streams | the same streams | |
//! | `zlib_stream/encode`, `/ratio` | zlib page by page | zlib as one stream, as QEMU's multifd has it | |
//!
//! Ours includes the copies of the path that is sold: a page is copied before a library sees it, and a stream into the
//! decoder's inbox.

use std::{hint::black_box, time::Instant};

use migration::{Class, Corpus, PageCodec, PageDecoder, PageEncoder, PageFormat};
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    pages::{Bodies, PAGE, Pages},
    zlib::{Deflater, Inflater},
};
use crate::cli::bench::{table::Table, threads::cpu_of_calling_thread};

const NOTE: &str = "decode: each side decodes its own streams, zlib's are zlib's; in decode_same_streams zlib decodes ours, too";

pub(super) fn measure(table: &mut Table<'_>, settings: &Settings<'_>, pages: &Pages) {
    let zlib = bodies_of_zlib(pages);
    let zlib = zlib.as_ref().map_err(Clone::clone);
    table.note(NOTE);
    for format in settings.args.formats() {
        let codec = PageCodec::software(format);
        let bodies = Bodies::of(&codec, pages);
        let side = Side {
            format,
            codec: &codec,
            pages,
            bodies: bodies.as_ref().map_err(Clone::clone),
            zlib: zlib.clone(),
        };
        side.encode(table);
        side.decode(table);
        side.ratio(table);
        side.cpu(table);
        side.restored(table);
    }
    stream(table, pages, &zlib);
}

/// Least speed-up of compressing, least speed-up of restoring, least ratio of ratios.
fn targets(format: PageFormat) -> [Option<f64>; 3] {
    match format {
        PageFormat::Deflate => [Some(2.0), Some(1.8), Some(1.0)],
        PageFormat::Zstd => [Some(3.0), Some(2.3), Some(1.0)],
        _ => [None; 3],
    }
}

/// A codec and what it is held against.
struct Side<'a> {
    format: PageFormat,
    codec: &'a PageCodec,
    pages: &'a Pages,
    bodies: Result<&'a Bodies, Skipped>,
    zlib: Result<&'a Bodies, Skipped>,
}

impl Side<'_> {
    fn row(&self, what: &str, unit: &'static str, compare: Compare, target: Option<f64>) -> Row {
        Row {
            name: format!("compress/{}/{what}", self.format),
            unit,
            bytes: None,
            compare,
            target,
        }
    }

    fn encoder(&self) -> Result<PageEncoder, Skipped> {
        Ok(self.codec.encoder()?)
    }

    fn decoder(&self) -> Result<PageDecoder, Skipped> {
        Ok(self.codec.decoder()?)
    }

    fn encode(&self, table: &mut Table<'_>) {
        let [target, ..] = targets(self.format);
        let row = self.row("encode", "MB/s", Compare::Rate, target);
        let mut deflater = Deflater::new();
        let mut encoder = self.encoder();
        let mut baseline = || by_zlib(self.pages, &mut deflater);
        let mut value = || {
            let encoder = encoder.as_mut().map_err(|reason| reason.clone())?;
            rate(self.pages, || self.pages.encode(encoder))
        };
        table.measure(row, Some(&mut baseline), &mut value);
    }

    fn decode(&self, table: &mut Table<'_>) {
        let [_, target, _] = targets(self.format);
        let row = self.row("decode", "MB/s", Compare::Rate, target);
        self.decode_against(table, row, &self.zlib);
        if self.format == PageFormat::Deflate {
            let row = self.row("decode_same_streams", "MB/s", Compare::Rate, None);
            self.decode_against(table, row, &self.bodies);
        }
    }

    fn decode_against(
        &self,
        table: &mut Table<'_>,
        row: Row,
        of_baseline: &Result<&Bodies, Skipped>,
    ) {
        let mut inflater = Inflater::new(self.pages);
        let mut decoder = self.decoder();
        let mut baseline = || {
            let bodies = of_baseline.clone()?;
            rate(self.pages, || inflater.all(bodies))
        };
        let mut value = || {
            let decoder = decoder.as_mut().map_err(|reason| reason.clone())?;
            let bodies = self.bodies.clone()?;
            rate(self.pages, || self.pages.decode(decoder, bodies))
        };
        table.measure(row, Some(&mut baseline), &mut value);
    }

    fn ratio(&self, table: &mut Table<'_>) {
        let [_, _, target] = targets(self.format);
        let row = self.row("ratio", "x", Compare::Rate, target);
        let mut baseline = || Ok(self.zlib.clone()?.ratio());
        table.measure(row, Some(&mut baseline), &mut || {
            Ok(self.bodies.clone()?.ratio())
        });
    }

    fn cpu(&self, table: &mut Table<'_>) {
        let row = self.row("cpu_per_page encode", "ns", Compare::Limit, None);
        let mut encoder = self.encoder();
        table.measure(row, None, &mut || {
            let encoder = encoder.as_mut().map_err(|reason| reason.clone())?;
            cpu(self.pages, || self.pages.encode(encoder))
        });
        let row = self.row("cpu_per_page decode", "ns", Compare::Limit, None);
        let mut decoder = self.decoder();
        table.measure(row, None, &mut || {
            let decoder = decoder.as_mut().map_err(|reason| reason.clone())?;
            let bodies = self.bodies.clone()?;
            cpu(self.pages, || self.pages.decode(decoder, bodies))
        });
    }

    fn restored(&self, table: &mut Table<'_>) {
        let row = self.row("restored", "pages", Compare::Same, Some(1.0));
        let mut decoder = self.decoder();
        let mut baseline = || Ok(self.pages.len() as f64);
        table.measure(row, Some(&mut baseline), &mut || {
            let decoder = decoder.as_mut().map_err(|reason| reason.clone())?;
            self.pages.restored(decoder, self.bodies.clone()?)
        });
    }
}

/// Megabytes of pages a second.
fn rate(pages: &Pages, work: impl FnOnce() -> Result<(), Skipped>) -> Outcome {
    let start = Instant::now();
    work()?;
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    Ok((pages.len() * PAGE) as f64 / 1e6 / seconds)
}

/// Nanoseconds of CPU time of this thread for a page.
fn cpu(pages: &Pages, work: impl FnOnce() -> Result<(), Skipped>) -> Outcome {
    let before = cpu_of_calling_thread();
    work()?;
    let cpu = cpu_of_calling_thread().saturating_sub(before);
    Ok(cpu.as_secs_f64() * 1e9 / pages.len().max(1) as f64)
}

fn bodies_of_zlib(pages: &Pages) -> Result<Bodies, Skipped> {
    let mut deflater = Deflater::new();
    let mut bodies = Bodies::default();
    for page in pages.iter() {
        bodies.push(deflater.page(page)?);
    }
    Ok(bodies)
}

fn by_zlib(pages: &Pages, deflater: &mut Deflater) -> Outcome {
    rate(pages, || {
        for page in pages.iter() {
            black_box(deflater.page(page)?);
        }
        Ok(())
    })
}

/// zlib as QEMU's multifd has it, beside zlib page by page.
fn stream(table: &mut Table<'_>, pages: &Pages, by_page: &Result<&Bodies, Skipped>) {
    let row = |what: &str, unit| Row {
        name: format!("compress/zlib_stream/{what}"),
        unit,
        bytes: None,
        compare: Compare::Rate,
        target: None,
    };
    let (mut deflater, mut streaming) = (Deflater::new(), Deflater::new());
    let mut value = || {
        rate(pages, || {
            streaming.begin();
            for page in pages.iter() {
                black_box(streaming.next(page)?);
            }
            Ok(())
        })
    };
    let mut baseline = || by_zlib(pages, &mut deflater);
    table.measure(row("encode", "MB/s"), Some(&mut baseline), &mut value);
    let mut value = || {
        let mut deflater = Deflater::new();
        let mut bytes = 0;
        for page in pages.iter() {
            bytes += deflater.next(page)?.len();
        }
        Ok((pages.len() * PAGE) as f64 / bytes.max(1) as f64)
    };
    let mut baseline = || Ok(by_page.clone()?.ratio());
    table.measure(row("ratio", "x"), Some(&mut baseline), &mut value);
}

/// A line for each class of made-up pages, with the ratio of every codec on it.
pub(super) fn tell_classes(table: &mut Table<'_>, settings: &Settings<'_>) {
    let count = table.size(512, 8);
    for class in Class::ALL {
        let told = Pages::all(&Corpus::only(class, count, super::SEED))
            .and_then(|pages| ratios(&pages, settings));
        table.note(match told {
            Ok(told) => format!("ratio on pages of {class}: {told}"),
            Err(reason) => format!("ratio on pages of {class}: {reason}"),
        });
    }
}

fn ratios(pages: &Pages, settings: &Settings<'_>) -> Result<String, Skipped> {
    let mut told = format!("zlib {:.2}", bodies_of_zlib(pages)?.ratio());
    for format in settings.args.formats() {
        let bodies = Bodies::of(&PageCodec::software(format), pages)?;
        told += &format!(", {format} {:.2}", bodies.ratio());
    }
    Ok(told)
}
