// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Huge pages, which make pinning cheaper: those of pools, and transparent ones.

use cgroup::{Demand, HugeDemand, Limit, LockRule, MemoryBudget};

use super::{
    host::{Host, Unreadable, size},
    row::Row,
};

const POOLS: &str = "/sys/kernel/mm/hugepages";
const THP: &str = "/sys/kernel/mm/transparent_hugepage";

const THP_NEEDED: &str =
    "always or madvise: pages of 2 MiB are pinned about twice as fast as those of 4 KiB";

pub(super) fn rows(host: &Host<'_>, budget: &MemoryBudget, bytes: Option<u64>) -> Vec<Row> {
    let mut rows = pools(host, budget, bytes);
    rows.push(transparent(host));
    rows
}

fn pools(host: &Host<'_>, budget: &MemoryBudget, bytes: Option<u64>) -> Vec<Row> {
    let needed = "only for a guest that is backed by hugetlbfs";
    let names = match host.list(POOLS) {
        Ok(names) => names.unwrap_or_default(),
        Err(why) => return vec![Row::unreadable("hugetlb", &why, needed)],
    };
    let mut sizes: Vec<u64> = names.iter().filter_map(|name| page_size(name)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.is_empty() {
        return vec![Row::absent("hugetlb", "no pools of huge pages", needed)];
    }
    sizes
        .into_iter()
        .map(|page| pool(budget, page, bytes))
        .collect()
}

/// Bytes of a page, from the name of its pool.
fn page_size(name: &str) -> Option<u64> {
    let kilobytes = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    let number: u64 = kilobytes.parse().ok()?;
    (number != 0 && number.to_string() == kilobytes)
        .then(|| number.checked_mul(1024))
        .flatten()
}

/// `2m` for 2 MiB; no two sizes have one name.
fn short(page: u64) -> String {
    let units = [(1 << 30, "g"), (1 << 20, "m")];
    match units.iter().find(|(unit, _)| page % unit == 0) {
        Some((unit, name)) => format!("{}{name}", page / unit),
        None => format!("{}k", page >> 10),
    }
}

fn pool(budget: &MemoryBudget, page: u64, bytes: Option<u64>) -> Row {
    let id = format!("hugetlb-{}", short(page));
    let directory = format!("{POOLS}/hugepages-{}kB", page / 1024);
    let asked = bytes.unwrap_or(page);
    let needed = format!(
        "{} pages free, only for a guest of {} on hugetlbfs",
        asked.div_ceil(page),
        size(asked)
    );
    let of_pool = |limit: &&Limit| limit.source.starts_with(&directory);
    let Some(limit) = budget.limits().iter().find(of_pool) else {
        let problem = budget
            .problems()
            .iter()
            .find(|problem| problem.path().starts_with(&directory));
        return match problem {
            Some(problem) => Row::unreadable(&id, &Unreadable::from(problem), needed),
            None => Row::absent(&id, "not told", needed),
        };
    };
    let demand = Demand {
        locked: 0,
        rule: LockRule::Exempt,
        fresh: 0,
        huge: vec![HugeDemand {
            page_size: page,
            bytes: asked,
        }],
    };
    let short = budget.check(&demand).err();
    match short.as_deref().and_then(<[_]>::first) {
        None => Row::ok(&id, &limit.value, needed),
        // A pool that nobody has filled is not wanted by anybody.
        Some(shortage) if shortage.value == 0 => {
            Row::optional(&id, "an empty pool", needed, &shortage.remedy)
        }
        Some(shortage) => Row::warn(&id, &limit.value, needed, &shortage.remedy),
    }
}

fn transparent(host: &Host<'_>) -> Row {
    let id = "thp";
    let path = format!("{THP}/enabled");
    let line = match host.line(&path) {
        Ok(Some(line)) => line,
        Ok(None) => return Row::absent(id, "not in this kernel", THP_NEEDED),
        Err(why) => return Row::unreadable(id, &why, THP_NEEDED),
    };
    let Some(enabled) = chosen(&line) else {
        return Row::unreadable(id, &Unreadable::garbled(&path, &line), THP_NEEDED);
    };
    if is_forbidden(host) {
        return Row::warn(
            id,
            "forbidden to this process (PR_SET_THP_DISABLE)",
            THP_NEEDED,
            "start it without that: systemd, container runtimes and `prctl` can set it",
        );
    }
    let shmem = host.line(&format!("{THP}/shmem_enabled"));
    let shmem = match shmem.as_ref().map(|line| line.as_deref().and_then(chosen)) {
        Ok(Some(shmem)) => format!(", {shmem} for shared memory"),
        _ => String::new(),
    };
    match enabled {
        "always" | "madvise" => Row::ok(id, format!("{enabled}{shmem}"), THP_NEEDED),
        _ => Row::warn(
            id,
            format!("{enabled}{shmem}"),
            THP_NEEDED,
            format!("`echo madvise > {path}`"),
        ),
    }
}

/// The word in brackets.
fn chosen(line: &str) -> Option<&str> {
    let word = line.split_once('[')?.1.split_once(']')?.0;
    let plain = |byte: u8| byte.is_ascii_lowercase() || b"_+".contains(&byte);
    (!word.is_empty() && word.bytes().all(plain)).then_some(word)
}

fn is_forbidden(host: &Host<'_>) -> bool {
    let status = host.text("/proc/self/status").ok().flatten();
    let line = |status: &String| {
        let mut lines = status.lines();
        lines.any(|line| line.strip_prefix("THP_enabled:").map(str::trim) == Some("0"))
    };
    status.as_ref().is_some_and(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_have_names_of_their_own() {
        let cases = [
            ("hugepages-64kB", "64k"),
            ("hugepages-2048kB", "2m"),
            ("hugepages-1048576kB", "1g"),
            ("hugepages-16777216kB", "16g"),
            ("hugepages-1025kB", "1025k"),
        ];
        for (name, expected) in cases {
            assert_eq!(short(page_size(name).unwrap()), expected);
        }
        for name in ["hugepages-0kB", "hugepages-02048kB", "hugepages-+1kB", "x"] {
            assert_eq!(page_size(name), None, "{name}");
        }
    }

    #[test]
    fn the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("[always"), None);
        assert_eq!(chosen("a [] b"), None);
        assert_eq!(chosen("a [\x1b] b"), None);
    }
}
