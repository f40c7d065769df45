// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was typed. Nothing here looks at the machine.

use std::num::NonZeroUsize;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use parapin::check::PciAddress;

use super::bench::BenchArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0    done (also --hold after a signal and a clean unpin)
  1    failed, nothing left pinned
  2    wrong usage
  3    failed, and something stayed pinned
  130  cancelled by Ctrl-C, and undone";

const PIN_EXAMPLES: &str = "\
Examples:
  parapin pin                                   pin up to 4 GiB, as fast as the limits allow
  parapin pin --size 16G --page-size thp        with transparent huge pages
  parapin pin --size 1G --threads 1             as a serial loop would
  parapin pin --size 2G --target populate       only fault the pages in
  parapin pin --size 4G --json | jq .limited_by which limit bound the number of threads
  parapin pin --explain                         say why it took so many threads and no more
  parapin pin --size 8G --hold                  stay pinned until Ctrl-C
  parapin pin --target type1 --device 0000:01:00.0 --size 4G
                                                map for a device that vfio-pci holds, as a VMM does
  parapin pin --target iommufd --device 0000:01:00.0 --strategy serial
                                                the same through iommufd, as a serial loop would

Sizes are bytes, or take K, M, G, T as powers of 1024.";

const CHECK_EXAMPLES: &str = "\
Examples:
  parapin check                                 can memory be pinned here at all
  parapin check --device 0000:01:00.0           for this device, through VFIO
  parapin check --device 01:00.0 --size 64G     so much of it
  parapin check --json | jq '.rows[] | select(.verdict == \"fail\") | .remedy'

Run it as the user, and in the container and cgroup, that will pin: the answer is about this process.

Verdicts: ok; absent, not there and not needed for what was asked; warn, it works, but slower or less safely than
it could, or could not be found out; fail, what was asked for cannot work.

Exit codes:
  0    no row fails
  1    a row fails
  2    wrong usage";

/// Pins guest memory for devices in parallel, inside the limits of the caller, and takes every page back if anything
/// fails.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pin memory of this process, report what that took, and unpin it.
    #[command(after_help = format!("{PIN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Pin(PinArgs),
    /// Say whether this host can pin guest memory for a device, and what to change.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Measure on this host what parapin promises.
    Bench(BenchArgs),
}

