// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine that the numbers belong to, and how busy others kept it meanwhile.

use std::{fmt, fs, time::Instant};

use cgroup::CpuBudget;
use serde::Serialize;

/// What somebody needs to know who compares the numbers with his own.
#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    memory: u64,
    transparent_huge_pages: String,
    /// CPUs that other processes used while the bench ran.
    #[serde(rename = "cpus_used_by_others")]
    others: f64,
    /// CPUs that the hypervisor gave to somebody else.
    #[serde(rename = "cpus_stolen")]
    stolen: f64,
}

impl Machine {
    /// This machine, and how busy it was since `before`.
    #[must_use]
    pub fn this(before: &Usage) -> Self {
        let unknown = || "unknown".to_owned();
        let (others, stolen) = before.since();
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cpus: CpuBudget::current().threads().get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            memory: meminfo("MemTotal").unwrap_or(0),
            transparent_huge_pages: chosen("/sys/kernel/mm/transparent_hugepage/enabled")
                .unwrap_or_else(unknown),
            others,
            stolen,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} CPUs, {:.1} GiB, Linux {}, transparent huge pages: {}; others used {:.2} CPUs, {:.2} were stolen",
            self.cpu,
            self.cpus,
            self.memory as f64 / (1u64 << 30) as f64,
            self.kernel,
            self.transparent_huge_pages,
            self.others,
            self.stolen,
        )
    }
}

fn meminfo(key: &str) -> Option<u64> {
    let value = field("/proc/meminfo", key)?;
    let kib: u64 = value.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The value of the first line `key : value`.
fn field(path: &str, key: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The word in brackets.
fn chosen(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// CPU time of the machine and of this process with its children, in ticks of `/proc`.
#[derive(Debug)]
pub struct Usage {
    at: Instant,
    busy: u64,
    stolen: u64,
    own: u64,
}

impl Usage {
    /// The clock of `/proc/stat`: fixed for all programs (proc(5), `USER_HZ`).
    const TICKS_A_SECOND: f64 = 100.0;

    /// Until now.
    #[must_use]
    pub fn now() -> Self {
        let all = numbers("/proc/stat", |text| {
            text.lines().next()?.strip_prefix("cpu ")
        });
        // Behind the name of the program, which may hold anything, the third letter is followed by field 4.
        let own = numbers("/proc/self/stat", |text| text.rsplit_once(") ")?.1.get(2..));
        let sum = |numbers: &[u64]| numbers.iter().sum();
        Self {
            at: Instant::now(),
            // user, nice, system; idle and iowait; irq, softirq; steal (proc(5)).
            busy: all.get(..3).map_or(0, sum) + all.get(5..7).map_or(0, sum),
            stolen: all.get(7).copied().unwrap_or(0),
            // utime, stime, and those of children that were waited for: fields 14 to 17.
            own: own.get(10..14).map_or(0, sum),
        }
    }

    /// CPUs that others used, and that were stolen, since then.
    fn since(&self) -> (f64, f64) {
        let now = Self::now();
        let ticks = now.at.duration_since(self.at).as_secs_f64().max(1e-3) * Self::TICKS_A_SECOND;
        let others = (now.busy - self.busy).saturating_sub(now.own - self.own);
        (
            others as f64 / ticks,
            now.stolen.saturating_sub(self.stolen) as f64 / ticks,
        )
    }
}

fn numbers(path: &str, part: fn(&str) -> Option<&str>) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    part(&text)
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0))
        .collect()
}
