// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many threads may work at once, and what they get beside others.

use cgroup::{CpuBudget, CpuWeight, CpuWeights, ReadError, Root, ShellPath};

use super::{
    host::{Unreadable, count, shown},
    neighbours,
    row::Row,
};

const CPUS_NEEDED: &str = "two or more, to pin in parallel";
const QUOTA_NEEDED: &str = "the time of two CPUs or more, to pin in parallel";
const WEIGHT_NEEDED: &str =
    "the usual weight or more: it decides what a pin gets while others want the CPUs";

pub(super) fn rows(root: &Root, budget: &CpuBudget) -> Vec<Row> {
    let weights = CpuWeights::read(root);
    vec![
        affinity(budget),
        quota(budget),
        weight(&weights),
        neighbours::row(root, &weights),
    ]
}

fn problem(problems: &[ReadError], fallback: &[&str]) -> Option<Unreadable> {
    let is_about = |problem: &&ReadError| {
        fallback
            .iter()
            .any(|word| problem.fallback().contains(word))
    };
    problems.iter().find(is_about).map(Unreadable::from)
}

fn affinity(budget: &CpuBudget) -> Row {
    let id = "cpu-affinity";
    let find = |name: &str| budget.limits().iter().find(|limit| limit.name == name);
    let (Some(limit), online) = (find("affinity"), find("online")) else {
        let why = problem(budget.problems(), &["online", "one thread"]);
        let unread = |why: Unreadable| Row::unreadable(id, &why, CPUS_NEEDED);
        return why.map_or_else(|| Row::absent(id, "not told", CPUS_NEEDED), unread);
    };
    let cpus = limit.allows.unwrap_or(1);
    let machine = online.and_then(|online| online.allows);
    let found = match machine {
        Some(machine) if cpus < machine => {
            format!("{} of {machine} ({})", count(cpus, "CPU"), limit.value)
        }
        _ => format!("{} ({})", count(cpus, "CPU"), limit.value),
    };
    match machine {
        _ if cpus > 1 => Row::ok(id, found, CPUS_NEEDED),
        Some(machine) if machine > 1 => Row::warn(
            id,
            found,
            CPUS_NEEDED,
            "`taskset -pc 0-N PID`, or more CPUs in the cpuset (AllowedCPUs= of the systemd unit)",
        ),
        _ => Row::warn(id, found, CPUS_NEEDED, "give this machine more CPUs"),
    }
}

fn quota(budget: &CpuBudget) -> Row {
    let id = "cpu-quota";
    let quotas = budget.limits().iter().filter(|l| l.name == "cfs-quota");
    let Some(least) = quotas.min_by_key(|limit| limit.allows) else {
        return match problem(budget.problems(), &["quota"]) {
            Some(why) => Row::unreadable(id, &why, QUOTA_NEEDED),
            None => Row::ok(id, "none", QUOTA_NEEDED),
        };
    };
    let cpus = least.allows.unwrap_or(1);
    let found = format!(
        "{}: {} ({})",
        count(cpus, "CPU"),
        least.value,
        shown(&least.source)
    );
    if cpus > 1 {
        return Row::ok(id, found, QUOTA_NEEDED);
    }
    let none = if least.source.ends_with("cpu.max") {
        "max"
    } else {
        "-1"
    };
    let remedy = format!("`echo {none} > {}`", ShellPath(&least.source));
    let unit = "CPUQuota= of the systemd unit, or the CPU limit of the container";
    Row::warn(id, found, QUOTA_NEEDED, format!("{remedy}, {unit}"))
}

fn weight(weights: &CpuWeights) -> Row {
    let id = "cpu-weight";
    let lightest = weights.levels().iter().min_by(|a, b| compare(a, b));
    let Some(level) = lightest else {
        return match problem(weights.problems(), &["weight", "quota"]) {
            Some(why) => Row::unreadable(id, &why, WEIGHT_NEEDED),
            None => Row::absent(id, "no cgroup with a weight", WEIGHT_NEEDED),
        };
    };
    if level.idle {
        let path = level.source.with_file_name("cpu.idle");
        return Row::warn(
            id,
            "idle: runs only where nobody else wants to",
            WEIGHT_NEEDED,
            format!("`echo 0 > {}`", ShellPath(&path)),
        );
    }
    let found = format!("{} (usual: {})", level.weight, level.usual);
    if level.weight < level.usual {
        return Row::warn(
            id,
            format!("{found}, {}", shown(&level.source)),
            WEIGHT_NEEDED,
            format!(
                "`echo {} > {}`, CPUWeight= of the systemd unit, or a higher CPU request of the container",
                level.usual,
                ShellPath(&level.source)
            ),
        );
    }
    Row::ok(id, found, WEIGHT_NEEDED)
}

/// Which of two levels leaves less.
fn compare(one: &CpuWeight, other: &CpuWeight) -> std::cmp::Ordering {
    let share = |level: &CpuWeight| (!level.idle, level.weight.saturating_mul(1024) / level.usual);
    share(one).cmp(&share(other))
}
