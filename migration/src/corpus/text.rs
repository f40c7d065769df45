// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages of text: lines of a log, and prose of words by their frequency.

use super::random::Random;

/// Frequent ones first.
const WORDS: [&str; 96] = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "for",
    "it",
    "page",
    "was",
    "on",
    "with",
    "as",
    "be",
    "at",
    "by",
    "memory",
    "this",
    "from",
    "not",
    "are",
    "or",
    "an",
    "which",
    "all",
    "guest",
    "has",
    "were",
    "when",
    "there",
    "can",
    "device",
    "more",
    "if",
    "will",
    "one",
    "driver",
    "other",
    "about",
    "out",
    "time",
    "than",
    "into",
    "only",
    "new",
    "some",
    "could",
    "these",
    "two",
    "kernel",
    "first",
    "then",
    "do",
    "any",
    "now",
    "such",
    "like",
    "over",
    "queue",
    "even",
    "most",
    "after",
    "also",
    "system",
    "many",
    "before",
    "must",
    "through",
    "connection",
    "process",
    "where",
    "much",
    "should",
    "well",
    "people",
    "down",
    "own",
    "request",
    "because",
    "good",
    "each",
    "those",
    "between",
    "network",
    "state",
    "under",
    "thread",
    "interrupt",
    "while",
    "last",
    "migration",
    "configuration",
    "never",
    "bandwidth",
];

const SERVICES: [&str; 8] = [
    "kernel", "systemd", "sshd", "dhclient", "cron", "nginx", "postgres", "udevd",
];

/// Lines until the page is full; the last one is cut off.
pub(super) fn fill(random: &mut Random, page: &mut [u8]) {
    let is_log = random.one_in(2);
    let mut text = String::with_capacity(page.len() + 256);
    let mut clock = random.below(80_000);
    while text.len() < page.len() {
        if is_log {
            clock += random.below(5);
            put_log_start(random, clock, &mut text);
        }
        let words = if is_log { 4 } else { 8 } + random.below(8);
        for index in 0..words {
            text.push_str(if index == 0 { "" } else { " " });
            text.push_str(random.pick(&WORDS).copied().unwrap_or_default());
        }
        if is_log && random.one_in(2) {
            let number = random.mostly_small(1 << 32);
            text.push_str(&format!(" id={number:#x}"));
        }
        text.push_str(if is_log { "\n" } else { ".\n" });
    }
    for (to, from) in page.iter_mut().zip(text.bytes()) {
        *to = from;
    }
}

fn put_log_start(random: &mut Random, clock: u64, text: &mut String) {
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let service = random.pick(&SERVICES).copied().unwrap_or_default();
    let process = 400 + random.mostly_small(3000);
    text.push_str(&format!(
        "Nov 21 {hour:02}:{minute:02}:{second:02} guest {service}[{process}]: "
    ));
}
