// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory limits of the calling thread's control group and its ancestors.
//!
//! ```text
//!            v2               v1                                 meaning
//! limit      memory.max       memory.limit_in_bytes              more is fatal
//! throttle   memory.high      —                                  more is slow; listed only
//! usage      memory.current   memory.usage_in_bytes              page cache included
//! cache      inactive_file    total_inactive_file                given back under pressure,
//!            + active_file    + total_active_file                so it does not count as used
//! ```

use std::path::{Path, PathBuf};

use crate::{
    error::ReadError,
    hierarchy::{Controller, Group},
    keyed::{count, number},
    limit::Limit,
    mountinfo::Version,
    root::Root,
    shell::ShellPath,
    shortage::{Shortage, ShortageKind, fits},
};

/// Version 1 shows "unlimited" as the largest number of whole pages that fits 63 bits:
/// `0x7FFF_FFFF_FFFF_F000` with pages of 4 KiB, this with 64 KiB.
const UNLIMITED_V1: u64 = 0x7FFF_FFFF_FFFF_0000;

const LEVEL_IGNORED: &str = "the memory limit of this level is ignored";

/// The files of one version.
struct Files {
    max: &'static str,
    high: Option<&'static str>,
    usage: &'static str,
    cache: [&'static str; 2],
}

const V1: Files = Files {
    max: "memory.limit_in_bytes",
    high: None,
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

const V2: Files = Files {
    max: "memory.max",
    high: Some("memory.high"),
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};

/// A level that has a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Name of the limit's file.
    pub(crate) name: &'static str,
    /// Path of the limit's file.
    pub(crate) source: PathBuf,
    pub(crate) max: u64,
    /// Bytes in use that cannot be given back as page cache.
    pub(crate) used: u64,
}

impl Level {
    /// Whether so much fresh memory fits.
    pub(crate) fn check(&self, fresh: u64) -> Option<Shortage> {
        if fits(self.used, fresh, self.max) {
            return None;
        }
        let enough = self.used.saturating_add(fresh);
        let path = ShellPath(&self.source);
        Some(Shortage {
            kind: ShortageKind::Memcg,
            limit: self.name,
            value: self.max,
            used: self.used,
            needed: fresh,
            source: self.source.clone(),
            remedy: format!(
                "`echo {enough} > {path}`, `MemoryMax={enough}` in the systemd unit, or a higher \
                 memory limit for the container"
            ),
        })
    }
}

/// What the visible levels say, own group first.
#[derive(Debug, Default)]
pub(crate) struct Memcg {
    pub(crate) levels: Vec<Level>,
    pub(crate) limits: Vec<Limit>,
}

impl Memcg {
    pub(crate) fn read(root: &Root, problems: &mut Vec<ReadError>) -> Self {
        let mut memcg = Self::default();
        let Some(group) = Group::find(root, Controller::Memory, problems) else {
            return memcg;
        };
        let files = match group.version {
            Version::V1 => V1,
            Version::V2 => V2,
        };
        for directory in &group.levels {
            memcg.add(root, directory, &files, problems);
        }
        memcg
    }

    fn add(&mut self, root: &Root, dir: &Path, files: &Files, problems: &mut Vec<ReadError>) {
        let mut look = |name: &'static str, fallback: &'static str| {
            let source = dir.join(name);
            match bounded(root, &source) {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((bytes, source)),
                // The root group has no limit, nor has a group without the controller.
                Err(error) if error.is_missing() => None,
                Err(error) => {
                    problems.push(error.fall_back(fallback));
                    None
                }
            }
        };
        let max = look(files.max, LEVEL_IGNORED);
        let high = files
            .high
            .and_then(|name| Some((name, look(name, LEVEL_IGNORED)?)));
        if let Some((max, source)) = max {
            self.limits.push(limit(files.max, max, &source));
            self.levels.push(Level {
                name: files.max,
                source,
                max,
                used: used(root, dir, files, problems),
            });
        }
        if let Some((name, (high, source))) = high {
            self.limits.push(limit(name, high, &source));
        }
    }
}

fn limit(name: &'static str, bytes: u64, source: &Path) -> Limit {
    Limit {
        name,
        value: bytes.to_string(),
        allows: Some(bytes),
        source: source.to_owned(),
    }
}

/// A limit in bytes; none if it is unlimited.
fn bounded(root: &Root, path: &Path) -> Result<Option<u64>, ReadError> {
    let text = root.text(path)?;
    parse_limit(&text).map_err(|why| ReadError::garbled(path, &text, why))
}

/// What is in use at a level, without the page cache that can be given back.
fn used(root: &Root, dir: &Path, files: &Files, problems: &mut Vec<ReadError>) -> u64 {
    let path = dir.join(files.usage);
    let usage = root.text(&path).and_then(|text| {
        number(text.trim()).ok_or_else(|| ReadError::garbled(&path, &text, "no size"))
    });
    let usage = usage.unwrap_or_else(|error| {
        problems.push(error.fall_back("this level is taken to be empty"));
        0
    });
    let path = dir.join("memory.stat");
    let cache = root.text(&path).and_then(|text| {
        parse_cache(&text, files.cache).map_err(|why| ReadError::garbled(&path, &text, why))
    });
    let cache = cache.unwrap_or_else(|error| {
        problems.push(error.fall_back("no page cache is taken to be reclaimable"));
        0
    });
    usage.saturating_sub(cache)
}

/// The content of a limit's file, of either version.
pub(crate) fn parse_limit(text: &str) -> Result<Option<u64>, &'static str> {
    match text.trim() {
        // What is written to version 1 for none; sandboxes show it as it was written.
        "max" | "-1" => Ok(None),
        text => match number(text).ok_or("no size")? {
            UNLIMITED_V1.. => Ok(None),
            bytes => Ok(Some(bytes)),
        },
    }
}

/// The sum of two lines of `memory.stat`.
pub(crate) fn parse_cache(stat: &str, keys: [&str; 2]) -> Result<u64, &'static str> {
    let [inactive, active] = keys.map(|key| count(stat, key).ok_or("no size of the page cache"));
    Ok(inactive?.saturating_add(active?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let cases = [
            ("max\n", Ok(None)),
            ("1073741824\n", Ok(Some(1 << 30))),
            ("0", Ok(Some(0))),
            ("-1", Ok(None)),
            ("9223372036854771712\n", Ok(None)),
            ("9223372036854710272\n", Ok(None)),
            ("9223372036854710271\n", Ok(Some(0x7FFF_FFFF_FFFE_FFFF))),
            ("18446744073709551615", Ok(None)),
            ("18446744073709551616", Err("no size")),
            ("-2", Err("no size")),
            ("", Err("no size")),
            ("1 2", Err("no size")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cache() {
        let stat = "anon 5\ninactive_file 10\nactive_file 20\ntotal_active_file 7\n";
        assert_eq!(parse_cache(stat, V2.cache), Ok(30));
        assert_eq!(
            parse_cache(stat, V1.cache),
            Err("no size of the page cache")
        );
        let huge = "inactive_file 18446744073709551615\nactive_file 20\n";
        assert_eq!(parse_cache(huge, V2.cache), Ok(u64::MAX));
    }
}
