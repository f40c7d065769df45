// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every bench, with its output as it comes.

use anyhow::Result;
use parapin_vm::{Job, Verdict, complaints};

use crate::{
    kernel_messages::KernelMessages,
    live,
    program::{all_in, command, name_of},
    results::Results,
};

pub(crate) fn run(job: &Job, results: &mut Results) -> Result<()> {
    let mut kernel = KernelMessages::open()?;
    for program in all_in(Job::BENCHES)? {
        let name = name_of(&program);
        if !job.selects(&name) {
            continue;
        }
        kernel.new_ones();
        let mut command = command(&program);
        command
            .env("PARAPIN_BENCH_DIR", format!("{}/bench", Job::SHARE))
            .arg("--bench")
            .args(&job.arguments);
        let mut verdict = live::run(&name, command, job, results);
        let complaints = complaints(&kernel.new_ones(), &[]);
        if let (Verdict::Pass, Some(first)) = (&verdict, complaints.first()) {
            verdict = Verdict::Fail(format!("the kernel said: {first}"));
        }
        results.ended(&name, verdict);
    }
    results.finish();
    Ok(())
}
