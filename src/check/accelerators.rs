// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Intel DSA and IAA: is there a work queue that a process may use?
//!
//! ```text
//!  /sys/bus/dsa/devices/dsa0/state     enabled ┐
//!                       wq0.1/state    enabled ├─► a queue for processes: /dev/dsa/wq0.1
//!                            /type     user    ┘   (of IAA: iax1, /dev/iax/wq1.0)
//! ```

use super::{
    host::{Host, Unreadable, some_of},
    row::Row,
};

const DEVICES: &str = "/sys/bus/dsa/devices";

/// One kind of accelerator, and what its names begin with.
struct Kind {
    id: &'static str,
    prefix: &'static str,
    needed: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        id: "dsa",
        prefix: "dsa",
        needed: "finds zero pages for a migration; software does without it",
    },
    Kind {
        id: "iaa",
        prefix: "iax",
        needed: "compresses pages for a migration; software does without it",
    },
];

pub(super) fn rows(host: &Host<'_>) -> Vec<Row> {
    let names = host.list(DEVICES);
    KINDS
        .iter()
        .map(|kind| match &names {
            Ok(names) => row(host, kind, names.as_deref().unwrap_or_default()),
            Err(why) => Row::unreadable(kind.id, why, kind.needed),
        })
        .collect()
}

fn row(host: &Host<'_>, kind: &Kind, names: &[String]) -> Row {
    let numbers: Vec<&str> = names
        .iter()
        .filter_map(|name| number(name, kind.prefix))
        .collect();
    if numbers.is_empty() {
        return Row::absent(kind.id, "no such device", kind.needed);
    }
    let devices: Vec<String> = numbers
        .iter()
        .map(|n| format!("{}{n}", kind.prefix))
        .collect();
    let mut usable = Vec::new();
    for queue in names.iter().filter(|name| is_queue_of(name, &numbers)) {
        match describe(host, kind, queue) {
            Ok(Some(queue)) => usable.push(queue),
            Ok(None) => {}
            Err(why) => return Row::unreadable(kind.id, &why, kind.needed),
        }
    }
    if usable.is_empty() {
        let device = &devices[0];
        let number = numbers[0];
        return Row::warn(
            kind.id,
            format!("{}: no queue that this process may use", some_of(&devices)),
            kind.needed,
            format!(
                "`accel-config config-wq {device}/wq{number}.0 -g 0 -s 16 -p 10 -m shared -t 16 -y user -n parapin -d user; \
                 accel-config config-engine {device}/engine{number}.0 -g 0; accel-config enable-device {device}; \
                 accel-config enable-wq {device}/wq{number}.0`; then `chown USER /dev/{}/wq{number}.0`",
                kind.prefix
            ),
        );
    }
    let found = format!("{} with {}", some_of(&devices), some_of(&usable));
    Row::ok(kind.id, found, kind.needed)
}

/// The number behind a prefix: `3` in `dsa3`.
fn number<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let number = name.strip_prefix(prefix)?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some(number)
}

/// Whether a name is that of a work queue of one of the devices: `wq3.0` of number 3.
fn is_queue_of(name: &str, numbers: &[&str]) -> bool {
    let device = name
        .strip_prefix("wq")
        .and_then(|rest| rest.split_once('.'));
    device.is_some_and(|(device, _)| numbers.contains(&device))
}

/// A queue that this process may use, with its mode; none if it may not.
fn describe(host: &Host<'_>, kind: &Kind, queue: &str) -> Result<Option<String>, Unreadable> {
    let read = |file: &str| host.line(&format!("{DEVICES}/{queue}/{file}"));
    let is = |file: &str, value: &str| read(file).map(|line| line.as_deref() == Some(value));
    if !is("state", "enabled")? || !is("type", "user")? {
        return Ok(None);
    }
    let path = format!("/dev/{}/{queue}", kind.prefix);
    let node = host.probe.node(&host.root.resolve(path.as_ref()));
    if !node.is_ok_and(|node| node.is_device && node.may_open) {
        return Ok(None);
    }
    let mode = read("mode")?.unwrap_or_default();
    Ok(Some(format!("{queue} ({mode})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(number("dsa12", "dsa"), Some("12"));
        assert_eq!(number("dsa", "dsa"), None);
        assert_eq!(number("dsa1a", "dsa"), None);
        assert!(is_queue_of("wq1.0", &["0", "1"]));
        assert!(!is_queue_of("wq10.0", &["0", "1"]));
        assert!(!is_queue_of("engine1.0", &["1"]));
    }
}
