// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! May so much memory be taken and pinned?
//!
//! The answers are those of [`MemoryBudget::check`]; here they become rows, one for each limit.

use cgroup::{Demand, Limit, LockRule, MemoryBudget, ReadError, ShellPath, Shortage, ShortageKind};

use super::{
    host::{Unreadable, shown, size},
    row::Row,
};

/// What is asked of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Bytes to be pinned; none if limits are to be shown only.
    pub(super) bytes: Option<u64>,
    pub(super) rule: LockRule,
}

impl Ask {
    fn demand(self) -> Demand {
        let bytes = self.bytes.unwrap_or(0);
        Demand {
            locked: bytes,
            rule: self.rule,
            fresh: bytes.saturating_add(self.overhead()),
            huge: Vec::new(),
        }
    }

    /// What the kernel needs beside the pages: 8 bytes a page in page tables, and up to 16 in those of the IOMMU or
    /// in the list of an io_uring buffer.
    fn overhead(self) -> u64 {
        let pages = self.bytes.unwrap_or(0) / 4096;
        pages.saturating_mul(24)
    }

    fn needed(self, for_what: &str) -> String {
        match self.bytes {
            Some(bytes) => format!("{} {for_what}", size(bytes)),
            None => format!("as much as is pinned {for_what}"),
        }
    }
}

pub(super) fn rows(budget: &MemoryBudget, ask: Ask) -> Vec<Row> {
    let shortages = budget.check(&ask.demand()).err().unwrap_or_default();
    vec![
        locked(budget, ask, &shortages),
        group(budget, ask, &shortages),
        available(budget, ask, &shortages),
    ]
}

fn of(kind: ShortageKind, shortages: &[Shortage]) -> Option<&Shortage> {
    shortages.iter().find(|shortage| shortage.kind == kind)
}

fn problem(budget: &MemoryBudget, is_about: impl Fn(&ReadError) -> bool) -> Option<Unreadable> {
    let problem = budget.problems().iter().find(|problem| is_about(problem));
    problem.map(Unreadable::from)
}

fn file(path: &std::path::Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn locked(budget: &MemoryBudget, ask: Ask, shortages: &[Shortage]) -> Row {
    let id = "memlock";
    let needed = ask.needed(match ask.rule {
        LockRule::User => "to lock, together with all that this user has pinned",
        LockRule::Process | LockRule::Exempt => "to lock in this process",
    });
    let limit = budget.limits().iter().find(|l| l.name == "RLIMIT_MEMLOCK");
    let value = limit.map(|limit| limit.allows.map_or("unlimited".to_owned(), size));
    if budget.lock_exempt() {
        let without = match value {
            Some(value) => format!("no limit for this process (CAP_IPC_LOCK); {value} without it"),
            None => "no limit for this process (CAP_IPC_LOCK)".to_owned(),
        };
        return Row::ok(id, without, needed);
    }
    if let Some(shortage) = of(ShortageKind::Memlock, shortages) {
        let found = format!(
            "only {} (RLIMIT_MEMLOCK), {} of it in use",
            size(shortage.value),
            size(shortage.used)
        );
        return Row::fail(id, found, needed, &shortage.remedy);
    }
    if let Some(value) = value {
        return Row::ok(id, format!("{value} (RLIMIT_MEMLOCK)"), needed);
    }
    let why = problem(budget, |p| file(p.path()) == "limits");
    unknown(id, why, needed)
}

/// The row of a limit that was not found: because its file could not be read, if that is known.
fn unknown(id: &str, why: Option<Unreadable>, needed: String) -> Row {
    match why {
        Some(why) => Row::unreadable(id, &why, needed),
        None => Row::ok(id, "no limit", needed),
    }
}

fn group(budget: &MemoryBudget, ask: Ask, shortages: &[Shortage]) -> Row {
    let id = "memory-cgroup";
    let needed = ask.needed("beside what is in use: the kernel kills who exceeds the limit");
    let limits = |name: &str| -> Vec<&Limit> {
        let all = budget.limits().iter();
        all.filter(|limit| limit.name == name).collect()
    };
    if let Some(shortage) = of(ShortageKind::Memcg, shortages) {
        let found = format!(
            "only {} ({}), {} of it in use",
            size(shortage.value),
            shown(&shortage.source),
            size(shortage.used)
        );
        return Row::fail(id, found, needed, &shortage.remedy);
    }
    if let Some(why) = problem(budget, is_about_group) {
        return Row::unreadable(id, &why, needed);
    }
    let mut hard = limits("memory.max");
    hard.extend(limits("memory.limit_in_bytes"));
    let soft = limits("memory.high");
    let least = |limits: &[&Limit]| limits.iter().filter_map(|l| l.allows).min();
    if let Some(high) = least(&soft).filter(|high| *high < ask.demand().fresh) {
        let source = soft.iter().find(|limit| limit.allows == Some(high));
        let path = source.map_or(String::new(), |limit| ShellPath(&limit.source).to_string());
        return Row::warn(
            id,
            format!("throttled above {} (memory.high)", size(high)),
            needed,
            format!(
                "`echo max > {path}`: pinned memory cannot be given back, so the group stays slow"
            ),
        );
    }
    match least(&hard) {
        None => Row::ok(id, "no limit", needed),
        Some(limit) => Row::ok(id, format!("{} at most", size(limit)), needed),
    }
}

/// Whether a problem is that the limits of memory cgroups could not be read.
///
/// A group that is guessed to be at the mount point, as in most containers, is none.
fn is_about_group(problem: &ReadError) -> bool {
    let membership = ["cgroup", "mountinfo"].contains(&file(problem.path()));
    (membership && problem.fallback().ends_with("is assumed"))
        || file(problem.path()).starts_with("memory.")
}

fn available(budget: &MemoryBudget, ask: Ask, shortages: &[Shortage]) -> Row {
    let id = "memory";
    let needed = ask.needed("that can be had without swapping");
    if let Some(shortage) = of(ShortageKind::OutOfMemory, shortages) {
        let found = format!("only {} (MemAvailable)", size(shortage.value));
        return Row::fail(id, found, needed, &shortage.remedy);
    }
    match budget.available() {
        Some(bytes) => Row::ok(id, format!("{} (MemAvailable)", size(bytes)), needed),
        None => unknown(id, problem(budget, |p| file(p.path()) == "meminfo"), needed),
    }
}
