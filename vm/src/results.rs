// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The port to the host: a virtio console port, which neither the kernel nor a test writes to.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use parapin_vm::{Job, Line, Summary, Verdict};

/// Where lines go, and how many tests ended how.
#[derive(Debug)]
pub(crate) struct Results {
    port: File,
    summary: Summary,
}

impl Results {
    /// The host names the port; its name arrives some time after the device.
    pub(crate) fn open() -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let path = loop {
            if let Some(path) = find() {
                break path;
            }
            if Instant::now() > deadline {
                bail!("no virtio port is named {}", Job::PORT);
            }
            thread::sleep(Duration::from_millis(10));
        };
        let port = File::options().write(true).open(&path);
        Ok(Self {
            port: port.with_context(|| format!("cannot open {}", path.display()))?,
            summary: Summary::default(),
        })
    }

    pub(crate) fn send(&mut self, line: &Line) {
        // There is nobody else to tell: the host notices that the machine went silent.
        let _ = self.port.write_all(format!("{line}\n").as_bytes());
        if !matches!(line, Line::Output(_)) {
            // Into the console's log, between the kernel's own lines.
            let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
            let seconds = uptime.split(' ').next().unwrap_or("");
            let _ = writeln!(std::io::stderr(), "[{seconds:>9}] init: {line}");
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        self.send(&Line::Note(text));
    }

    /// One line of output, or several.
    pub(crate) fn output(&mut self, text: &str) {
        for line in text.trim_end_matches('\n').split('\n') {
            self.send(&Line::Output(line.to_owned()));
        }
    }

    pub(crate) fn run(&mut self, name: &str, limit: Duration) {
        self.send(&Line::Run {
            seconds: limit.as_secs(),
            name: name.to_owned(),
        });
    }

    pub(crate) fn ended(&mut self, name: &str, verdict: Verdict) {
        self.summary.count(&verdict);
        self.send(&Line::Ended {
            name: name.to_owned(),
            verdict,
        });
    }

    pub(crate) fn finish(&mut self) {
        self.send(&Line::Summary(self.summary));
    }
}

fn find() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == Job::PORT)
    })?;
    let path = PathBuf::from("/dev").join(port.file_name());
    path.exists().then_some(path)
}
