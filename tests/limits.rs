// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The limits on CPUs bind, and the report says which one; each run in a process of its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use machine::{is_root, json, mount, parapin_under, skip};
use serde_json::Value;

const PIN: [&str; 6] = ["pin", "--target", "populate", "--size", "256M", "--json"];

/// The first CPU that this process may use.
fn first_cpu() -> String {
    let list = machine::status("Cpus_allowed_list:");
    list.split(['-', ',']).next().unwrap().to_owned()
}

/// Threads that the limits allow, of the eight at most that 256 MiB are worth.
fn threads() -> usize {
    parapin::CpuBudget::current().threads().get().min(8)
}

#[test]
fn one_cpu_means_one_thread() {
    let output = json(
        &mut parapin_under(&["taskset", "-c", &first_cpu()], &PIN),
        0,
    );
    assert_eq!(output["threads"], 1, "{output}");
    assert_eq!(output["limited_by"], "affinity");
    assert_eq!(output["helpers_wanted"], 0);
}

#[test]
fn all_cpus_mean_as_many_threads() {
    let output = json(&mut machine::parapin(&PIN), 0);
    assert_eq!(output["threads"], threads(), "{output}");
    assert_eq!(output["per_thread"].as_array().unwrap().len(), threads());
    let nice: Vec<i64> = output["per_thread"]
        .as_array()
        .unwrap()
        .iter()
        .map(|thread| thread["nice"].as_i64().unwrap())
        .collect();
    assert!(nice[1..].iter().all(|&nice| nice == 19), "{nice:?}");
    let own = rustix::process::getpriority_process(None).unwrap();
    assert_eq!(nice[0], i64::from(own), "the caller stays as it is");
}

/// A group with a CPU quota, removed on drop.
struct Group(PathBuf);

impl Group {
    /// In the hierarchy that has the cpu controller.
    fn new(percent: u64) -> Result<Self, String> {
        let name = format!("parapin-test-{}-{percent}", std::process::id());
        if let Some(v1) = mount("cgroup", "cpu") {
            let group = Self::make(&v1, &name)?;
            group.write("cpu.cfs_period_us", "100000")?;
            group.write("cpu.cfs_quota_us", &(percent * 1000).to_string())?;
            return Ok(group);
        }
        let v2 = mount("cgroup2", "").ok_or("no cgroup file system is mounted")?;
        let controllers = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "cpu") {
            return Err("the cpu controller is not handed down".to_owned());
        }
        let group = Self::make(&v2, &name)?;
        group.write("cpu.max", &format!("{} 100000", percent * 1000))?;
        Ok(group)
    }

    fn make(parent: &Path, name: &str) -> Result<Self, String> {
        let path = parent.join(name);
        fs::create_dir(&path).map_err(|error| format!("no group can be made: {error}"))?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, value: &str) -> Result<(), String> {
        fs::write(self.0.join(file), value).map_err(|error| format!("{file}: {error}"))
    }

    /// Runs `parapin` inside.
    fn run(&self) -> Value {
        let script = r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .arg(&self.0)
            .arg(machine::parapin_path())
            .args(PIN);
        json(&mut command, 0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_quota_of_one_and_a_half_and_of_half_a_cpu_mean_one_thread() {
    if !is_root() {
        return skip("only root can make a cgroup");
    }
    if threads() < 2 {
        return skip("one CPU: the quota would not be what binds");
    }
    for percent in [150, 50] {
        let group = match Group::new(percent) {
            Ok(group) => group,
            Err(reason) => return skip(&reason),
        };
        let output = group.run();
        assert_eq!(output["threads"], 1, "{percent} %: {output}");
        assert_eq!(output["limited_by"], "cfs-quota", "{percent} %: {output}");
        let limits = output["limits"].as_array().unwrap();
        let quota = limits
            .iter()
            .find(|limit| limit["name"] == "cfs-quota")
            .unwrap();
        assert!(
            quota["source"].as_str().unwrap().contains("parapin-test-"),
            "{quota}"
        );
    }
}
