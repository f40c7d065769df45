// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Flags of `parapin bench`.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use idxd::AccelPaths;
use migration::{BATCH_PAGES, Backed};
use parapin::bench::Bench;

use super::compress::CompressArgs;
use crate::cli::args::size;

const EXIT_CODES: &str = "\
Exit codes:
  0    everything was measured; the verdicts, good or bad, are in the result
  1    it could not be measured: no such device, no memory, no file to write to
  2    wrong usage
  130  ended by Ctrl-C";

const ZERO_EXAMPLES: &str = "\
Examples:
  parapin bench zero                            what a migration would use on this host, measured
  parapin bench zero --engine software          zero pages by the CPU against the memory's own speed
  parapin bench zero --engine model             what the DSA path costs, with a model instead of devices
  parapin bench zero --engine model --batch-pages 128 --rate 20 --zero-percent 90
  parapin bench zero --engine dsa --accel-path dsa:/dev/dsa/wq0.0,dsa:/dev/dsa/wq1.0
                                                on real queues (docs/accelerators.md sets them up)
  parapin bench zero --demand 12.5GB/s          auto, for a migration that fast
  parapin bench zero --json | jq '.rows[] | select(.verdict == \"fail\")'
  parapin bench zero --html zero.html           with a page to look at

Both sides of a row are measured in turns, within seconds of each other; numbers are medians. The path to real devices
has never run on hardware so far: please tell us what it says.";

const COMPRESS_EXAMPLES: &str = "\
Examples:
  parapin bench compress                        every codec against zlib, and the IAA path by queues or a model
  parapin bench compress --engine software      codecs of the CPU only
  parapin bench compress --codec deflate --corpus guest.dump
                                                on pages that matter: the built-in ones are an estimate
  parapin bench compress --engine iaa --accel-path iax:/dev/iax/wq1.0
                                                on real queues (docs/accelerators.md sets them up)
  parapin bench compress --engine model --policy adaptive
                                                what to do when queues are full, against what QEMU does
  parapin bench compress --engine model --coding canned --filter cpu_per_page
  parapin bench compress --json | jq '.rows[] | select(.verdict == \"fail\")'
  parapin bench compress --html compress.html   with a page to look at

Both sides of a row are measured in turns, within seconds of each other; numbers are medians. The path to real devices
has never run on hardware so far: please tell us what it says.";

/// What is to be measured.
#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: What,
}

#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Measure how fast zero pages are found, and what that costs: by software, by DSA, or by a model of DSA.
    #[command(after_help = format!("{ZERO_EXAMPLES}\n\n{EXIT_CODES}"))]
    Zero(ZeroArgs),
    /// Measure how well and how fast pages are compressed and restored, and what that costs: by software, by IAA, or by a
    /// model of IAA.
    #[command(after_help = format!("{COMPRESS_EXAMPLES}\n\n{EXIT_CODES}"))]
    Compress(CompressArgs),
}

/// Flags of all benches.
#[derive(Debug, ClapArgs)]
pub(crate) struct CommonArgs {
    /// Pairs of measurements for each row.
    #[arg(long, value_name = "N", default_value_t = Bench::ROUNDS as u64, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) rounds: u64,
    /// Only rows whose names contain this.
    #[arg(long, value_name = "PART")]
    pub(crate) filter: Option<String>,
    /// Do everything once with tiny sizes and without verdicts, to see that it works.
    #[arg(long, conflicts_with = "rounds")]
    pub(crate) test: bool,
    /// Print one JSON object instead of the table, which goes to standard error then.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write a page for a browser.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Flags of `parapin bench zero`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ZeroArgs {
    /// What finds zero pages; auto is what a migration would choose on this host.
    #[arg(long, value_enum, default_value_t = EngineName::Auto)]
    pub(crate) engine: EngineName,
    /// Share of zero pages in rows that are not about zero pages or data alone.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) zero_percent: u8,
    /// Pages of a batch that a device is given [default: 16, 32, … 1024 in turn, and 128 where they are not compared].
    #[arg(long, value_name = "16..1024", value_parser = batch_pages)]
    pub(crate) batch_pages: Option<usize>,
    /// Share of zero pages that is treated as data, in percent.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) normal_page_ratio: u8,
    /// Queues to use, for the engines dsa and auto [default: all that this process may use].
    #[arg(long, value_name = "dsa:/dev/dsa/wq0.0,…")]
    pub(crate) accel_path: Option<AccelPaths>,
    /// Threads that scan at once, in the rows about scale [default: 1, 2, 4 and 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) channels: Option<u8>,
    /// Devices of the model, in the rows about scale [default: 1, 2 and 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) devices: Option<u8>,
    /// How fast a device of the model is, in the rows that are not about scale [default: 30].
    #[arg(long, value_name = "GB/s", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Memory to scan [default: 1G, four times the cache if that is more, an eighth of what is available if that is less].
    #[arg(long, value_parser = size, allow_negative_numbers = true)]
    pub(crate) size: Option<u64>,
    /// Pages behind the memory [default: 4k, and for software also thp].
    #[arg(long, value_enum)]
    pub(crate) page_size: Option<BehindName>,
    /// What auto is to choose for: pages a second (2.5M), or bytes a second (10GB/s) [default: what 25 Gbit/s take, and as
    /// many zero pages].
    #[arg(long, value_name = "RATE", value_parser = demand)]
    pub(crate) demand: Option<f64>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// The threads that ask.
    Software,
    /// Intel DSA.
    Dsa,
    /// A model of DSA in this process: what asking costs, not what answering does.
    Model,
    /// What costs less CPU time on this host.
    Auto,
}

