// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pending signals of the recorded trees.

use cgroup::PendingSignals;

use crate::tree;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

#[test]
fn signals_of_the_process_and_of_the_thread_wait() {
    let pending = |name| PendingSignals::read(&tree(name)).unwrap();
    assert_eq!(pending("big").termination(), None);
    // From systemd, which tells the process.
    let stopped = pending("systemd-v2");
    assert_eq!(stopped.termination(), Some(SIGTERM));
    assert!(!stopped.contains(SIGINT));
    // Two that were sent to this thread.
    let both = pending("pod-v1");
    assert_eq!(both.termination(), Some(SIGINT));
    assert!(both.contains(SIGHUP) && !both.contains(SIGTERM));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let error = |name| PendingSignals::read(&tree(name)).unwrap_err();
    assert!(error("missing").is_missing());
    assert_eq!(
        error("garbage").to_string(),
        "/proc/thread-self/status: no usable line SigPnd: `0x0002`; nothing is assumed instead"
    );
}
