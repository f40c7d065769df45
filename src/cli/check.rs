// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin check`: looks at the host, and prints a table or JSON.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use cgroup::Root;
use parapin::{
    PageSize,
    check::{Check, CheckRequest, Row, Verdict},
};
use serde::Serialize;

use super::{args::CheckArgs, exit::Exit, human, resolve};

#[derive(Serialize)]
struct Output<'a> {
    schema: u32,
    verdict: &'static str,
    rows: Vec<RowJson<'a>>,
}

#[derive(Serialize)]
struct RowJson<'a> {
    id: &'a str,
    found: &'a str,
    needed: &'a str,
    verdict: &'static str,
    remedy: Option<&'a str>,
}

/// Looks, prints, and fails if a row does.
pub(crate) fn run(args: &CheckArgs) -> Exit {
    let bytes = args
        .size
        .unwrap_or_else(|| resolve::default_size(PageSize::base()));
    let request = CheckRequest {
        device: args.device,
        bytes: Some(bytes),
    };
    let check = Check::run(&request, &Root::live());
    let text = if args.json {
        json(&check)
    } else {
        text(&check, args, bytes)
    };
    // A reader that went away is not our failure.
    let _ = writeln!(io::stdout().lock(), "{text}");
    match check.verdict() {
        Verdict::Fail => Exit::Failed,
        _ => Exit::Done,
    }
}

fn json(check: &Check) -> String {
    let rows = check.rows().iter().map(|row| RowJson {
        id: &row.id,
        found: &row.found,
        needed: &row.needed,
        verdict: row.verdict.name(),
        remedy: row.remedy.as_deref(),
    });
    let output = Output {
        schema: 1,
        verdict: check.verdict().name(),
        rows: rows.collect(),
    };
    // The types above have string keys only and no failing `Serialize`, which is all that could go wrong.
    serde_json::to_string_pretty(&output)
        .unwrap_or_else(|error| format!("{{\"schema\":1,\"error\":\"{error}\"}}"))
}

fn text(check: &Check, args: &CheckArgs, bytes: u64) -> String {
    let mut text = String::new();
    let widest = check.rows().iter().map(|row| row.id.len()).max();
    for row in check.rows() {
        // Writing to a string cannot fail.
        let _ = write_row(&mut text, row, widest.unwrap_or(0));
    }
    text.push('\n');
    text + &summary(check, args, bytes)
}

/// One line, and below it, where something is to be changed, why and how.
fn write_row(text: &mut String, row: &Row, widest: usize) -> std::fmt::Result {
    let verdict = row.verdict.name();
    writeln!(text, "{verdict:<6}  {:<widest$}  {}", row.id, row.found)?;
    let Some(remedy) = &row.remedy else {
        return Ok(());
    };
    if matches!(row.verdict, Verdict::Warn | Verdict::Fail) {
        writeln!(text, "          needed: {}", row.needed)?;
    }
    writeln!(text, "          remedy: {remedy}")
}

fn summary(check: &Check, args: &CheckArgs, bytes: u64) -> String {
    let ids = |verdict| -> Vec<&str> {
        let rows = check.rows().iter().filter(|row| row.verdict == verdict);
        rows.map(|row| row.id.as_str()).collect()
    };
    let bytes = human(bytes);
    let what = match args.device {
        Some(device) => format!("{bytes} can be pinned through VFIO for {device}"),
        None => format!("{bytes} can be pinned through io_uring"),
    };
    let (failed, warned) = (ids(Verdict::Fail), ids(Verdict::Warn));
    let warnings = match warned.is_empty() {
        true => String::new(),
        false => format!("; worth a look: {}", warned.join(", ")),
    };
    if !failed.is_empty() {
        return format!(
            "not ready: before {what}, change: {}{warnings}",
            failed.join(", ")
        );
    }
    match args.device {
        Some(_) => format!("ready: {what}{warnings}"),
        None => format!("ready: {what}{warnings} (for a device: --device ADDRESS)"),
    }
}
