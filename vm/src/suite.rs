// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every test of every program, each in a process of its own, judged by its output and by what the kernel said.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use parapin_vm::{Boot, Ended, Job, Verdict, announcements, complaints, names, verdict};

use crate::{
    kernel_messages::KernelMessages,
    process::{self, Finished},
    program::{all_in, command, name_of},
    results::Results,
};

/// How long a program may take to say which tests it has.
const LISTING: Duration = Duration::from_secs(60);

/// Runs what the job selects of this boot's tests.
pub(crate) fn run(job: &Job, boot: Boot, results: &mut Results) -> Result<()> {
    let mut kernel = KernelMessages::open()?;
    let early = complaints(&kernel.new_ones(), &[]);
    if !early.is_empty() {
        results.ended("boot", Verdict::Fail(early.join("; ")));
    }
    for program in all_in(Job::TESTS)? {
        let name = name_of(&program);
        match list(&program) {
            Ok(tests) => {
                for test in tests {
                    let full = format!("{name}::{test}");
                    if job.selects_in(boot, &full) {
                        run_one(job, (&program, &test, &full), &mut kernel, results);
                    }
                }
            }
            Err(error) => results.ended(&name, Verdict::Fail(format!("{error:#}"))),
        }
    }
    results.finish();
    Ok(())
}

fn list(program: &Path) -> Result<Vec<String>> {
    let mut command = command(program);
    command.args(["--list", "--format", "terse"]);
    let Finished { ended, output } = process::run(command, LISTING, |_| ())?;
    ensure!(
        ended == Ended::Code(0),
        "cannot list its tests: {ended:?}: {output}"
    );
    Ok(names(&output).map(str::to_owned).collect())
}

fn run_one(
    job: &Job,
    (program, test, full): (&Path, &str, &str),
    kernel: &mut KernelMessages,
    results: &mut Results,
) {
    let limit = Duration::from_secs(job.seconds);
    results.run(full, limit);
    // Between two tests nobody is to blame.
    kernel.new_ones();
    let mut command = command(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let finished = match process::run(command, limit, |_| ()) {
        Ok(finished) => finished,
        Err(error) => return results.ended(full, Verdict::Fail(format!("{error:#}"))),
    };
    let Finished { ended, output } = finished;
    let log = kernel.new_ones();
    let mut verdict = verdict(test, ended, &output);
    let unexpected = complaints(&log, &announcements(test, &output));
    if let Some(first) = unexpected.first() {
        let said = format!("the kernel said: {first}");
        verdict = Verdict::Fail(match verdict {
            Verdict::Fail(reason) => format!("{reason}; {said}"),
            Verdict::Pass | Verdict::Skip(_) => said,
        });
    }
    if matches!(verdict, Verdict::Fail(_)) {
        results.output(&format!("--- output of {full}\n{output}"));
        if !log.is_empty() {
            results.output(&format!("--- kernel meanwhile\n{}", log.join("\n")));
        }
    }
    results.ended(full, verdict);
}
