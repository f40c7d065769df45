// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The JSON of `parapin pin --json`: schema 1, numbers in bytes and seconds.

use std::time::Duration;

use parapin::PinReport;
use serde::Serialize;

use super::{
    args::{PinArgs, TargetName},
    limits::{self, Looked},
    pin::{Failure, Success},
};

#[derive(Serialize)]
struct Output<'a> {
    schema: u32,
    #[serde(flatten)]
    report: Option<ReportJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson<'a>>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    target: &'a str,
    strategy: &'a str,
    bytes: u64,
    regions: usize,
    page_size: u64,
    threads: usize,
    fewest_threads: usize,
    helpers_wanted: usize,
    helpers_started: usize,
    limited_by: &'a str,
    limits: Vec<LimitJson>,
    nice: i32,
    priority: &'a str,
    chunk_bytes: MinMax,
    chunks: u64,
    seconds: f64,
    populate_seconds: f64,
    map_seconds: f64,
    gib_per_second: f64,
    verified_pinned_bytes: u64,
    throttled: Option<ThrottledJson>,
    per_thread: Vec<ThreadJson>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct LimitJson {
    name: &'static str,
    value: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u64>,
    decides: bool,
}

#[derive(Serialize)]
struct MinMax {
    min: u64,
    max: u64,
}

#[derive(Serialize)]
struct ThrottledJson {
    periods: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct ThreadJson {
    bytes: u64,
    cpu_seconds: f64,
    nice: i32,
    /// The memory node to whose CPUs it was brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u32>,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    kind: &'a str,
    message: &'a str,
    remedy: Option<&'a str>,
    at: Option<AtJson>,
    chunks_undone: u64,
    left_pinned_bytes: u64,
}

#[derive(Serialize)]
struct AtJson {
    iova: u64,
    bytes: u64,
}

/// One object for a run that pinned.
pub(crate) fn success(success: &Success<'_>) -> String {
    let grown = success.counter.grown(&success.before, &success.pinned);
    render(&Output {
        schema: 1,
        report: Some(report(success.report, grown)),
        target: None,
        error: None,
    })
}

/// One object for a run that failed; with the report of what was done before, where the job had started.
pub(crate) fn failure(args: &PinArgs, failure: &Failure<'_>) -> String {
    let started = failure.error.and_then(|error| error.report());
    render(&Output {
        schema: 1,
        report: started.map(|started| report(started, failure.left_pinned)),
        target: started.is_none().then_some(args.target.name()),
        error: Some(ErrorJson {
            kind: failure.kind,
            message: &failure.message,
            remedy: failure.remedy.as_deref(),
            at: failure.error.and_then(|error| error.at()).map(|at| AtJson {
                iova: at.iova.0,
                bytes: at.size,
            }),
            chunks_undone: failure.error.map_or(0, |error| error.chunks_undone()),
            left_pinned_bytes: failure.left_pinned,
        }),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a speed")]
fn report(report: &PinReport, verified: u64) -> ReportJson<'_> {
    let job = &report.job;
    let seconds = job.time.as_secs_f64();
    let (populate_seconds, map_seconds) = if job.seal_time > Duration::ZERO {
        (job.run_time.as_secs_f64(), job.seal_time.as_secs_f64())
    } else if report.target == TargetName::Populate.name() {
        (seconds, 0.0)
    } else {
        (0.0, seconds)
    };
    ReportJson {
        target: report.target,
        strategy: report.strategy,
        bytes: job.bytes,
        regions: report.regions,
        page_size: report.page_size.bytes(),
        threads: job.threads,
        fewest_threads: job.fewest_threads,
        helpers_wanted: job.helpers_wanted,
        helpers_started: job.helpers_started,
        limited_by: job.limited_by.name(),
        limits: limits::all(report).into_iter().map(limit).collect(),
        nice: report.nice,
        priority: job.priority.name(),
        chunk_bytes: MinMax {
            min: job.chunk_bytes.0,
            max: job.chunk_bytes.1,
        },
        chunks: job.chunks,
        seconds,
        populate_seconds,
        map_seconds,
        gib_per_second: job.bytes as f64 / (1u64 << 30) as f64 / seconds.max(1e-9),
        verified_pinned_bytes: verified,
        throttled: report.throttled.map(|throttled| ThrottledJson {
            periods: throttled.periods,
            seconds: throttled.time.as_secs_f64(),
        }),
        per_thread: job
            .workers
            .iter()
            .map(|worker| ThreadJson {
                bytes: worker.bytes,
                cpu_seconds: worker.cpu_time.as_secs_f64(),
                nice: worker.nice,
                node: worker.node,
            })
            .collect(),
        notes: &report.notes,
    }
}

fn limit(looked: Looked) -> LimitJson {
    LimitJson {
        name: looked.name,
        value: looked.value,
        source: looked.source,
        threads: looked.threads,
        decides: looked.decides,
    }
}

fn render(output: &Output<'_>) -> String {
    // The types above have string keys only and no failing `Serialize`, which is all that could go wrong.
    serde_json::to_string_pretty(output)
        .unwrap_or_else(|error| format!("{{\"schema\":1,\"error\":\"{error}\"}}"))
}
