// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One boot from its preparation to what is left of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use parapin_vm::{Boot, Job, Mode};

use super::{
    cache,
    child::Running,
    contents, kernel,
    machine::Machine,
    programs::{self, Programs},
    relay::{Relay, read_lines},
    tools,
};
use crate::command::target_directory;

/// How long the machine may take to power itself off.
const POWER_OFF: Duration = Duration::from_secs(30);
/// How long to wait for another run in the same directory.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Where a run leaves its traces.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    kernel: PathBuf,
    cpus: u32,
    _lock: nix::fcntl::Flock<fs::File>,
}

/// What to boot for.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) job: Job,
    /// The commands of a script.
    pub(crate) script: Option<String>,
    /// How long all of it may take.
    pub(crate) whole: Duration,
    /// CPUs for benches.
    pub(crate) cpus: u32,
}

impl Session {
    /// Boots, relays, and prints the summary. Returns whether nothing failed.
    pub(crate) fn run(&self) -> Result<bool> {
        let (files, programs) = self.prepare()?;
        let mut relay = Relay::new(self.job.mode);
        for boot in self.boots(&programs)? {
            relay.power_on();
            if let Some(cause) = self.power_on(&files, boot, &mut relay)? {
                relay.lose(&cause);
            }
        }
        if self.job.mode == Mode::Bench {
            collect(&files.share().join("bench"))?;
        }
        let summary = relay.summary();
        if summary.failed > 0 {
            eprintln!("vm: console: {}", files.console().display());
        }
        ensure!(
            summary.total() > 0,
            "nothing has a name like that: {}",
            self.job.filters.join(" ")
        );
        if self.job.mode != Mode::Script {
            println!("{summary}");
        }
        Ok(summary.failed == 0)
    }

    /// The boots that have anything to do.
    fn boots(&self, programs: &Programs) -> Result<Vec<Boot>> {
        if self.job.mode != Mode::Test {
            return Ok(vec![Boot::Usual]);
        }
        Ok(self.job.boots(&programs::list(&programs.tests)?))
    }

    /// Boots with the console at this terminal, until the shell is left.
    pub(crate) fn at_terminal(&self) -> Result<bool> {
        let (files, _) = self.prepare()?;
        eprintln!(
            "vm: `exit` powers off; Ctrl-A X ends QEMU at once; /out is {}",
            files.share().display()
        );
        let status = files
            .with_machine(Boot::Usual, |machine| machine.at_terminal())
            .status()
            .context("cannot start QEMU")?;
        Ok(status.success())
    }

    fn prepare(&self) -> Result<(Files, Programs)> {
        tools::need_to_run()?;
        let kernel = kernel::image()?;
        let begin = Instant::now();
        let programs = build(&self.job)?;
        let directory = programs::directory();
        let lock = cache::lock(&directory.join("lock"), PATIENCE)?;
        let files = Files {
            directory,
            kernel,
            cpus: self.cpus,
            _lock: lock,
        };
        files.clear()?;
        contents::pack(
            &files.initramfs(),
            &programs,
            &self.job,
            self.script.as_deref(),
        )?;
        eprintln!(
            "vm: programs and initramfs {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        Ok((files, programs))
    }

    /// Returns why there was no summary, if so.
    fn power_on(&self, files: &Files, boot: Boot, relay: &mut Relay) -> Result<Option<String>> {
        let begin = Instant::now();
        let errors = fs::File::create(files.errors()).context("cannot write QEMU's messages")?;
        let mut command = files.with_machine(boot, |machine| machine.command(self.job.mode));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut qemu = Running::start(&mut command)?;
        let output = qemu.child().stdout.take();
        let output = output.context("QEMU has no standard output")?;
        let (sender, lines) = mpsc::channel();
        let lost = thread::scope(|scope| {
            scope.spawn(move || read_lines(output, &sender));
            let lost = relay.listen(&lines, self.whole).err();
            if lost.is_none() {
                let _ = qemu.wait(POWER_OFF);
            }
            // Only when QEMU has ended does the reader.
            drop(qemu);
            lost
        });
        eprintln!("vm: ran for {:.1} s", begin.elapsed().as_secs_f64());
        Ok(lost.map(|lost| {
            let console = kernel::last_lines(&files.console(), 40);
            eprintln!("{console}\n{}", kernel::last_lines(&files.errors(), 10));
            match panic_of(&console) {
                Some(panic) => format!("{lost}: {panic}"),
                None => lost.to_string(),
            }
        }))
    }
}

fn build(job: &Job) -> Result<Programs> {
    match job.mode {
        Mode::Bench => programs::for_benches(),
        // All of them, so that one may start them from the shell.
        Mode::Test | Mode::Script | Mode::Shell => programs::for_tests(&job.filters),
    }
}

/// What the kernel said when it gave up.
fn panic_of(console: &str) -> Option<&str> {
    let at = console.find("Kernel panic")?;
    console[at..].lines().next()
}

/// Puts what benches wrote where those of the host write.
fn collect(from: &Path) -> Result<()> {
    let to = target_directory().join("parapin-bench");
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        fs::copy(entry.path(), &target)
            .with_context(|| format!("cannot write {}", target.display()))?;
        eprintln!("vm: wrote {}", target.display());
    }
    Ok(())
}

impl Files {
    fn share(&self) -> PathBuf {
        self.directory.join("out")
    }

    fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs.cpio")
    }

    fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    fn errors(&self) -> PathBuf {
        self.directory.join("qemu.log")
    }

    /// What an earlier run left must not look like this one's.
    fn clear(&self) -> Result<()> {
        let share = self.share();
        for removed in [fs::remove_dir_all(&share), fs::remove_file(self.console())] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot clear {}", self.directory.display()));
                }
                _ => {}
            }
        }
        fs::create_dir_all(&share).with_context(|| format!("cannot make {}", share.display()))
    }

    fn with_machine<T>(&self, boot: Boot, make: impl FnOnce(&Machine<'_>) -> T) -> T {
        make(&Machine {
            kernel: &self.kernel,
            initramfs: &self.initramfs(),
            share: &self.share(),
            console: &self.console(),
            boot,
            cpus: self.cpus,
        })
    }
}
