// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every limit that was looked at for a pin: its value, where it was read, and which one bound.

use std::num::NonZeroUsize;

use cgroup::Limit as FileLimit;
use parapin::{MemoryBudget, PinReport};

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// Where it was read, or what it follows from.
    pub(crate) source: String,
    /// Threads that it allows, where it is about threads and sets a bound.
    pub(crate) threads: Option<u64>,
    /// Whether it decided the number of threads.
    pub(crate) decides: bool,
}

/// All of them: first those on threads, then those on memory.
pub(crate) fn all(report: &PinReport) -> Vec<Looked> {
    let mut all: Vec<Looked> = report.cpu.limits().iter().map(on_threads).collect();
    all.extend(own(report));
    let memory = MemoryBudget::current();
    let nodes = report.nodes.iter().filter_map(|nodes| nodes.limit());
    all.extend(nodes.chain(memory.limits()).map(on_memory));
    let name = report.job.limited_by.name();
    let same = all.iter_mut().filter(|looked| looked.name == name);
    if let Some(decides) = same.min_by_key(|looked| looked.threads) {
        decides.decides = true;
    }
    all
}

fn on_threads(limit: &FileLimit) -> Looked {
    Looked {
        threads: limit.allows,
        ..on_memory(limit)
    }
}

fn on_memory(limit: &FileLimit) -> Looked {
    Looked {
        name: limit.name,
        value: limit.value.clone(),
        source: limit.source.display().to_string(),
        threads: None,
        decides: false,
    }
}

/// What follows from the job and its target rather than from a file.
fn own(report: &PinReport) -> impl Iterator<Item = Looked> + '_ {
    use pinning::Limit;
    let bounds = report.job.bounds.iter().filter_map(|&(limit, threads)| {
        let source = match limit {
            Limit::MaxThreads => "--threads".to_owned(),
            Limit::Size => format!("{} bytes, --min-chunk", report.job.bytes),
            Limit::Target | Limit::Entries => report.target.to_owned(),
            Limit::Budget(_) | Limit::Jobs | Limit::ThreadsUnavailable => return None,
        };
        let bound = (threads < NonZeroUsize::MAX).then_some(threads.get() as u64);
        Some((limit.name(), bound, source))
    });
    let met = match report.job.limited_by {
        limit @ (Limit::Jobs | Limit::ThreadsUnavailable) => Some((
            limit.name(),
            Some(report.job.threads as u64),
            "this process".to_owned(),
        )),
        _ => None,
    };
    bounds.chain(met).map(|(name, threads, source)| Looked {
        name,
        value: threads.map_or_else(|| "none".to_owned(), |threads| threads.to_string()),
        source,
        threads,
        decides: false,
    })
}
