// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was typed, resolved against this machine: sizes, regions and the memory behind them.

use std::{fmt, sync::Arc};

use parapin::{
    Iova, Mapping, MappingError, MemoryBudget, PageSize, Pages, PinErrorKind, Region, Regions,
};

use super::{
    args::{BackingName, PageName, PinArgs},
    exit::Exit,
    human,
};

/// The default size where memory is plenty.
const DEFAULT_SIZE: u64 = 4 << 30;

/// More regions than any guest has, and fewer than a process may have mappings (vm.max_map_count).
const MAX_REGIONS: u64 = 1 << 14;

/// Memory that is mapped and not yet touched.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) regions: Regions,
    pub(crate) size: u64,
}

/// Why the arguments cannot be met.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) exit: Exit,
    pub(crate) kind: PinErrorKind,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
}

impl Refused {
    fn usage(kind: PinErrorKind, message: impl fmt::Display) -> Self {
        Self {
            exit: Exit::Usage,
            kind,
            message: message.to_string(),
            remedy: Some("see parapin pin --help".to_owned()),
        }
    }
}

impl Resolved {
    /// Maps what `args` ask for.
    pub(crate) fn new(args: &PinArgs) -> Result<Self, Refused> {
        let page = page_size(args.page_size);
        if args.min_chunk > args.max_chunk {
            return Err(Refused::usage(
                PinErrorKind::Other,
                format!(
                    "--min-chunk {} is more than --max-chunk {}",
                    human(args.min_chunk),
                    human(args.max_chunk)
                ),
            ));
        }
        let size = args.size.unwrap_or_else(|| default_size(page));
        let regions = args.regions.get() as u64;
        if size == 0 || size % page.bytes() != 0 {
            return Err(Refused::usage(
                PinErrorKind::Misaligned,
                format!(
                    "{size:#x} bytes ({}) are not a multiple of pages of {page}",
                    human(size)
                ),
            ));
        }
        if regions > MAX_REGIONS {
            return Err(Refused::usage(
                PinErrorKind::Other,
                format!("--regions {regions} is more than {MAX_REGIONS}"),
            ));
        }
        let number = size / page.bytes();
        if number < regions {
            return Err(Refused::usage(
                PinErrorKind::Misaligned,
                format!(
                    "{} are {number} pages of {page}: too few for {regions} regions",
                    human(size)
                ),
            ));
        }
        let (share, rest) = (number / regions, number % regions);
        let mut made = Vec::new();
        let mut iova = args.iova.unwrap_or_else(|| match args.target.is_vfio() {
            // Above the window that x86 keeps for interrupts.
            true => 4 << 30,
            false => 0,
        });
        for index in 0..regions {
            let bytes = (share + u64::from(index < rest)) * page.bytes();
            made.push(region(args, bytes, Iova(iova))?);
            iova = iova.wrapping_add(bytes);
        }
        let regions =
            Regions::new(made).map_err(|error| Refused::usage(PinErrorKind::Overlap, error))?;
        Ok(Self { regions, size })
    }
}

fn page_size(name: PageName) -> PageSize {
    match name {
        PageName::Small => PageSize::base(),
        PageName::Transparent | PageName::Huge2M => PageSize::SIZE_2M,
        PageName::Huge1G => PageSize::SIZE_1G,
    }
}

/// The smaller of 4 GiB and a quarter of what is available, in whole pages and at least one.
pub(crate) fn default_size(page: PageSize) -> u64 {
    let quarter = MemoryBudget::current()
        .available()
        .map_or(DEFAULT_SIZE, |available| available / 4);
    let size = DEFAULT_SIZE.min(quarter);
    (size / page.bytes()).max(1) * page.bytes()
}

fn region(args: &PinArgs, bytes: u64, iova: Iova) -> Result<Region, Refused> {
    let pages = match args.page_size {
        PageName::Small => Pages::Small,
        PageName::Transparent => Pages::Transparent,
        PageName::Huge2M | PageName::Huge1G => Pages::Hugetlb(page_size(args.page_size)),
    };
    let mapping = match args.backing {
        BackingName::Anon => Mapping::anonymous(bytes, pages),
        BackingName::Memfd => Mapping::memfd(bytes, pages),
    };
    let mapping = Arc::new(mapping.map_err(refused)?);
    Region::of_mapping(mapping, iova).map_err(|error| Refused {
        exit: Exit::Failed,
        kind: PinErrorKind::Misaligned,
        message: error.to_string(),
        remedy: Some(
            "choose --iova as a multiple of the page, with room for the size behind it".to_owned(),
        ),
    })
}

fn refused(error: MappingError) -> Refused {
    let (kind, remedy) = match &error {
        MappingError::Size { .. } => (PinErrorKind::Misaligned, None),
        MappingError::Hugetlb { size, page, .. } => (
            PinErrorKind::Hugetlb,
            Some(format!(
                "echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages (more than that if others use the pool)",
                size / page.bytes(),
                page.bytes() >> 10
            )),
        ),
        _ => (
            PinErrorKind::OutOfMemory,
            Some("ask for less, or see vm.overcommit_memory and ulimit -v".to_owned()),
        ),
    };
    let cause =
        std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    Refused {
        exit: Exit::Failed,
        kind,
        message: format!("{error}{cause}"),
        remedy,
    }
}
