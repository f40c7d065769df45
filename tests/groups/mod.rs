// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Control groups of the machine of `cargo xtask vm`, of either version by the same names, and `parapin` inside them.
//!
//! ```text
//!                  v2: one directory                v1: one directory in each hierarchy
//!  memory          memory.current                   memory/…/memory.usage_in_bytes
//!  huge pages      hugetlb.2MB.current              hugetlb/…/hugetlb.2MB.usage_in_bytes
//!  CPU time        cpu.stat, usage_usec             cpu,cpuacct/…/cpuacct.usage, in ns
//!  quota           cpu.max                          cpu,cpuacct/…/cpu.cfs_quota_us
//! ```
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::machine::{field, parapin_path};

const ROOT: &str = "/sys/fs/cgroup";
/// Hierarchies of version 1, in the order in which they are entered: what runs before the last one is not its CPU time.
const HIERARCHIES: [&str; 4] = ["memory", "hugetlb", "cpuset", "cpu,cpuacct"];
const CONTROLLERS: &str = "+cpu +cpuset +memory +hugetlb";
/// The period of quotas, in µs.
const PERIOD: u64 = 100_000;

/// Which of the two interfaces a boot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// A control group, in every hierarchy that there is; removed on drop, which asserts that nobody is left in it.
#[derive(Debug)]
pub(crate) struct Group {
    version: Version,
    name: String,
}

impl Group {
    /// A group below the root, with all controllers.
    pub(crate) fn new(version: Version, name: &str) -> Self {
        Self::make(version, format!("parapin-{name}"))
    }

    /// A group inside this one, with all controllers.
    pub(crate) fn below(&self, name: &str) -> Self {
        if self.version == Version::V2 {
            self.write("", "cgroup.subtree_control", CONTROLLERS);
        }
        Self::make(self.version, format!("{}/{name}", self.name))
    }

    /// A group inside this one that has no controller of its own, as only version 2 knows it.
    pub(crate) fn below_without_controllers(&self, name: &str) -> Self {
        assert_eq!(self.version, Version::V2);
        Self::make(self.version, format!("{}/{name}", self.name))
    }

    /// A group for single threads of a process in this one.
    pub(crate) fn below_for_threads(&self, name: &str) -> Self {
        let group = match self.version {
            Version::V1 => self.below(name),
            Version::V2 => self.below_without_controllers(name),
        };
        if self.version == Version::V2 {
            // Memory and hugetlb belong to processes: of what we use, threads have `cpu` and `cpuset` of their own.
            group.write("", "cgroup.type", "threaded");
            self.write("", "cgroup.subtree_control", "+cpu");
        }
        group
    }

