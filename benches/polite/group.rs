// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Control groups of the bench's own, of version 1 or 2, below the root of the hierarchy that has the CPU controller.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// A group; removed on drop, by when whoever was in it has to be gone.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

/// Microseconds of a quota's period, the kernel's usual ones.
const PERIOD: u64 = 100_000;

impl Group {
    /// A group of the usual weight that may use so many percent of a CPU, or all that it gets.
    ///
    /// # Errors
    /// Where there is no CPU controller, or no right to make a group.
    pub(crate) fn new(percent: Option<u64>) -> io::Result<Self> {
        let quota = percent.map(|percent| percent * PERIOD / 100);
        if let Some(root) = mount("cgroup", "cpu") {
            let group = Self::below(&root)?;
            if let Some(quota) = quota {
                group.write("cpu.cfs_period_us", &PERIOD.to_string())?;
                group.write("cpu.cfs_quota_us", &quota.to_string())?;
            }
            return Ok(group);
        }
        let root = mount("cgroup2", "")
            .ok_or_else(|| io::Error::other("no cgroup file system is mounted"))?;
        let handed_down = fs::read_to_string(root.join("cgroup.subtree_control"))?;
        if !handed_down.split_whitespace().any(|name| name == "cpu") {
            return Err(io::Error::other("the cpu controller is not handed down"));
        }
        let group = Self::below(&root)?;
        if let Some(quota) = quota {
            group.write("cpu.max", &format!("{quota} {PERIOD}"))?;
        }
        Ok(group)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn below(root: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only uniqueness counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("parapin-bench-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| {
            io::Error::other(format!(
                "no cgroup can be made in {}: {error}",
                root.display()
            ))
        })?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
            .map_err(|error| io::Error::other(format!("{file}: {error}")))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who was killed in it may take a moment to leave.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How a group was throttled since it was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Throttled {
    pub(crate) periods: u64,
    /// Summed over its CPUs.
    pub(crate) seconds: f64,
}

impl Throttled {
    /// What `cpu.stat` of the group says: `throttled_time` in version 1, `throttled_usec` in version 2.
    pub(crate) fn read(group: &Path) -> io::Result<Self> {
        let stat = fs::read_to_string(group.join("cpu.stat"))?;
        let count = |key: &str| -> Option<u64> {
            stat.lines().find_map(|line| {
                let (name, value) = line.split_once(' ')?;
                (name == key).then(|| value.trim().parse().ok())?
            })
        };
        let nanos = || Some(count("throttled_time")? as f64 / 1e9);
        let micros = || Some(count("throttled_usec")? as f64 / 1e6);
        let periods = count("nr_throttled");
        let throttled = periods.zip(nanos().or_else(micros));
        let (periods, seconds) =
            throttled.ok_or_else(|| io::Error::other("cpu.stat does not count throttling"))?;
        Ok(Self { periods, seconds })
    }
}

/// The first mount of a file system of this kind, with an option that matches.
fn mount(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, of_kind, options, ..] = fields[..] else {
            return None;
        };
        let matches =
            of_kind == kind && (option.is_empty() || options.split(',').any(|o| o == option));
        matches.then(|| PathBuf::from(place))
    })
}
