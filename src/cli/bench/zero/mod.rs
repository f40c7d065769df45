// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin bench zero`: how fast zero pages are found on this host, and what that costs.
//!
//! ```text
//!  --engine software ──────────────────────────────────────► software rows
//!           model ────► devices that answer by the clock ───► rows of devices
//!           dsa ──────► queues that were named, or found ───► rows of devices
//!           auto ─────► both measured: ZeroScanner::choose ─► rows of what was chosen, and why
//! ```
//!
//! The path to real devices has never run on hardware so far.

mod beside;
mod cost;
mod counts;
mod devices;
mod memory;
mod scale;
mod scan;
mod software;

use std::{sync::Arc, time::Duration};

use cgroup::MemoryBudget;
use devices::Devices;
use idxd::{CompletionEngine, Kind};
use memory::Memory;
use migration::{Demand, DsaOptions, Measured, ZeroEngine, ZeroScanner};
use parapin::bench::Skipped;

use super::{
    Refused,
    args::{BehindName, EngineName, ZeroArgs},
    budget,
    queues::{self, Found},
    table::Table,
};

const NAME: &str = "zero";
const TITLE: &str = "parapin bench zero";
/// Least memory that is worth anything, also to share among all channels.
const SMALLEST: u64 = 1 << 20;

/// What was asked for, resolved against this machine.
#[derive(Debug)]
struct Settings<'a> {
    args: &'a ZeroArgs,
    /// Memory to scan.
    bytes: u64,
    behind: Vec<BehindName>,
    /// How long one measurement takes that has no end of its own.
    time: Duration,
}

impl<'a> Settings<'a> {
    fn new(args: &'a ZeroArgs, table: &Table<'_>) -> Result<Self, Refused> {
        if let Some(surplus) = args.surplus() {
            return Err(Refused::usage(NAME, surplus));
        }
        let bytes = args
            .size
            .unwrap_or_else(|| table.size(default_size(), SMALLEST));
        if bytes < SMALLEST || bytes % memory::PAGE != 0 {
            return Err(Refused::usage(
                NAME,
                format!(
                    "--size {bytes} is not a multiple of {} of at least {SMALLEST} bytes",
                    memory::PAGE
                ),
            ));
        }
        // Zero pages and data, side by side.
        budget::check(bytes.saturating_mul(2))?;
        let behind = match args.page_size {
            Some(behind) => vec![behind],
            None => vec![BehindName::Small, BehindName::Transparent],
        };
        Ok(Self {
            args,
            bytes,
            behind,
            time: table.size(Duration::from_millis(100), Duration::from_millis(2)),
        })
    }

    /// Memory with that share of zero pages.
    fn mixed_memory(&self) -> Result<Memory, Skipped> {
        Memory::new(self.behind[0].backed(), self.bytes, self.args.zero_percent)
    }

    /// Devices to use where their number is not what is compared.
    fn devices(&self, devices: &Devices) -> usize {
        match devices {
            Devices::Model => self.args.devices.map_or(1, usize::from),
            Devices::Queues(queues) => queues.len(),
        }
    }
}

/// See `--help`.
fn default_size() -> u64 {
    const MIB: u64 = 1 << 20;
    let large = software::out_of_cache().max(1 << 30);
    let available = MemoryBudget::current().available().unwrap_or(u64::MAX);
    (large.min(available / 8) / MIB * MIB).max(SMALLEST)
}

/// Measures what was asked for.
pub(super) fn run(args: &ZeroArgs) -> Result<(), Refused> {
    let mut table = Table::new(&args.common, TITLE)?;
    let settings = Settings::new(args, &table)?;
    let devices = match args.engine {
        EngineName::Software => None,
        EngineName::Model => {
            table.note(format!(
                "the devices are a model in this process, with answers that are known before, at {} GB/s by the clock: this \
                 measures what asking costs",
                args.model_rate()
            ));
            Some(Devices::Model)
        }
        EngineName::Dsa => Some(real(args)?),
        EngineName::Auto => {
            let found = queues::find(Kind::Dsa, args.accel_path.as_ref())?;
            choose(&mut table, args, found)?
        }
    };
    if let Some(Devices::Queues(queues)) = &devices {
        for queue in queues {
            table.note(queues::describe(queue));
        }
    }
    table.begin();
    match devices {
        None => of_software(&mut table, &settings),
        Some(devices) => of_devices(&mut table, &settings, &devices)?,
    }
    table.finish()
}

fn of_software(table: &mut Table<'_>, settings: &Settings<'_>) {
    software::measure(table, settings);
    match settings.mixed_memory() {
        Ok(memory) => {
            let scanner = Ok(ZeroScanner::software().reading_all());
            counts::measure(table, settings, "software", &memory, &scanner);
        }
        Err(reason) => table.note(format!("pages were not counted: {reason}")),
    }
}

fn of_devices(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
) -> Result<(), Refused> {
    let memory = settings.mixed_memory()?;
    cost::measure(table, settings, devices, &memory);
    scale::measure(table, settings, devices, &memory);
    beside::measure(table, settings, devices, &memory);
    // Both live until everything is counted.
    let open = devices.open(
        settings.devices(devices),
        settings.args.model_rate(),
        &memory,
    )?;
    let engine = devices::running_engine()?;
    let options = DsaOptions::default();
    let scanner = devices::scanner(&open.queues, &engine, options, settings.args.batch());
    counts::measure(table, settings, devices.name(), &memory, &scanner);
    Ok(())
}

