// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Queues of real devices, open: those that were named, or all that this process may use.

use std::sync::Arc;

use idxd::{AccelPaths, Discovery, Kind, Queue, Roots};
use parapin::bench::Skipped;

use super::Refused;

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

/// The queues that were named, open; or all that this process may use, and why others were left out.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) left_out: Vec<String>,
}

/// Opens those of that kind.
///
/// # Errors
///
/// If one that was named cannot be used. If none was named, and none can be used, there are none.
pub(super) fn find(kind: Kind, named: Option<&AccelPaths>) -> Result<Found, Refused> {
    let told = |error: &dyn std::error::Error| Refused::failed(Skipped::because(error).to_string());
    let mut found = Found {
        queues: Vec::new(),
        left_out: Vec::new(),
    };
    if let Some(named) = named {
        let queues = named
            .resolve(&Roots::live())
            .map_err(|error| told(&error))?;
        for queue in queues.iter().filter(|queue| queue.kind() == kind) {
            found
                .queues
                .push(Queue::open(queue).map_err(|error| told(&error))?);
        }
        if found.queues.is_empty() {
            found
                .left_out
                .push(format!("{named}: none of them is of {}", called(kind)));
        }
        return Ok(found);
    }
    let discovery = Discovery::read(&Roots::live()).map_err(|error| told(&error))?;
    if discovery.devices(kind).next().is_none() {
        let (_, name) = called(kind).split_once(' ').unwrap_or_default();
        found.left_out.push(format!(
            "no {name} is bound to the idxd driver, or the driver is not loaded"
        ));
    }
    for left_out in discovery.left_out(kind) {
        let remedy = left_out.remedy();
        found
            .left_out
            .push(format!("{left_out}; to change that: {remedy}"));
    }
    for queue in discovery.usable(kind) {
        match Queue::open(queue) {
            Ok(queue) => found.queues.push(queue),
            Err(error) => found.left_out.push(Skipped::because(&error).to_string()),
        }
    }
    Ok(found)
}

/// A device of that kind, in words.
pub(super) fn called(kind: Kind) -> &'static str {
    match kind {
        Kind::Dsa => "a DSA",
        Kind::Iax => "an IAA",
    }
}

/// There is none.
pub(super) fn none(kind: Kind, left_out: &[String]) -> Refused {
    let mut message = format!(
        "there is no work queue of {} that this process may use",
        called(kind)
    );
    for why in left_out {
        message += &format!("\n  {why}");
    }
    let mut refused = Refused::failed(message);
    refused.remedy = Some(
        "docs/accelerators.md sets one up; --engine model needs none, nor does --engine software"
            .to_owned(),
    );
    refused
}
