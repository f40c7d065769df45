// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The progress bar, on standard error and only where that is a terminal.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parapin::Progress;

/// A bar of bytes; hidden where nobody would see it.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(total: u64, quiet: bool) -> Self {
        let target = if quiet || !io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "{bar:40} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(crate) fn show(&self, progress: Progress) {
        self.0.set_position(progress.done);
    }

    /// Prints a line beside the bar, also where the bar is hidden.
    pub(crate) fn warn(&self, line: &str) {
        self.0.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
