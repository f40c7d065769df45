// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who yields to the neighbours? Helpers are nice, which does not count against threads of other groups.
//!
//! ```text
//!  root group, no autogroup ─► ok      niceness counts against everybody
//!  root group, autogroup ────► absent  only inside the session; /proc/PID/autogroup has a niceness of its own
//!  any other group ──────────► absent  only inside the group; its cpu.weight or cpu.idle counts against others
//!  a light or idle group ────► ok      it yields as a whole
//! ```

use cgroup::{CpuWeight, CpuWeights, NiceScope, Root, ShellPath};

use super::{
    host::{Unreadable, shown},
    row::Row,
};

const ID: &str = "cpu-neighbours";

const NEEDED: &str =
    "where neighbours in other groups or sessions matter: something that ranks helpers below them";

/// A group that has this part of the usual weight hardly disturbs its siblings, and does not starve.
const LIGHT: u64 = 10;

pub(super) fn row(root: &Root, weights: &CpuWeights) -> Row {
    match NiceScope::read(root) {
        Err(error) => Row::unreadable(ID, &Unreadable::from(&error), NEEDED),
        Ok(NiceScope::Everybody) => Row::ok(
            ID,
            "niceness counts against everybody (root group of the CPUs)",
            NEEDED,
        ),
        Ok(NiceScope::Session) => Row::optional(
            ID,
            "niceness counts only inside this session (autogroup)",
            NEEDED,
            "`echo 19 > /proc/PID/autogroup` while it pins, or `sysctl kernel.sched_autogroup_enabled=0`",
        ),
        Ok(NiceScope::Group) => in_group(root, weights),
    }
}

fn in_group(root: &Root, weights: &CpuWeights) -> Row {
    let found = "niceness counts only inside this group";
    let mut levels = weights.levels().iter();
    if let Some(level) = levels.clone().find(|level| yields(level)) {
        let how = if level.idle {
            "idle".to_owned()
        } else {
            format!("weight {}, usual: {}", level.weight, level.usual)
        };
        let path = shown(&level.source);
        return Row::ok(
            ID,
            format!("{found}, but it yields ({how}; {path})"),
            NEEDED,
        );
    }
    match levels.next() {
        Some(own) => Row::optional(
            ID,
            format!("{found} (weight {}; {})", own.weight, shown(&own.source)),
            NEEDED,
            lighter(root, own),
        ),
        None => Row::optional(
            ID,
            format!("{found}, whose weight is not seen here"),
            NEEDED,
            "a lower CPUWeight= of the systemd unit, or CPU request of the container, while it pins",
        ),
    }
}

fn yields(level: &CpuWeight) -> bool {
    level.idle || level.weight < level.usual
}

/// How to make a group yield; kernels before 5.15 have no idle ones.
fn lighter(root: &Root, own: &CpuWeight) -> String {
    let weight = format!("`echo {} > {}`", own.usual / LIGHT, ShellPath(&own.source));
    let idle = own.source.with_file_name("cpu.idle");
    let commands = if root.text(&idle).is_ok() {
        format!("{weight} or `echo 1 > {}`", ShellPath(&idle))
    } else {
        weight
    };
    format!(
        "{commands} while it pins: it counts for all of the group, vCPUs too, and against its siblings; \
         against others, the same in the group above"
    )
}
