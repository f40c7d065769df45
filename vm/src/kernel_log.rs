// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which lines of the kernel's log are complaints, and which of those a test announced.
//!
//! ```text
//!  ------------[ cut here ]------------  ┐
//!  WARNING: CPU: 1 PID: 70 at mm/gup.c…  │ one complaint: an announcement of any line of it excuses all
//!  Call Trace:                           │
//!  ---[ end trace 0000000000000000 ]---  ┘
//!  DMAR: [DMA Write] Request device …      another one, of one line
//!  FAULT_INJECTION: forcing a failure.   ┐
//!  Call Trace:                           │ a trace belongs to the complaint, or to the announced line, before it
//!  </TASK>                               ┘
//! ```

/// What no healthy kernel says. A trace alone is one too: see below.
const HEADLINES: [&str; 25] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Kernel panic",
    "general protection",
    "segfault at",
    "traps: ",
    "divide error",
    "double fault",
    "stack-protector",
    "refcount_t:",
    "UBSAN",
    "corruption",
    "RLIMIT_MEMLOCK",
    // What follows `DMAR: DRHD: handling fault status`.
    "DMAR: [DMA",
    "DMAR: [INTR-REMAP",
    "FAULT_INJECTION",
    "blocked for more than",
    "rcu: INFO:",
    "soft lockup",
    "invoked oom-killer",
    "ut of memory",
    "page allocation failure",
    LOST,
];
const CUT_HERE: &str = "[ cut here ]";
const END_TRACE: &str = "---[ end trace";
const TRACE: &str = "Call Trace:";
const END_TASK: &str = "</TASK>";
/// What stands in the place of records that were overwritten before it read them.
pub const LOST: &str = "lines of the kernel's log were lost";

/// The text of one record of /dev/kmsg: `priority,number,time,flags;text`, then lines that begin with a blank.
#[must_use]
pub fn message(record: &str) -> String {
    let text = record.split_once(';').map_or(record, |(_, text)| text);
    let text = text.split('\n').next().unwrap_or(text);
    // The kernel writes a backslash, and what is not printable, as four characters.
    text.replace(r"\x5c", r"\")
}

/// The headlines of all complaints that are not `expected`: that have none of these in any of their lines.
#[must_use]
pub fn complaints(log: &[String], expected: &[String]) -> Vec<String> {
    let is_expected = |line: &str| expected.iter().any(|part| line.contains(part.as_str()));
    let mut found = Vec::new();
    let mut open: Option<Complaint<'_>> = None;
    for line in log.iter().map(String::as_str) {
        let continues = open.as_ref().is_some_and(|open| open.goes_on_with(line));
        let begins = line.contains(CUT_HERE)
            || is_headline(line)
            || line.contains(TRACE)
            || is_expected(line);
        if !continues && begins {
            found.extend(open.replace(Complaint::new(line.contains(CUT_HERE))));
        }
        if let Some(complaint) = &mut open {
            complaint.add(line, is_expected(line));
            if complaint.ends_with(line) {
                found.extend(open.take());
            }
        }
    }
    found.extend(open);
    found
        .iter()
        .filter(|complaint| !complaint.is_expected)
        .filter_map(|complaint| complaint.headline)
        .map(str::to_owned)
        .collect()
}

fn is_headline(line: &str) -> bool {
    HEADLINES.iter().any(|part| line.contains(part))
}

/// Lines of the log that belong together.
#[derive(Debug)]
struct Complaint<'a> {
    /// Begins with [`CUT_HERE`], and so ends with [`END_TRACE`] and not before.
    is_cut: bool,
    is_expected: bool,
    headline: Option<&'a str>,
}

impl<'a> Complaint<'a> {
    fn new(is_cut: bool) -> Self {
        Self {
            is_cut,
            is_expected: false,
            headline: None,
        }
    }

    /// Whether a line that would begin a complaint belongs to this one.
    fn goes_on_with(&self, line: &str) -> bool {
        // `BUG: …` is followed by `Oops: …` without a cut.
        self.is_cut || line.contains(TRACE) || line.contains("Oops")
    }

    fn ends_with(&self, line: &str) -> bool {
        line.contains(END_TRACE) || (!self.is_cut && line.contains(END_TASK))
    }