/// Flags of `parapin pin`.
#[derive(Debug, ClapArgs)]
pub(crate) struct PinArgs {
    /// Bytes to pin [default: the smaller of 4G and a quarter of the available memory].
    #[arg(long, value_parser = size, allow_negative_numbers = true)]
    pub(crate) size: Option<u64>,
    /// Number of regions that the bytes are spread over.
    #[arg(long, default_value = "1")]
    pub(crate) regions: NonZeroUsize,
    /// Where the memory is pinned.
    #[arg(long, value_enum, default_value_t = TargetName::IoUring)]
    pub(crate) target: TargetName,
    /// The PCI device to map for, such as 0000:01:00.0, held by vfio-pci; for the targets type1 and iommufd.
    #[arg(long, required_if_eq_any([("target", "type1"), ("target", "iommufd")]))]
    pub(crate) device: Option<PciAddress>,
    /// How memory is faulted in and mapped for a device.
    #[arg(long, value_enum, default_value_t = StrategyName::Auto)]
    pub(crate) strategy: StrategyName,
    /// First address for the device, in bytes or hexadecimal [default: 4G for a device, else 0].
    #[arg(long, value_parser = address)]
    pub(crate) iova: Option<u64>,
    /// Pages behind the memory; 2m and 1g come from the hugetlb pools.
    #[arg(long, value_enum, default_value_t = PageName::Small)]
    pub(crate) page_size: PageName,
    /// Private anonymous memory, or shared memory of a memfd.
    #[arg(long, value_enum, default_value_t = BackingName::Anon)]
    pub(crate) backing: BackingName,
    /// At most so many threads, this one included [default: what the limits allow].
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Nice value of the helper threads; they are never less nice than the calling thread.
    #[arg(long, default_value_t = parapin::NICEST, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-20..=19))]
    pub(crate) nice: i32,
    /// Where pages land on a machine with several memory nodes.
    #[arg(long, value_enum, default_value_t = PlacementName::Local)]
    pub(crate) placement: PlacementName,
    /// Put helper i on the i-th CPU of the mask, instead of leaving it to the scheduler.
    #[arg(long)]
    pub(crate) spread_cpus: bool,
    /// Bytes that are worth a thread.
    #[arg(long, value_parser = size, default_value = "32M")]
    pub(crate) min_chunk: u64,
    /// Most bytes of a chunk.
    #[arg(long, value_parser = size, default_value = "256M")]
    pub(crate) max_chunk: u64,
    /// Do not compare the limits on memory with what is needed first.
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Say of each limit that was looked at its value, where it was read, and which one bound.
    #[arg(long, conflicts_with = "quiet")]
    pub(crate) explain: bool,
    /// Stay pinned until Ctrl-C or SIGTERM.
    #[arg(long)]
    pub(crate) hold: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors.
    #[arg(long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

/// Flags of `parapin check`.
#[derive(Debug, ClapArgs)]
pub(crate) struct CheckArgs {
    /// The PCI device that memory is to be pinned for, such as 0000:01:00.0 [default: none, pins through io_uring].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) device: Option<PciAddress>,
    /// Bytes to be pinned [default: the smaller of 4G and a quarter of the available memory].
    #[arg(long, value_parser = size, allow_negative_numbers = true)]
    pub(crate) size: Option<u64>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetName {
    /// Real pins as registered buffers of io_uring.
    IoUring,
    /// No pins: pages are faulted in.
    Populate,
    /// Mapped for a device in a container of VFIO's group interface.
    Type1,
    /// Mapped for a device in an IOAS of iommufd.
    Iommufd,
}

impl TargetName {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Populate => "populate",
            Self::Type1 => "type1",
            Self::Iommufd => "iommufd",
        }
    }

    /// Whether memory is mapped for a device.
    pub(crate) fn is_vfio(self) -> bool {
        matches!(self, Self::Type1 | Self::Iommufd)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// The best for this target and this memory.
    Auto,
    /// One thread maps everything.
    Serial,
    /// All threads fault everything in, then one maps.
    PopulateThenMap,
    /// All threads touch pages while one maps what is there (anonymous memory only).
    Pipeline,
    /// All threads map.
    Parallel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlacementName {
    /// On the node of the calling thread, as if it did everything alone.
    Local,
    /// On every node that the cpuset allows, in turn.
    Spread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PageName {
    /// Base pages.
    #[value(name = "4k")]
    Small,
    /// Transparent huge pages.
    #[value(name = "thp")]
    Transparent,
    /// Huge pages of 2 MiB.
    #[value(name = "2m")]
    Huge2M,
    /// Huge pages of 1 GiB.
    #[value(name = "1g")]
    Huge1G,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackingName {
    Anon,
    Memfd,
}

/// A positive number of bytes with an optional binary suffix.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match parse_size::Config::new().with_binary().parse_size(text) {
        Ok(0) => Err("must be more than 0".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!(
            "{error}; write bytes, or a number with K, M, G or T"
        )),
    }
}

/// An address in bytes, with an optional binary suffix, or hexadecimal.
fn address(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|error| error.to_string()),
        None if text == "0" => Ok(0),
        None => size(text),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn iovas_may_be_hexadecimal() {
        assert_eq!(address("0xfee00000"), Ok(0xfee0_0000));
        assert_eq!(address("4G"), Ok(1 << 32));
        assert_eq!(address("0"), Ok(0));
        assert!(address("0x").is_err());
        assert!(address("0x1ffffffffffffffff").is_err());
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1K", 1 << 10),
            ("32M", 32 << 20),
            ("4G", 4 << 30),
            ("1.5G", 3 << 29),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "4Q", "G", "99999999999999999999", "0x10"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
