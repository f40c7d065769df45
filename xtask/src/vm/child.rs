// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A process that does not outlive whoever started it, and does not run for ever.

use std::{
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Ended on drop, and, if it was made by [`tied`], even when this process is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it ends, or fails after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.with_context(|| format!("cannot wait for {}", self.name))? {
                return Ok(status);
            }
            if begin.elapsed() > limit {
                bail!("{} was killed after {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that the kernel asks to end when the thread ends that starts it. A `make` then ends all that it started.
pub(crate) fn tied(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_longer_than_its_limit() {
        let begin = Instant::now();
        let mut running = Running::start(Command::new("sleep").arg("600")).unwrap();
        let error = running
            .wait(Duration::from_millis(50))
            .expect_err("it sleeps");
        drop(running);
        assert_eq!(error.to_string(), "sleep was killed after 0 s");
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_exit_status_comes_back() {
        let mut running = Running::start(&mut Command::new("false")).unwrap();
        assert_eq!(
            running.wait(Duration::from_secs(60)).unwrap().code(),
            Some(1)
        );
    }
}