    fn add(&mut self, line: &'a str, is_expected: bool) {
        self.is_expected |= is_expected;
        if self.headline.is_none() && (is_headline(line) || line.contains(TRACE)) {
            self.headline = Some(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARNING: &str = "\
------------[ cut here ]------------
WARNING: CPU: 1 PID: 70 at drivers/misc/lkdtm/bugs.c:108 lkdtm_WARNING+0x1a/0x20
Modules linked in:
Call Trace:
 <TASK>
 direct_entry+0xd9/0x130
 </TASK>
---[ end trace 0000000000000000 ]---";
    const INJECTED: &str = "\
FAULT_INJECTION: forcing a failure.
name failslab, interval 1, probability 0, space 0, times 1
CPU: 0 UID: 0 PID: 70 Comm: a
Call Trace:
 <TASK>
 should_fail_ex+0x110/0x130
 </TASK>";

    fn found(log: &[&str], expected: &[&str]) -> Vec<String> {
        let owned = |texts: &[&str]| -> Vec<String> {
            let lines = texts.iter().flat_map(|text| text.lines());
            lines.map(str::to_owned).collect()
        };
        complaints(&owned(log), &owned(expected))
    }

    #[test]
    fn a_record_has_one_message() {
        let record = "4,1234,5678,-;DMAR: text; more\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:02.0\n";
        assert_eq!(message(record), "DMAR: text; more");
        assert_eq!(message(r"6,1,2,-;ACPI: \x5c_SB_"), r"ACPI: \_SB_");
    }

    #[test]
    fn usual_lines_are_no_complaints() {
        let log = [
            "vfio-pci 0000:00:02.0: enabling device (0000 -> 0002)",
            "DMAR: DRHD: handling fault status reg 3",
            "printk: legacy console enabled",
        ];
        assert_eq!(found(&log, &[]), <[String; 0]>::default());
    }

    #[test]
    fn a_warning_is_one_complaint() {
        assert_eq!(
            found(&["before", WARNING, "after"], &[]),
            ["WARNING: CPU: 1 PID: 70 at drivers/misc/lkdtm/bugs.c:108 lkdtm_WARNING+0x1a/0x20"]
        );
    }

    #[test]
    fn any_line_of_a_complaint_may_be_announced() {
        for part in ["lkdtm_WARNING", "direct_entry", "cut here"] {
            assert_eq!(found(&[WARNING], &[part]), <[String; 0]>::default());
        }
    }

    #[test]
    fn an_announcement_excuses_its_own_complaint_only() {
        let fault = "DMAR: [DMA Write NO_PASID] Request device [00:02.0] fault addr 0x1000";
        assert_eq!(found(&[WARNING, fault], &["lkdtm"]), [fault]);
        assert_eq!(found(&[fault, WARNING], &["lkdtm"]), [fault]);
        assert_eq!(found(&[fault, WARNING], &["DMAR: [DMA Write"]).len(), 1);
    }

    #[test]
    fn a_trace_belongs_to_what_is_before_it() {
        assert_eq!(
            found(&[INJECTED], &[]),
            ["FAULT_INJECTION: forcing a failure."]
        );
        assert_eq!(
            found(&[INJECTED], &["FAULT_INJECTION"]),
            <[String; 0]>::default()
        );
        // The announced one is over: this trace is somebody else's.
        assert_eq!(
            found(&[INJECTED, "Call Trace:", "</TASK>"], &["FAULT_INJECTION"]),
            ["Call Trace:"]
        );
        assert_eq!(
            found(
                &["sysrq: Show Blocked State", "Call Trace:"],
                &["Show Blocked"]
            ),
            <[String; 0]>::default()
        );
    }

    #[test]
    fn an_oops_is_one_complaint_with_its_bug() {
        let log = [
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "#PF: supervisor write access in kernel mode",
            "Oops: Oops: 0002 [#1] SMP",
            "Call Trace:",
            " </TASK>",
            "---[ end trace 0000000000000000 ]---",
        ];
        assert_eq!(found(&log, &[]), [log[0]]);
    }

    #[test]
    fn a_complaint_that_never_ends_counts() {
        let log = ["-----[ cut here ]-----", "kernel BUG at mm/gup.c:1!"];
        assert_eq!(found(&log, &[]), ["kernel BUG at mm/gup.c:1!"]);
    }
}
