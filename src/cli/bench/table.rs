// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Table`]: tells what comes out as it comes out, and all of it at the end.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use parapin::bench::{self, Bench, Report, Row, Side};

use super::{Refused, args::CommonArgs};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Table<'a> {
    args: &'a CommonArgs,
    title: &'static str,
    bench: Bench,
    notes: Vec<String>,
}

impl<'a> Table<'a> {
    /// Begins, unless the page could not be written in the end.
    pub(super) fn new(args: &'a CommonArgs, title: &'static str) -> Result<Self, Refused> {
        if let Some(path) = &args.html {
            // What is there stays until there is something better.
            let opened = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map(drop);
            opened.map_err(|error| unwritable(path, &error))?;
        }
        Ok(Self {
            args,
            title,
            bench: args.bench(),
            notes: Vec::new(),
        })
    }

    /// `full` for a full run, `test` for one that only shows that everything works.
    pub(super) fn size<T>(&self, full: T, test: T) -> T {
        self.bench.size(full, test)
    }

    /// Prints the heading: what was chosen, and why, is told before.
    pub(super) fn begin(&self) {
        self.say(&bench::heading(self.title));
    }

    /// Measures, and prints the line. Returns whether the row was selected.
    pub(super) fn measure(
        &mut self,
        row: Row,
        baseline: Option<Side<'_>>,
        value: Side<'_>,
    ) -> bool {
        let line = self
            .bench
            .measure(row, baseline, value)
            .map(|measured| measured.line());
        if let Some(line) = &line {
            self.say(line);
        }
        line.is_some()
    }

    /// Tells something that is no row.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.say(&text);
        self.notes.push(text);
    }

    /// All that came out.
    pub(super) fn report(self) -> Report {
        let mut report = self.bench.finish();
        report.notes = self.notes;
        report
    }

    /// Tells the rest.
    pub(super) fn finish(self) -> Result<(), Refused> {
        let (args, title) = (self.args, self.title);
        let report = self.report();
        say(args.json, &report.machine.to_string());
        if args.json {
            // A reader that went away is not our failure.
            let _ = writeln!(io::stdout().lock(), "{}", report.json());
        }
        if let Some(path) = &args.html {
            let page = report.page(title);
            fs::write(path, page).map_err(|error| unwritable(path, &error))?;
        }
        Ok(())
    }

    fn say(&self, line: &str) {
        say(self.args.json, line);
    }
}

/// Where people read, which is not where a program reads the JSON.
fn say(json: bool, line: &str) {
    if cfg!(test) {
        // It would stand between the lines of the tests.
        return;
    }
    // A reader that went away is not our failure.
    let _ = if json {
        writeln!(io::stderr().lock(), "{line}")
    } else {
        writeln!(io::stdout().lock(), "{line}")
    };
}

fn unwritable(path: &Path, error: &io::Error) -> Refused {
    Refused::failed(format!("{} cannot be written: {error}", path.display()))
}