impl EngineName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Dsa => "dsa",
            Self::Model => "model",
            Self::Auto => "auto",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BehindName {
    /// Private memory of base pages.
    #[value(name = "4k")]
    Small,
    /// Private memory of transparent huge pages.
    #[value(name = "thp")]
    Transparent,
    /// Shared memory of a memfd.
    Memfd,
}

impl BehindName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Transparent => "thp",
            Self::Memfd => "memfd",
        }
    }

    pub(crate) fn backed(self) -> Backed {
        match self {
            Self::Small => Backed::Small,
            Self::Transparent => Backed::Transparent,
            Self::Memfd => Backed::Memfd,
        }
    }
}

impl ZeroArgs {
    /// A flag that says nothing with this engine, and which engines it is for.
    pub(crate) fn surplus(&self) -> Option<String> {
        use EngineName::{Auto, Dsa, Model};
        let flags: [(&str, bool, &[EngineName]); 4] = [
            ("--accel-path", self.accel_path.is_some(), &[Dsa, Auto]),
            ("--demand", self.demand.is_some(), &[Auto]),
            ("--rate", self.rate.is_some(), &[Model]),
            ("--devices", self.devices.is_some(), &[Model]),
        ];
        let surplus = flags
            .iter()
            .find(|(_, given, engines)| *given && !engines.contains(&self.engine))?;
        let engines: Vec<&str> = surplus.2.iter().map(|engine| engine.name()).collect();
        Some(format!(
            "{} is for --engine {}, not for {}",
            surplus.0,
            engines.join(" and "),
            self.engine.name()
        ))
    }

    /// Pages of a batch, where batches are not what is compared.
    pub(crate) fn batch(&self) -> usize {
        self.batch_pages.unwrap_or(migration::DEFAULT_BATCH_PAGES)
    }

    /// GB/s of a model device.
    pub(crate) fn model_rate(&self) -> f64 {
        self.rate.unwrap_or(30.0)
    }
}

impl CommonArgs {
    /// The run that is asked for.
    pub(crate) fn bench(&self) -> Bench {
        let rounds = usize::try_from(self.rounds)
            .ok()
            .and_then(NonZeroUsize::new);
        let bench = match self.test {
            true => Bench::test(),
            false => Bench::full(rounds.map_or(Bench::ROUNDS, NonZeroUsize::get)),
        };
        bench.filter(self.filter.clone())
    }
}

fn batch_pages(text: &str) -> Result<usize, String> {
    let pages = text.parse().map_err(|_| "must be a number".to_owned())?;
    match BATCH_PAGES.contains(&pages) {
        true => Ok(pages),
        false => Err(format!("{pages} is not in 16..=1024")),
    }
}

/// More than nothing, and no more than any device will have for long.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("GB/s").unwrap_or(text).trim();
    match number.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1000.0 => Ok(rate),
        _ => Err("must be a number of GB/s, more than 0 and at most 1000".to_owned()),
    }
}

/// Pages a second, or bytes a second over the bytes of a page.
fn demand(text: &str) -> Result<f64, String> {
    let (number, bytes_of_unit) = match text.strip_suffix("B/s") {
        Some(number) => (number, 4096.0),
        None => (text, 1.0),
    };
    let (number, factor) = match number.trim_end().char_indices().last() {
        Some((at, 'k' | 'K')) => (&number[..at], 1e3),
        Some((at, 'M')) => (&number[..at], 1e6),
        Some((at, 'G')) => (&number[..at], 1e9),
        _ => (number, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number * factor / bytes_of_unit),
        _ => {
            Err("write pages a second, such as 2.5M, or bytes a second, such as 10GB/s".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_pages_or_bytes_a_second() {
        for (text, pages) in [
            ("4096", 4096.0),
            ("2.5M", 2.5e6),
            ("8k", 8e3),
            ("4096B/s", 1.0),
            ("4.096GB/s", 1e6),
            ("4.096 GB/s", 1e6),
        ] {
            let found = demand(text).unwrap();
            assert!((found - pages).abs() < 1e-6 * pages, "{text}: {found}");
        }
        for text in ["", "0", "-1", "G", "nan", "inf", "1T", "GB/s", "1e400"] {
            assert!(demand(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_batches_have_bounds() {
        assert_eq!(rate("30"), Ok(30.0));
        assert_eq!(rate("2.5 GB/s"), Ok(2.5));
        for text in ["0", "-1", "1001", "nan", "fast", ""] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(batch_pages("16"), Ok(16));
        assert_eq!(batch_pages("1024"), Ok(1024));
        for text in ["15", "1025", "-1", "x", ""] {
            assert!(batch_pages(text).is_err(), "{text}");
        }
    }
}