    fn make(version: Version, name: String) -> Self {
        let group = Self { version, name };
        for directory in group.directories() {
            fs::create_dir(&directory)
                .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        }
        if version == Version::V1 {
            // A new group has neither, and nobody can enter it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = group.path("cpuset", &format!("../{file}"));
                group.write("cpuset", file, fs::read_to_string(above).unwrap().trim());
            }
        }
        group
    }

    fn directories(&self) -> Vec<PathBuf> {
        directories(self.version, &self.name)
    }

    /// A file of the group; version 1 needs to know in which hierarchy.
    pub(crate) fn path(&self, controller: &str, file: &str) -> PathBuf {
        let root = match self.version {
            Version::V1 => Path::new(ROOT).join(controller),
            Version::V2 => ROOT.into(),
        };
        root.join(&self.name).join(file)
    }

    fn write(&self, controller: &str, file: &str, value: &str) {
        write(&self.path(controller, file), value);
    }

    /// A number that stands alone in a file whose name depends on the version.
    fn number(&self, controller: &str, v1: &str, v2: &str) -> u64 {
        let file = match self.version {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        number(&self.path(controller, file))
    }

    /// Bytes that are charged to the group, without huge pages of pools.
    pub(crate) fn memory(&self) -> u64 {
        self.number("memory", "memory.usage_in_bytes", "memory.current")
    }

    /// The part of them that the kernel has for itself, as only version 1 counts it by itself.
    pub(crate) fn kernel_memory(&self) -> u64 {
        number(&self.path("memory", "memory.kmem.usage_in_bytes"))
    }

    /// Bytes in huge pages of 2 MiB that are charged to the group.
    pub(crate) fn huge(&self) -> u64 {
        self.number(
            "hugetlb",
            "hugetlb.2MB.usage_in_bytes",
            "hugetlb.2MB.current",
        )
    }

    /// Bytes that are charged to all other groups beside this one.
    pub(crate) fn memory_beside(&self) -> u64 {
        let (beside, file) = match self.version {
            Version::V1 => (self.path("memory", ".."), "memory.usage_in_bytes"),
            Version::V2 => (self.path("", ".."), "memory.current"),
        };
        let own = Path::new(&self.name).file_name().unwrap();
        let entries = fs::read_dir(beside).unwrap().map(Result::unwrap);
        let others =
            entries.filter(|entry| entry.file_type().unwrap().is_dir() && entry.file_name() != own);
        others.map(|other| number(&other.path().join(file))).sum()
    }

    /// CPU time that is charged to the group and those inside it.
    pub(crate) fn cpu_time(&self) -> Duration {
        match self.version {
            Version::V1 => Duration::from_nanos(number(&self.path("cpu,cpuacct", "cpuacct.usage"))),
            Version::V2 => Duration::from_micros(self.cpu_stat("usage_usec ")),
        }
    }

    /// The same for each CPU, as only version 1 tells it.
    pub(crate) fn cpu_time_by_cpu(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.path("cpu,cpuacct", "cpuacct.usage_percpu")).unwrap();
        let numbers = text.split_whitespace();
        numbers.map(|number| number.parse().unwrap()).collect()
    }

    /// Periods in which the group's own quota ran out.
    pub(crate) fn throttled_periods(&self) -> u64 {
        self.cpu_stat("nr_throttled ")
    }

    fn cpu_stat(&self, key: &str) -> u64 {
        let path = self.path("cpu,cpuacct", "cpu.stat");
        let text = fs::read_to_string(&path).unwrap();
        let number = field(&text, key).unwrap_or_else(|| panic!("{}: {text}", path.display()));
        number.parse().unwrap()
    }

    /// How much CPU time the group may use, in percent of one CPU.
    pub(crate) fn set_quota(&self, percent: u64) {
        let quota = percent * PERIOD / 100;
        match self.version {
            Version::V1 => {
                self.write("cpu,cpuacct", "cpu.cfs_period_us", &PERIOD.to_string());
                self.write("cpu,cpuacct", "cpu.cfs_quota_us", &quota.to_string());
            }
            Version::V2 => self.write("", "cpu.max", &format!("{quota} {PERIOD}")),
        }
    }

    /// The file that [`set_quota`](Self::set_quota) writes the quota to.
    pub(crate) fn quota_file(&self) -> PathBuf {
        match self.version {
            Version::V1 => self.path("cpu,cpuacct", "cpu.cfs_quota_us"),
            Version::V2 => self.path("", "cpu.max"),
        }
    }

    pub(crate) fn set_cpus(&self, list: &str) {
        self.write("cpuset", "cpuset.cpus", list);
    }

    pub(crate) fn set_nodes(&self, list: &str) {
        self.write("cpuset", "cpuset.mems", list);
    }

    /// `parapin` with arguments, inside the group.
    pub(crate) fn parapin(&self, arguments: &[&str]) -> Command {
        // `exec` keeps the process, and so the group.
        let script = r#"while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 99; shift; done
            shift; exec "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .args(self.directories())
            .arg("--")
            .arg(parapin_path())
            .args(arguments);
        command
    }

    /// Moves this process here; it goes back to the root when the guard is dropped.
    pub(crate) fn enter(&self) -> Visit {
        enter(&self.directories(), "cgroup.procs");
        Visit(directories(self.version, ""))
    }

    /// Moves the calling thread alone here, for as long as it lives.
    pub(crate) fn enter_thread(&self) {
        let file = match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        };
        enter(&self.directories(), file);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in self.directories() {
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut removed = fs::remove_dir(&directory);
            // A thread leaves its group a moment after it was joined.
            while removed.is_err() && !thread::panicking() && Instant::now() < deadline {
                thread::yield_now();
                removed = fs::remove_dir(&directory);
            }
            // Not a second panic, which would hide the first one.
            assert!(
                removed.is_ok() || thread::panicking(),
                "{}: {removed:?}",
                directory.display()
            );
        }
    }
}

/// This process is in a group.
#[derive(Debug)]
pub(crate) struct Visit(Vec<PathBuf>);

impl Drop for Visit {
    fn drop(&mut self) {
        enter(&self.0, "cgroup.procs");
    }
}

fn directories(version: Version, name: &str) -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    match version {
        Version::V1 => HIERARCHIES
            .map(|hierarchy| root.join(hierarchy).join(name))
            .to_vec(),
        Version::V2 => vec![root.join(name)],
    }
}

fn enter(directories: &[PathBuf], file: &str) {
    for directory in directories {
        // Whoever writes 0 means itself.
        write(&directory.join(file), "0");
    }
}

fn write(path: &Path, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{value} to {}: {error}", path.display()));
}

fn number(path: &Path) -> u64 {
    let text = fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().parse().unwrap()
}

/// A `parapin pin --hold --json` that holds what it pinned.
#[derive(Debug)]
pub(crate) struct Held {
    child: Child,
    pub(crate) report: Value,
}

impl Held {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // It is printed when all is pinned, and the pipe stays open.
        let output = child.stdout.as_mut().unwrap();
        let report = serde_json::Deserializer::from_reader(output)
            .into_iter()
            .next();
        let held = Self {
            child,
            report: report.unwrap().unwrap(),
        };
        assert!(held.report.get("error").is_none(), "{:#}", held.report);
        held
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Has it unpin and end.
    pub(crate) fn end(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
