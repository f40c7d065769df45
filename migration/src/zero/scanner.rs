// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`ZeroScanner`]: which engine finds zero pages, for all channels of a migration.
//!
//! ```text
//!  ZeroScanner ── channel(i) ──► ZeroChannel, one for each sending thread
//!                                   │ scan(block, page size, offsets)
//!                                   ├─► never touched: known without looking
//!                                   ├─► software, or DSA with the CPU behind it
//!                                   └─► normal-page ratio ──► bitmap, ZeroReport
//! ```

use std::sync::Arc;

use idxd::{CompletionEngine, Queue};
use thiserror::Error;

use super::{
    DsaOptions, NormalPageRatio, ScanError, SoftwareScanner,
    dsa::{Asked, DsaChannel, Queues},
};
use crate::{PageBitmap, RamBlock, Trouble, node};

/// What finds zero pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroEngine {
    /// The calling thread.
    Software,
    /// Intel DSA.
    Dsa,
}

impl ZeroEngine {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Dsa => "dsa",
        }
    }
}

/// Finds zero pages for all channels of a migration, by the engine that it was made with.
///
/// Cheap to clone. Each sending thread makes a [`ZeroChannel`] of its own.
///
/// # Example
/// ```
/// use std::sync::Arc;
/// use idxd::{CompletionEngine, Source};
/// use migration::{Demand, DsaOptions, PageBitmap, RamBlock, ZeroScanner};
///
/// let mut bytes = vec![0; 3 * 4096];
/// bytes[4096 + 17] = 1;
/// // A guest's memory is a `Source::new`, which is unsafe; `RamBlock::detect` and `with_file` also know untouched pages.
/// let block = RamBlock::new(Source::of_vec(bytes)?);
///
/// let (queues, engine) = (Vec::new(), Arc::new(CompletionEngine::new()));
/// let choice = ZeroScanner::choose(queues, engine, DsaOptions::default(), &Demand::default());
/// assert_eq!(choice.reason, "software: there is no work queue of a DSA that this process may use");
///
/// let mut channel = choice.scanner.channel(0);
/// let mut zero = PageBitmap::default();
/// let report = channel.scan(&block, 4096, &[0, 4096, 8192], &mut zero)?;
/// assert!(zero.ones().eq([0, 2]));
/// assert_eq!(report.zero, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ZeroScanner {
    queues: Option<Arc<Queues>>,
    batch: usize,
    ratio: NormalPageRatio,
    reading_all: bool,
    sampling: bool,
}

/// Pages of a task that a device is given: from 16 to 1024.
pub const BATCH_PAGES: std::ops::RangeInclusive<usize> = 16..=1024;

/// Pages of a task, if nothing is said: 512 KiB of 4 KiB pages.
pub const DEFAULT_BATCH_PAGES: usize = 128;

impl ZeroScanner {
    /// Each thread looks for itself.
    #[must_use]
    pub fn software() -> Self {
        Self {
            queues: None,
            batch: DEFAULT_BATCH_PAGES,
            ratio: NormalPageRatio::default(),
            reading_all: false,
            sampling: true,
        }
    }

    /// DSA looks, through any number of queues, of which those of other kinds are left out.
    ///
    /// If `engine` runs, its thread waits for the devices, and otherwise each channel for its own tasks. It may be started
    /// and stopped meanwhile.
    ///
    /// # Errors
    ///
    /// If there is no queue of a DSA.
    pub fn dsa(
        queues: Vec<Arc<Queue>>,
        engine: Arc<CompletionEngine>,
        options: DsaOptions,
    ) -> Result<Self, NoQueueError> {
        let queues = Queues::new(queues, engine, options);
        if queues.is_empty() {
            return Err(NoQueueError);
        }
        Ok(Self {
            queues: Some(Arc::new(queues)),
            ..Self::software()
        })
    }

    /// Treats a share of zero pages as data.
    #[must_use]
    pub fn normal_page_ratio(mut self, percent: u8) -> Self {
        self.ratio = NormalPageRatio::new(percent);
        self
    }

    /// Pages of a task that a device is given.
    ///
    /// # Errors
    ///
    /// If that is outside of [`BATCH_PAGES`].
    pub fn batch_pages(mut self, pages: usize) -> Result<Self, BatchPagesError> {
        if !BATCH_PAGES.contains(&pages) {
            return Err(BatchPagesError { pages });
        }
        self.batch = pages;
        Ok(self)
    }

    /// Looks at every page, whatever the kernel knows of it.
    #[must_use]
    pub fn reading_all(mut self) -> Self {
        self.reading_all = true;
        self
    }

    /// Whether the CPU looks at one word of a page before it bothers a device: it does unless told otherwise, as long as many
    /// pages have data.
    #[must_use]
    pub fn sampling(mut self, sampling: bool) -> Self {
        self.sampling = sampling;
        self
    }

