// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin bench compress`: how small pages get on their way, how fast that is on this host, and what it costs.
//!
//! ```text
//!  --engine software ─────────────────────────────────────────────────► rows of software
//!           model ────► devices that answer by the clock ─────────────► these, and rows of devices
//!           iaa ──────► queues that were named, or found ─────────────► these, and rows of devices
//!           auto ─────► queues if there are any, else the model ──────► these, and rows of devices
//! ```
//!
//! The path to real devices has never run on hardware so far.

mod agreed;
mod args;
mod codings;
mod cost;
mod devices;
mod pages;
mod policies;
mod software;
mod work;
mod zlib;

use std::time::Duration;

pub(crate) use args::CompressArgs;
use args::{CodingName, CorpusName, EngineName};
use devices::{Devices, Known};
use idxd::Kind;
use migration::Corpus;
use pages::{CALL, PAGE, Pages};

use super::{
    Refused, budget,
    queues::{self, Found},
    table::Table,
};

const NAME: &str = "compress";
const TITLE: &str = "parapin bench compress";
/// What made-up pages are made from: the same for everybody.
const SEED: u64 = 1;
/// Pages that are worth anything: those of one call.
const FEWEST: usize = CALL;
/// Copies of the pages that there are at a time, about.
const COPIES: u64 = 8;

/// What was asked for, resolved against this machine.
#[derive(Debug)]
struct Settings<'a> {
    args: &'a CompressArgs,
    /// Pages of the corpus that are used, at most.
    most: usize,
    /// How long one measurement takes that has no end of its own.
    time: Duration,
}

impl<'a> Settings<'a> {
    fn new(args: &'a CompressArgs, table: &Table<'_>) -> Result<Self, Refused> {
        if let Some(surplus) = args.surplus() {
            return Err(Refused::usage(NAME, surplus));
        }
        let default = table.size(16 << 20, FEWEST * PAGE);
        let bytes = args.size.unwrap_or(default as u64);
        let least = (FEWEST * PAGE) as u64;
        if bytes < least || bytes % PAGE as u64 != 0 {
            return Err(Refused::usage(
                NAME,
                format!("--size {bytes} is not a multiple of {PAGE} of at least {least} bytes"),
            ));
        }
        budget::check(bytes.saturating_mul(COPIES))?;
        Ok(Self {
            args,
            // It fits into memory several times.
            most: usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX),
            time: table.size(Duration::from_millis(100), Duration::from_millis(1)),
        })
    }

    /// The pages, and what they are.
    fn pages(&self) -> Result<(Pages, String), Refused> {
        let path = match &self.args.corpus {
            CorpusName::Synthetic => {
                let told = format!(
                    "{} made-up pages: 35 % heap, 30 % code, 15 % text, 10 % sparse, 10 % random; an estimate, take --corpus FILE \
                     with those that matter",
                    self.most
                );
                return Ok((Pages::all(&Corpus::synthetic(self.most, SEED))?, told));
            }
            CorpusName::File(path) => path,
        };
        let name = path.display();
        let corpus = Corpus::of_file(path, self.most)
            .map_err(|error| Refused::failed(format!("--corpus {name} cannot be read: {error}")))?;
        let count = corpus.len();
        let is_zero = |page: &&[u8]| page.iter().all(|byte| *byte == 0);
        let zero = corpus.pages().filter(is_zero).count();
        if count - zero < FEWEST {
            let mut refused = Refused::failed(format!(
                "--corpus {name} is too small: {} of its first {count} pages of {PAGE} bytes are not zero, and at least {FEWEST} \
                 are needed",
                count - zero
            ));
            refused.remedy =
                Some("take a larger file, a larger --size, or --corpus synthetic".to_owned());
            return Err(refused);
        }
        let told = format!(
            "the first {count} pages of {name}, without {zero} zero ones, which are never compressed"
        );
        Ok((Pages::not_zero(&corpus)?, told))
    }
}

/// Measures what was asked for.
pub(super) fn run(args: &CompressArgs) -> Result<(), Refused> {
    let mut table = Table::new(&args.common, TITLE)?;
    let settings = Settings::new(args, &table)?;
    let (devices, why) = devices(args)?;
    let (pages, which) = settings.pages()?;
    // What most want to know comes first.
    agreed::tell(&mut table, &settings, devices.as_ref(), &pages);
    table.note(which);
    for why in why {
        table.note(why);
    }
    table.begin();
    software::measure(&mut table, &settings, &pages);
    if args.corpus == CorpusName::Synthetic {
        software::tell_classes(&mut table, &settings);
    }
    if let Some(devices) = devices {
        of_devices(&mut table, &settings, &devices, &pages)?;
    }
    table.finish()
}

