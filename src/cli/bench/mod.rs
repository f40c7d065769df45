// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `parapin bench`: measures on this host what parapin promises.
//!
//! ```text
//!  BenchArgs ─┬► zero: which engine ──────────► its rows ─┬► Table ──► lines as they are measured
//!             └► compress: which codec, engine ► its rows ─┘    └────► JSON, page
//! ```

mod args;
mod budget;
mod compress;
mod queues;
mod table;
mod threads;
mod zero;

use std::io::{self, Write as _};

pub(crate) use args::BenchArgs;
use args::What;
use parapin::bench::Skipped;

use super::{exit::Exit, signals};

/// Why nothing can be measured.
#[derive(Debug)]
struct Refused {
    exit: Exit,
    message: String,
    remedy: Option<String>,
}

impl Refused {
    fn usage(bench: &str, message: String) -> Self {
        Self {
            exit: Exit::Usage,
            message,
            remedy: Some(format!("see parapin bench {bench} --help")),
        }
    }

    fn failed(message: String) -> Self {
        Self {
            exit: Exit::Failed,
            message,
            remedy: None,
        }
    }
}

impl From<Skipped> for Refused {
    fn from(reason: Skipped) -> Self {
        Self::failed(reason.to_string())
    }
}

/// Measures and tells.
pub(crate) fn run(args: &BenchArgs) -> Exit {
    // Nothing of ours outlives the process: memory goes with it, and the driver drains queues that are closed.
    let result = signals::end_at_once()
        .map_err(|error| Refused::failed(format!("signals cannot be handled: {error}")))
        .and_then(|()| match &args.what {
            What::Zero(args) => zero::run(args),
            What::Compress(args) => compress::run(args),
        });
    let Err(refused) = result else {
        return Exit::Done;
    };
    let mut error = io::stderr().lock();
    let _ = writeln!(error, "parapin: {}", refused.message);
    if let Some(remedy) = refused.remedy {
        let _ = writeln!(error, "  remedy: {remedy}");
    }
    refused.exit
}
