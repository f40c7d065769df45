// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much memory may be locked, and whether that counts for this process at all.
//!
//! # Gotchas
//!
//! The kernel asks for `CAP_IPC_LOCK` in the initial user namespace. Root in a container with a user
//! namespace of its own shows the capability and is limited all the same.

use std::path::{Path, PathBuf};

use crate::{
    demand::{Demand, LockRule},
    error::ReadError,
    keyed::{hexadecimal, number, shown, value},
    limit::Limit,
    root::Root,
    shortage::{Shortage, ShortageKind, fits},
};

/// Number of `CAP_IPC_LOCK`.
const CAP_IPC_LOCK: u32 = 14;

/// Key of the soft limit in a limits file.
const LOCKED: &str = "Max locked memory";
/// Key of the effective capabilities in a status file.
const EFFECTIVE: &str = "CapEff:";

const USER_NAMESPACE: &str = "/proc/self/ns/user";
/// The initial user namespace; its number is fixed in the kernel (`PROC_USER_INIT_INO`).
const INITIAL: &str = "user:[4026531837]";

/// The soft limit `RLIMIT_MEMLOCK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memlock {
    /// Bytes; none if unlimited.
    pub(crate) bytes: Option<u64>,
    pub(crate) source: PathBuf,
}

impl Memlock {
    pub(crate) fn read(root: &Root, problems: &mut Vec<ReadError>) -> Option<Self> {
        let read = || {
            let (source, text) = root.own_text("limits")?;
            match parse_limit(&text) {
                Ok(bytes) => Ok(Self { bytes, source }),
                Err(why) => Err(ReadError::garbled(&source, shown(&text, LOCKED), why)),
            }
        };
        read()
            .map_err(|e: ReadError| problems.push(e.fall_back("RLIMIT_MEMLOCK is not checked")))
            .ok()
    }

    pub(crate) fn limit(&self) -> Limit {
        let value = self.bytes.map_or("unlimited".to_owned(), |b| b.to_string());
        Limit {
            name: "RLIMIT_MEMLOCK",
            value,
            allows: self.bytes,
            source: self.source.clone(),
        }
    }

    /// Whether a demand fits beside what is `used` already.
    pub(crate) fn check(&self, used: u64, demand: &Demand) -> Option<Shortage> {
        let value = self.bytes?;
        if fits(used, demand.locked, value) {
            return None;
        }
        Some(Shortage {
            kind: ShortageKind::Memlock,
            limit: "RLIMIT_MEMLOCK",
            value,
            used,
            needed: demand.locked,
            source: self.source.clone(),
            remedy: remedy(used.saturating_add(demand.locked), demand.rule),
        })
    }
}

/// How to raise the limit to so many bytes.
fn remedy(bytes: u64, rule: LockRule) -> String {
    let kilobytes = bytes.div_ceil(1024);
    let others = match rule {
        LockRule::User => ", plus what other processes of this user have pinned",
        LockRule::Exempt | LockRule::Process => "",
    };
    format!(
        "`ulimit -l {kilobytes}` in the shell that starts it, `LimitMEMLOCK={bytes}` in its systemd \
         unit, or `prlimit --memlock={bytes}:{bytes} --pid PID`{others}"
    )
}

/// Whether the calling thread may lock any amount: `CAP_IPC_LOCK` in the initial user namespace.
pub(crate) fn is_exempt(root: &Root, problems: &mut Vec<ReadError>) -> bool {
    let capable = capable(root).unwrap_or_else(|error| {
        problems.push(error.fall_back("no CAP_IPC_LOCK is assumed"));
        false
    });
    let initial = match root.link(Path::new(USER_NAMESPACE)) {
        Ok(target) => target.as_os_str() == INITIAL,
        Err(error) => {
            problems.push(error.fall_back("the initial user namespace is assumed"));
            true
        }
    };
    capable && initial
}

fn capable(root: &Root) -> Result<bool, ReadError> {
    let (path, status) = root.own_text("status")?;
    parse_capable(&status).map_err(|why| ReadError::garbled(&path, shown(&status, EFFECTIVE), why))
}

/// Whether the line `CapEff` of a status file has `CAP_IPC_LOCK`.
pub(crate) fn parse_capable(status: &str) -> Result<bool, &'static str> {
    let hex = value(status, EFFECTIVE).ok_or("no line CapEff")?;
    let set = hexadecimal(hex).ok_or("no usable line CapEff")?;
    Ok(set >> CAP_IPC_LOCK & 1 == 1)
}

/// The soft limit in the line `Max locked memory` of a limits file; none if unlimited.
pub(crate) fn parse_limit(limits: &str) -> Result<Option<u64>, &'static str> {
    let columns = value(limits, LOCKED).ok_or("no line Max locked memory")?;
    match columns.split_whitespace().next() {
        Some("unlimited") => Ok(None),
        Some(soft) => number(soft)
            .map(Some)
            .ok_or("no usable line Max locked memory"),
        None => Err("no usable line Max locked memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let line =
            |soft| format!("Max processes  1 1 processes\nMax locked memory  {soft}  bytes\n");
        let cases = [
            ("8388608 unlimited", Ok(Some(8 << 20))),
            ("unlimited unlimited", Ok(None)),
            ("0 0", Ok(Some(0))),
            ("-1 0", Err("no usable line Max locked memory")),
            (
                "18446744073709551616 0",
                Err("no usable line Max locked memory"),
            ),
        ];
        for (soft, expected) in cases {
            assert_eq!(parse_limit(&line(soft)), expected, "{soft}");
        }
        assert_eq!(parse_limit(""), Err("no line Max locked memory"));
    }

    #[test]
    fn capabilities() {
        let cases = [
            ("CapEff:\t000001ffffffffff\n", Ok(true)),
            ("CapEff:\t0000000000004000\n", Ok(true)),
            ("CapEff:\t0000000000003fff\n", Ok(false)),
            ("CapEff:\t00000000a80425fb\n", Ok(false)),
            ("CapEff:\t1ffffffffffffffff\n", Err("no usable line CapEff")),
            ("CapEff:\t+4000\n", Err("no usable line CapEff")),
            ("CapEff:\t\n", Err("no usable line CapEff")),
            ("CapPrm:\t0000000000004000\n", Err("no line CapEff")),
        ];
        for (status, expected) in cases {
            assert_eq!(parse_capable(status), expected, "{status:?}");
        }
    }
}
