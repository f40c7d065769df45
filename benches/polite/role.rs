// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The processes of the bench: it starts itself again, and says in a hidden argument what the new process is there for.
//!
//! ```text
//!  polite ──► polite --as '{"Neighbour":…}'    standard output: its counter ─┐
//!         └─► polite --as '{"Job":…}'          standard input: ◄─────────────┘
//!                                              standard output: Ok(Sample) or Err(why not), as JSON
//! ```

#![expect(clippy::print_stdout, reason = "a job tells its result")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use parapin::bench::Skipped;
use rustix::process::setsid;
use serde::{Deserialize, Serialize};

use crate::{
    job::{Job, Sample},
    neighbour::Neighbour,
};

/// In front of the role.
const WORD: &str = "--as";

/// What a process is there for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    Neighbour(Neighbour),
    Job(Job),
}

/// Where a process puts itself before it begins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The directory of a control group; that of its parent otherwise.
    pub(crate) group: Option<PathBuf>,
    /// Whether it makes a session of its own.
    pub(crate) session: bool,
}

/// What a job process answers.
pub(crate) type Answer = Result<Sample, String>;

impl Role {
    /// The role of this process; none for the bench itself.
    pub(crate) fn of_this_process() -> Option<Result<Self, Skipped>> {
        let words: Vec<String> = env::args().skip(1).collect();
        match &words[..] {
            [word, role] if word == WORD => Some(serde_json::from_str(role).map_err(Skipped::from)),
            _ => None,
        }
    }

    /// `program` in this role, behind a program that starts others, if there is one.
    pub(crate) fn command(&self, program: &Path, wrapper: &[&str]) -> Result<Command, Skipped> {
        let mut command = match wrapper {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg(WORD).arg(serde_json::to_string(self)?);
        Ok(command)
    }

    /// Does what it is there for.
    pub(crate) fn play(self) -> Result<(), Skipped> {
        match self {
            Self::Neighbour(neighbour) => {
                neighbour.place.enter()?;
                Ok(neighbour.count()?)
            }
            Self::Job(job) => {
                let entered = job.place.enter().map_err(Skipped::from);
                let answer: Answer = entered
                    .and_then(|()| job.run())
                    .map_err(|reason| reason.to_string());
                println!("{}", serde_json::to_string(&answer)?);
                Ok(())
            }
        }
    }
}

impl Place {
    fn enter(&self) -> io::Result<()> {
        if let Some(group) = &self.group {
            // 0 is whoever writes.
            fs::write(group.join("cgroup.procs"), "0")?;
        }
        if self.session {
            setsid()?;
        }
        Ok(())
    }
}
