// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A test in a process of its own: this test binary, started again with the name of one test and told what to do there.
//!
//! ```text
//!  test ──run(name, part)──► test `name` in a child: finds its part, does it, says what came of it ──► Told
//! ```
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is how a child tells its parent"
)]

use std::{
    env, panic,
    process::{self, Command, Output, Stdio},
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::machine::describe;

const PART: &str = "PARAPIN_TEST_PART";
const ANSWER: &str = "parapin-child: ";

/// In the child: what to do; `None` in an ordinary run of all tests.
pub(crate) fn part() -> Option<String> {
    env::var(PART).ok()
}

/// Runs the test `name` of this binary in a process of its own, for this part.
pub(crate) fn run(name: &str, part: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What the child said, which must have ended well.
pub(crate) fn answer(name: &str, part: &str) -> String {
    let output = run(name, part);
    assert!(output.status.success(), "{part}: {}", describe(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.lines().find_map(|line| line.split_once(ANSWER));
    let (_, answer) = answer.unwrap_or_else(|| panic!("{part}: {}", describe(&output)));
    answer.to_owned()
}

/// Signals that are blocked on this thread, and so in all threads of a process that it starts, until this is dropped.
#[derive(Debug)]
pub(crate) struct Blocked(SigSet);

impl Blocked {
    pub(crate) fn new(signals: &[Signal]) -> Self {
        let blocked = signals.iter().copied().collect::<SigSet>();
        Self(blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.thread_set_mask().unwrap();
    }
}

/// In the child: from now on a panic ends it at once, with its message.
///
/// The usual hook asks for the thread's id, for which a system call filter may kill the process before it has said
/// anything.
pub(crate) fn end_at_panic() {
    panic::set_hook(Box::new(|panicked| {
        eprintln!("{panicked}");
        process::exit(101);
    }));
}

/// In the child: something on the way, for who looks at the whole output.
pub(crate) fn note(text: &str) {
    println!("{text}");
}

/// In the child: tells the parent, and ends well.
pub(crate) fn tell(answer: &str) -> ! {
    println!("{ANSWER}{answer}");
    process::exit(0)
}