/// Real queues, or why there are none.
fn real(args: &ZeroArgs) -> Result<Devices, Refused> {
    let Found { queues, left_out } = queues::find(Kind::Dsa, args.accel_path.as_ref())?;
    if queues.is_empty() {
        return Err(queues::none(Kind::Dsa, &left_out));
    }
    Ok(Devices::Queues(queues))
}

/// What a migration would take on this host, told with its reason; none is software.
fn choose(
    table: &mut Table<'_>,
    args: &ZeroArgs,
    found: Found,
) -> Result<Option<Devices>, Refused> {
    let Found { queues, left_out } = found;
    let engine = Arc::new(CompletionEngine::new());
    if !queues.is_empty() {
        engine
            .start()
            .map_err(|error| Refused::from(Skipped::from(error)))?;
    }
    let usual = Demand::default();
    let demand = Demand {
        pages_per_second: args.demand.unwrap_or(usual.pages_per_second),
        channels: args.channels.map_or(usual.channels, usize::from),
        zero_percent: args.zero_percent,
        page_size: memory::PAGE,
    };
    let choice = ZeroScanner::choose(queues.clone(), engine, DsaOptions::default(), &demand);
    table.note(format!("auto chose {}", choice.reason));
    for why in left_out {
        table.note(format!("  not used: {why}"));
    }
    for (name, measured) in [("software", choice.software), ("dsa", choice.dsa)] {
        if let Some(measured) = measured {
            table.note(told(name, &measured));
        }
    }
    Ok(match choice.scanner.engine() {
        ZeroEngine::Dsa => Some(Devices::Queues(queues)),
        ZeroEngine::Software => None,
    })
}

fn told(name: &str, measured: &Measured) -> String {
    format!(
        "  {name}: {:.1} ns of CPU a page, {:.2} million pages/s",
        measured.cpu_nanos_per_page,
        measured.pages_per_second / 1e6
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use idxd::{
        Limits, Queue,
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

    fn typed(arguments: &[&str]) -> ZeroArgs {
        let words = ["bench", "zero", "--test"].iter().chain(arguments);
        match Typed::parse_from(words).what {
            What::Zero(args) => args,
            What::Compress(_) => unreachable!("zero was typed"),
        }
    }

    /// Queues of devices that look at memory themselves, with batches of up to 128, which stand for real ones.
    fn queues(model: &Model, count: usize) -> Vec<Arc<Queue>> {
        (0..count)
            .map(|device| model.open(device).unwrap())
            .collect()
    }

    fn model(count: usize, limits: Limits) -> Model {
        let devices = (0..count).map(|index| Device::new(format!("wq{index}.0"), limits));
        Model::start(devices.collect()).unwrap()
    }

    fn measured_on(queues: Vec<Arc<Queue>>, arguments: &[&str]) -> Report {
        let args = typed(arguments);
        let mut table = Table::new(&args.common, TITLE).map_err(drop).unwrap();
        let settings = Settings::new(&args, &table).map_err(drop).unwrap();
        of_devices(&mut table, &settings, &Devices::Queues(queues))
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
    fn rows_of_real_queues_are_measured_as_far_as_there_are_queues_and_batches() {
        let model = model(2, Device::LIMITS);
        let report = measured_on(queues(&model, 2), &["--engine", "dsa"]);
        let is_dsa = |name: &str| name.starts_with("zero/dsa/");
        assert!(report.rows.iter().all(|row| is_dsa(&row.row().name)));
        let too_large = skipped(&report, "cpu_per_page");
        assert_eq!(too_large.len(), 2 * 3, "256, 512, 1024: {too_large:?}");
        assert_eq!(too_large[0], "wq0.0 takes batches of up to 128");
        for (part, count, reason) in [
            ("one_engine", 1, "4 queues are needed, 2 can be used"),
            ("scale", 4, "4 queues are needed, 2 can be used"),
            ("latency", 1, "a real device cannot be told to be slow"),
            ("zero_pages", 0, ""),
        ] {
            let reasons = skipped(&report, part);
            assert_eq!(reasons.len(), count, "{part}");
            assert!(reasons.iter().all(|told| told == reason), "{reasons:?}");
        }
        let exact = report
            .rows
            .iter()
            .filter(|row| row.row().name.contains("zero_pages"));
        assert!(exact.map(|row| row.ratio()).all(|ratio| ratio == Some(1.0)));
    }

    #[test]
    fn without_batches_everything_is_measured_all_the_same() {
        let limits = Limits {
            max_batch: 1,
            ..Device::LIMITS
        };
        let model = model(1, limits);
        let report = measured_on(queues(&model, 1), &["--engine", "dsa"]);
        assert_eq!(skipped(&report, "cpu_per_page"), [""; 0]);
        let described = queues::describe(&model.open(0).unwrap());
        assert_eq!(
            described,
            "  wq0.0: a model, no device, shared, 128 entries, no batches"
        );
    }

    #[test]
    fn auto_tells_what_it_measured_and_what_it_left_out() {
        let model = model(1, Device::LIMITS);
        let args = typed(&["--demand", "1"]);
        let mut table = Table::new(&args.common, TITLE).map_err(drop).unwrap();
        let found = Found {
            queues: queues(&model, 1),
            left_out: vec!["wq0.1: disabled".to_owned()],
        };
        let chosen = choose(&mut table, &args, found).map_err(drop).unwrap();
        let notes = table.report().notes;
        let name = if chosen.is_some() { "dsa" } else { "software" };
        assert!(notes[0].starts_with(&format!("auto chose {name}: DSA takes ")));
        assert_eq!(notes[1], "  not used: wq0.1: disabled");
        assert!(notes[2].starts_with("  software: ") && notes[2].contains(" ns of CPU a page, "));
        assert!(notes[3].starts_with("  dsa: "), "{notes:?}");
    }
}
