// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Devices`]: real queues, or a model of them that answers by the clock.

use std::sync::Arc;

use idxd::{
    CompletionEngine, Limits, Queue,
    model::{Device, Model, Rate},
};
use migration::{DsaOptions, ZeroScanner};
use parapin::bench::Skipped;

use super::memory::{Memory, PAGE};

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
