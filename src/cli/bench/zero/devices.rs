// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Devices`]: real queues, or a model of them that answers by the clock.

use std::sync::Arc;

use idxd::{
    AccelPaths, CompletionEngine, Discovery, Kind, Limits, Queue, Roots,
    model::{Device, Model, Rate},
};
use migration::{DsaOptions, ZeroScanner};
use parapin::bench::Skipped;

use super::memory::{Memory, PAGE};
use crate::cli::bench::Refused;

/// What takes descriptors.
#[derive(Debug, Clone)]
pub(super) enum Devices {
    Model,
    Queues(Vec<Arc<Queue>>),
}

/// Queues that are open, and who answers if nobody else does.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) queues: Vec<Arc<Queue>>,
    _model: Option<Model>,
}

/// A queue with what decides how it does.
pub(super) fn describe(queue: &Queue) -> String {
    let limits = queue.limits();
    let batches = match limits.max_batch {
        0 | 1 => "no batches".to_owned(),
        members => format!("batches of up to {members}"),
    };
    format!(
        "  {}: {}, {}, {} entries, {batches}",
        queue.name(),
        queue.way(),
        limits.mode,
        limits.size
    )
}

/// Why batches of that size cannot be compared with others; where there are none at all, nothing can, and all are the same.
pub(super) fn takes(queues: &[Arc<Queue>], batch: usize) -> Result<(), Skipped> {
    let is_too_small = |queue: &&Arc<Queue>| {
        let most = queue.limits().max_batch as usize;
        most > 1 && most < batch
    };
    match queues.iter().find(is_too_small) {
        None => Ok(()),
        Some(queue) => Err(Skipped::for_reason(format!(
            "{} takes batches of up to {}",
            queue.name(),
            queue.limits().max_batch
        ))),
    }
}

/// What one row needs for all its rounds.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) scanners: Vec<ZeroScanner>,
    pub(super) _engines: Vec<Arc<CompletionEngine>>,
    pub(super) _open: Open,
}

/// What a queue is set up for when somebody wants to compare batches of all sizes.
const LIMITS: Limits = Limits {
    max_batch: 1024,
    ..Device::LIMITS
};

impl Devices {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Queues(_) => "dsa",
        }
    }

    /// So many devices, which of the model are that fast, in GB/s, and know the answers already.
    pub(super) fn open(&self, count: usize, rate: f64, memory: &Memory) -> Result<Open, Skipped> {
        match self {
            Self::Model => model(&vec![rate; count], memory),
            Self::Queues(queues) if queues.len() < count => Err(Skipped::for_reason(format!(
                "{count} queues are needed, {} can be used",
                queues.len()
            ))),
            Self::Queues(queues) => Ok(Open {
                queues: queues[..count].to_vec(),
                _model: None,
            }),
        }
    }
}

/// Devices of the model, each with its own rate.
pub(super) fn model(rates: &[f64], memory: &Memory) -> Result<Open, Skipped> {
    let start = memory.block.source().address();
    // Told before, so that reading memory does not take the time of a CPU that is to be measured.
    let is_data: Vec<bool> = (0..memory.pages())
        .map(|page| !memory.is_zero(page))
        .collect();
    let is_data = Arc::new(is_data);
    let devices = rates.iter().enumerate().map(|(index, rate)| {
        let is_data = Arc::clone(&is_data);
        let answer = move |address: u64, _| {
            let page = usize::try_from(address.wrapping_sub(start) / PAGE).unwrap_or(usize::MAX);
            is_data.get(page).copied().unwrap_or(true)
        };
        Device::new(format!("model{index}"), LIMITS)
            .rate(Rate::bytes_per_second(rate * 1e9))
            .prepared(Arc::new(answer))
    });
    let model = Model::start(devices.collect())?;
    let queues: Result<_, _> = (0..rates.len()).map(|device| model.open(device)).collect();
    Ok(Open {
        queues: queues?,
        _model: Some(model),
    })
}

/// An engine at work, which stops when it is dropped.
pub(super) fn running_engine() -> Result<Arc<CompletionEngine>, Skipped> {
    let engine = Arc::new(CompletionEngine::new());
    engine.start()?;
    Ok(engine)
}

/// A scanner that asks a device about every page.
pub(super) fn scanner(
    queues: &[Arc<Queue>],
    engine: &Arc<CompletionEngine>,
    options: DsaOptions,
    batch: usize,
) -> Result<ZeroScanner, Skipped> {
    let scanner = ZeroScanner::dsa(queues.to_vec(), Arc::clone(engine), options)?;
    Ok(scanner.batch_pages(batch)?.reading_all().sampling(false))
}

/// The queues that were named, open; or all that this process may use, and why others were left out.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) left_out: Vec<String>,
}

/// Opens them.
///
/// # Errors
///
/// If one that was named cannot be used. If none was named, and none can be used, there are none.
pub(super) fn find(named: Option<&AccelPaths>) -> Result<Found, Refused> {
    let told = |error: &dyn std::error::Error| Refused::failed(Skipped::because(error).to_string());
    let mut found = Found {
        queues: Vec::new(),
        left_out: Vec::new(),
    };
    if let Some(named) = named {
        let queues = named
            .resolve(&Roots::live())
            .map_err(|error| told(&error))?;
        for queue in queues.iter().filter(|queue| queue.kind() == Kind::Dsa) {
            found
                .queues
                .push(Queue::open(queue).map_err(|error| told(&error))?);
        }
        if found.queues.is_empty() {
            found
                .left_out
                .push(format!("{named}: none of them is of a DSA"));
        }
        return Ok(found);
    }
    let discovery = Discovery::read(&Roots::live()).map_err(|error| told(&error))?;
    if discovery.devices(Kind::Dsa).next().is_none() {
        let why = "no DSA is bound to the idxd driver, or the driver is not loaded";
        found.left_out.push(why.to_owned());
    }
    for left_out in discovery.left_out(Kind::Dsa) {
        let remedy = left_out.remedy();
        found
            .left_out
            .push(format!("{left_out}; to change that: {remedy}"));
    }
    for queue in discovery.usable(Kind::Dsa) {
        match Queue::open(queue) {
            Ok(queue) => found.queues.push(queue),
            Err(error) => found.left_out.push(Skipped::because(&error).to_string()),
        }
    }
    Ok(found)
}