    /// Which engine it is.
    #[must_use]
    pub fn engine(&self) -> ZeroEngine {
        match self.queues {
            Some(_) => ZeroEngine::Dsa,
            None => ZeroEngine::Software,
        }
    }

    /// Who waits for devices, if there are any.
    #[must_use]
    pub fn completion_engine(&self) -> Option<&Arc<CompletionEngine>> {
        self.queues.as_ref().map(|queues| queues.engine())
    }

    /// What channel number `index` scans with. To be made on the channel's thread, since queues are chosen that are near to
    /// it, and before the process gives up its privileges.
    #[must_use]
    pub fn channel(&self, index: usize) -> ZeroChannel {
        self.channel_on(index, node::of_calling_thread())
    }

    /// What channel number `index` scans with, whose thread runs on that memory node.
    #[must_use]
    pub fn channel_on(&self, index: usize, node: Option<u32>) -> ZeroChannel {
        let software = match self.reading_all {
            true => SoftwareScanner::new().reading_all(),
            false => SoftwareScanner::new(),
        };
        let dsa = self
            .queues
            .as_ref()
            .map(|queues| DsaChannel::new(Arc::clone(queues), index, node, self.sampling));
        ZeroChannel {
            software,
            dsa,
            batch: self.batch,
            ratio: self.ratio,
        }
    }
}

/// Scans for one channel. For one thread at a time.
#[derive(Debug)]
pub struct ZeroChannel {
    software: SoftwareScanner,
    dsa: Option<DsaChannel>,
    batch: usize,
    ratio: NormalPageRatio,
}

/// What a scan found, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZeroReport {
    /// Pages that were asked about.
    pub pages: usize,
    /// Pages that are zero.
    pub zero: usize,
    /// Zero pages that are treated as data, by the normal-page ratio. Not in `zero`.
    pub as_data: usize,
    /// Pages that were never touched, and so not looked at.
    pub untouched: usize,
    /// Pages that showed data in a word that was looked at before a device was asked.
    pub sampled: usize,
    /// Pages that a device looked at.
    pub by_device: usize,
    /// Pages that the CPU looked at, or finished.
    pub by_cpu: usize,
    /// Why the CPU had to, where a device should have.
    pub trouble: Trouble,
}

impl ZeroReport {
    /// Adds what another scan found.
    pub fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.zero += other.zero;
        self.as_data += other.as_data;
        self.untouched += other.untouched;
        self.sampled += other.sampled;
        self.by_device += other.by_device;
        self.by_cpu += other.by_cpu;
        self.trouble.add(other.trouble);
    }
}

impl ZeroChannel {
    /// Whether the CPU looks at a word of each page before a device does, in the next scan.
    #[must_use]
    pub fn is_sampling(&self) -> bool {
        self.dsa.as_ref().is_some_and(DsaChannel::is_sampling)
    }

    /// Makes `zero` one bit for each page of `page_size` bytes that begins at one of `offsets` in `block`, set if the page is
    /// zero.
    ///
    /// Pages may have any size from 64 bytes to 1 GiB, lie anywhere, in any order, and overlap. The answer is right whatever
    /// a device does; for a page that is written to meanwhile, it is that of some moment of the call in every part of it.
    ///
    /// With DSA, ask for many pages at a time: one task (eight batches) is in flight while the last one is read, which takes 2,048
    /// pages of the default batch; a call for a single batch sleeps and wakes up for that alone.
    ///
    /// # Errors
    ///
    /// If there can be no such pages, or one does not lie inside of the block. Nothing was read then.
    pub fn scan(
        &mut self,
        block: &RamBlock,
        page_size: u64,
        offsets: &[u64],
        zero: &mut PageBitmap,
    ) -> Result<ZeroReport, ScanError> {
        let mut report = ZeroReport {
            pages: offsets.len(),
            ..ZeroReport::default()
        };
        if let Some(dsa) = &mut self.dsa {
            let (sampler, untouched) = self
                .software
                .mark_untouched(block, page_size, offsets, zero)?;
            report.untouched = untouched;
            let asked = Asked {
                source: block.source(),
                size: page_size,
                offsets,
                sampler,
                kernel: self.software.kernel(),
                batch: self.batch,
            };
            let done = dsa.scan(&asked, zero);
            report.sampled = done.sampled;
            report.by_device = done.by_device;
            report.by_cpu = done.by_cpu;
            report.trouble = done.trouble;
        } else {
            let scanned = self.software.scan(block, page_size, offsets, zero)?;
            report.untouched = scanned.untouched;
            report.by_cpu = scanned.read;
        }
        report.as_data = self.ratio.apply(zero);
        report.zero = zero.count();
        Ok(report)
    }
}

/// There is no DSA to look for zero pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("none of the queues belongs to a DSA")]
#[non_exhaustive]
pub struct NoQueueError;

/// Batches of that size are not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("batches of {pages} pages: they have 16 to 1024")]
#[non_exhaustive]
pub struct BatchPagesError {
    /// What was asked for.
    pub pages: usize,
}
