// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Reports for people.

use std::{fmt::Write, time::Duration};

use parapin::{PinReport, Unpinned};
use pinning::Priority;

use super::{
    human,
    limits::{self, Looked},
    pin::{Failure, Success},
};

/// What was pinned, how that was verified, and what bound it.
pub(crate) fn success(success: &Success<'_>) -> String {
    let report = success.report;
    let mut text = format!(
        "{} {} in {} with {} ({}), pages of {}\n",
        if success.pins() {
            "pinned"
        } else {
            "populated"
        },
        human(report.job.bytes),
        count(report.regions as u64, "region"),
        report.target,
        report.strategy,
        report.page_size,
    );
    // Writing to a string cannot fail.
    let _ = verified(&mut text, success);
    let _ = speed(&mut text, report);
    let _ = workers(&mut text, report);
    for note in &report.notes {
        let _ = writeln!(text, "  note       {note}");
    }
    text.truncate(text.trim_end().len());
    text
}

fn verified(text: &mut String, success: &Success<'_>) -> std::fmt::Result {
    if success.pins() {
        let counter = success.counter;
        let (before, after) = (counter.read(&success.before), counter.read(&success.pinned));
        let verdict = if success.exact() {
            "exactly what was asked for"
        } else {
            "NOT what was asked for"
        };
        writeln!(
            text,
            "  verified   {counter:?} {} before, {} after: {verdict}",
            human(before),
            human(after)
        )
    } else {
        let (before, after) = (success.before.resident, success.pinned.resident);
        writeln!(
            text,
            "  resident   VmRSS {} before, {} after",
            human(before),
            human(after)
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn speed(text: &mut String, report: &PinReport) -> std::fmt::Result {
    let seconds = report.job.time.as_secs_f64();
    writeln!(
        text,
        "  time       {seconds:.3} s, {:.2} GiB/s",
        report.job.bytes as f64 / (1u64 << 30) as f64 / seconds.max(1e-9)
    )?;
    if report.job.seal_time > Duration::ZERO {
        writeln!(
            text,
            "  of it      {:.3} s until all was faulted in, {:.3} s mapping on the calling thread",
            report.job.run_time.as_secs_f64(),
            report.job.seal_time.as_secs_f64()
        )?;
    }
    let (smallest, largest) = report.job.chunk_bytes;
    writeln!(
        text,
        "  chunks     {}, {} to {}",
        report.job.chunks,
        human(smallest),
        human(largest)
    )?;
    let missing = report.job.helpers_wanted - report.job.helpers_started;
    let fewer = if missing > 0 {
        format!(
            " ({} wanted)",
            count(report.job.helpers_wanted as u64, "helper")
        )
    } else {
        String::new()
    };
    let at_times = match report.job.fewest_threads {
        fewest if fewest < report.job.threads => format!(", {fewest} at times"),
        _ => String::new(),
    };
    writeln!(
        text,
        "  threads    {}{at_times}{fewer}, limited by {}{}",
        report.job.threads,
        report.job.limited_by.name(),
        source(report)
    )?;
    match report.throttled {
        Some(throttled) if throttled.periods > 0 => writeln!(
            text,
            "  throttled  {} for {:.3} s",
            count(throttled.periods, "period"),
            throttled.time.as_secs_f64()
        ),
        _ => Ok(()),
    }
}

/// Where the deciding limit was read, if it was read somewhere.
fn source(report: &PinReport) -> String {
    limits::all(report)
        .into_iter()
        .find(|looked| looked.decides)
        .map_or_else(String::new, |looked| {
            format!(": {} ({})", looked.value, looked.source)
        })
}

/// Every limit that was looked at, as a table.
pub(crate) fn explain(report: &PinReport) -> String {
    let mut text = String::from("limits that were looked at:\n");
    for looked in limits::all(report) {
        let threads = match (looked.threads, looked.decides) {
            (Some(threads), true) => format!("{} ◄", count(threads, "thread")),
            (Some(threads), false) => count(threads, "thread"),
            (None, _) => String::new(),
        };
        let Looked {
            name,
            value,
            source,
            ..
        } = looked;
        let _ = writeln!(text, "  {name:<20} {threads:<14} {value:<24} {source}");
    }
    let why = match report.job.priority {
        Priority::OneByOne => {
            "helpers are raised to the caller's priority one by one when it has run out of work"
        }
        _ => {
            "helpers stay as nice as they are (no CAP_SYS_NICE, no RLIMIT_NICE, or a system call filter): small chunks \
             bound what a starved one delays"
        }
    };
    let _ = write!(text, "priority: {}: {why}", report.job.priority.name());
    text
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn workers(text: &mut String, report: &PinReport) -> std::fmt::Result {
    for (index, worker) in report.job.workers.iter().enumerate() {
        let name = if index == 0 {
            "caller".to_owned()
        } else {
            format!("parapin-{index}")
        };
        writeln!(
            text,
            "  {name:<10} {:>3.0} %  {:>10}  {:.3} s of CPU time, nice {}",
            100.0 * worker.bytes as f64 / report.job.bytes.max(1) as f64,
            human(worker.bytes),
            worker.cpu_time.as_secs_f64(),
            worker.nice
        )?;
    }
    Ok(())
}

/// After the unpin.
pub(crate) fn unpinned(unpinned: &Unpinned) -> String {
    format!(
        "unpinned {} in {:.3} s with {}",
        human(unpinned.bytes),
        unpinned.seconds,
        count(unpinned.threads as u64, "thread")
    )
}

/// What went wrong, what was done about it, and what the user can do.
pub(crate) fn failure(failure: &Failure<'_>) -> String {
    let mut text = format!("parapin: {}", failure.message);
    if let Some(error) = failure.error {
        if let Some(report) = error.report() {
            let _ = write!(
                text,
                "\n  undone: {} ({} had been done)",
                count(error.chunks_undone(), "completed chunk"),
                human(report.job.bytes)
            );
        }
    }
    if failure.left_pinned > 0 {
        let _ = write!(text, "\n  still pinned: {}", human(failure.left_pinned));
    }
    if let Some(remedy) = &failure.remedy {
        let _ = write!(text, "\n  remedy: {remedy}");
    }
    text
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