/// What takes descriptors, if anything does, and why that.
fn devices(args: &CompressArgs) -> Result<(Option<Devices>, Vec<String>), Refused> {
    if args.engine == EngineName::Software || !args.has_deflate() {
        return Ok((None, Vec::new()));
    }
    let model = format!(
        "the devices are a model in this process, with answers that are known before, at {} GB/s by the clock where nothing else \
         is said: this measures what asking costs",
        cost::RATE
    );
    if args.engine == EngineName::Model {
        return Ok((Some(Devices::Model), vec![model]));
    }
    let Found { queues, left_out } = queues::find(Kind::Iax, args.accel_path.as_ref())?;
    if !queues.is_empty() {
        let told = queues.iter().map(|queue| queues::describe(queue));
        let told = told.collect();
        return Ok((Some(Devices::Queues(queues)), told));
    }
    if args.engine == EngineName::Iaa {
        return Err(queues::none(Kind::Iax, &left_out));
    }
    let mut told = vec![
        "auto took the model: there is no work queue of an IAA that this process may use"
            .to_owned(),
    ];
    told.extend(left_out.iter().map(|why| format!("  not used: {why}")));
    told.push(model);
    Ok((Some(Devices::Model), told))
}

fn of_devices(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    pages: &Pages,
) -> Result<(), Refused> {
    let name = settings.args.coding.unwrap_or(CodingName::Fixed);
    let coding = devices::coding(name, pages)?;
    let known = Known::new(devices, &coding, pages)?;
    let by = (&coding, &known);
    cost::measure(table, settings, devices, pages, by);
    policies::measure(table, settings, devices, pages, by);
    codings::measure(table, settings, devices, pages);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use idxd::{
        Queue,
        model::{Device, Model},
    };
    use parapin::bench::Report;

    use super::*;
    use crate::cli::bench::args::What;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(subcommand)]
        what: What,
    }

    /// What is measured on queues of devices that compute, which stand for real ones.
    fn measured_on(model: &Model, count: usize, arguments: &[&str]) -> Report {
        let words = ["bench", "compress", "--test"].iter().chain(arguments);
        let What::Compress(args) = Typed::parse_from(words).what else {
            unreachable!("compress was typed");
        };
        let mut table = Table::new(&args.common, TITLE).map_err(drop).unwrap();
        let settings = Settings::new(&args, &table).map_err(drop).unwrap();
        let (pages, _) = settings.pages().map_err(drop).unwrap();
        let queues: Vec<Arc<Queue>> = (0..count)
            .map(|device| model.open(device).unwrap())
            .collect();
        of_devices(&mut table, &settings, &Devices::Queues(queues), &pages)
            .map_err(drop)
            .unwrap();
        table.report()
    }

    fn skipped(report: &Report, part: &str) -> Vec<String> {
        let rows = report.rows.iter();
        rows.filter(|measured| measured.row().name.contains(part))
            .filter_map(|measured| Some(measured.pairs().err()?.to_string()))
            .collect()
    }

    #[test]
    fn rows_of_real_queues_are_measured_as_far_as_there_are_queues_and_codings() {
        let device = |index| Device::new(format!("wq{index}.0"), Device::IAA_LIMITS);
        let model = Model::start(vec![device(0), device(1)]).unwrap();
        let report = measured_on(&model, 2, &["--policy", "wait"]);
        let few = skipped(&report, "cpu_per_page");
        assert_eq!(few.len(), 6, "4 devices, 3 calls, both ways: {few:?}");
        assert_eq!(few[0], "4 queues are needed, 2 can be used");
        let policies = report
            .rows
            .iter()
            .filter(|row| row.row().name.contains("/policy/"));
        let policies: Vec<&str> = policies.map(|row| row.row().name.as_str()).collect();
        assert_eq!(policies, ["compress/policy/wait iaa"]);
        // IAA 1.0 makes no codes: the CPU did it, and that is no ratio of a device.
        let generated = skipped(&report, "coding=generated");
        assert_eq!(generated.len(), 2);
        assert!(
            generated[0].contains("pages fell to the CPU"),
            "{generated:?}"
        );
        for coding in ["fixed", "canned"] {
            assert_eq!(skipped(&report, &format!("coding={coding}")), [""; 0]);
        }
        let others = report
            .rows
            .iter()
            .filter(|row| !row.row().name.contains("/policy/"));
        assert!(
            others
                .into_iter()
                .all(|row| row.row().name.starts_with("compress/iaa/"))
        );
    }

    #[test]
    fn who_does_the_cpus_work_is_told() {
        let device = Device::new("wq0.0", Device::IAA_LIMITS);
        let model = Model::start(vec![device]).unwrap();
        // This device makes no codes.
        let report = measured_on(&model, 1, &["--coding", "generated", "--policy", "retry"]);
        let told = |note: &String| {
            note.starts_with(
                "  cpu_per_page devices=1 call=512 encode: 100.00 % of pages fell to the CPU",
            )
        };
        assert!(report.notes.iter().any(told), "{:?}", report.notes);
    }
}
