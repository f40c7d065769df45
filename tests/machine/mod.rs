// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the tests know of the machine they run on: its counters, its limits, and how to run `parapin` inside them.
#![allow(
    dead_code,
    reason = "every test binary compiles this and uses its own part"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "tells why a test does nothing")]

pub(crate) mod vm;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

/// One test of a binary at a time: those that look at counters of the process or the machine.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why a test does nothing.
pub(crate) fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// Whether this process may change limits of the machine.
pub(crate) fn is_root() -> bool {
    // Only root reads this one.
    fs::File::open("/proc/1/mem").is_ok() || status("Uid:").split_whitespace().next() == Some("0")
}

/// Whether this process may make a thread less nice again (CAP_SYS_NICE; see capabilities(7)).
pub(crate) fn may_rise() -> bool {
    let effective = u64::from_str_radix(&status("CapEff:"), 16).unwrap();
    effective & (1 << 23) != 0
}

/// The rest of a line of /proc/self/status.
pub(crate) fn status(key: &str) -> String {
    field(&fs::read_to_string("/proc/self/status").unwrap(), key).unwrap()
}

/// The rest of the line that begins with `key`.
pub(crate) fn field(text: &str, key: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(|rest| rest.trim().to_owned())
}

/// Bytes in a line of /proc/self/status that is in kB.
pub(crate) fn status_bytes(key: &str) -> u64 {
    let text = status(key);
    let number: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    number << 10
}

/// Bytes that this process has pinned.
pub(crate) fn vm_pin() -> u64 {
    status_bytes("VmPin:")
}

/// Pages that the machine has long-term pinned since it booted, and released again.
pub(crate) fn foll_pin() -> (u64, u64) {
    // Folds the counters of all CPUs; only root may, and only then are they exact.
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let counter = |key| field(&text, key).unwrap().parse().unwrap();
    (
        counter("nr_foll_pin_acquired "),
        counter("nr_foll_pin_released "),
    )
}

/// Pages that are pinned on the whole machine now.
pub(crate) fn foll_pinned() -> u64 {
    let (acquired, released) = foll_pin();
    acquired - released
}

/// Waits until as many pages are pinned on the machine as `expected`: others, such as direct I/O, pin for moments.
///
/// Only where nobody else works on it; elsewhere the counter says nothing.
pub(crate) fn assert_foll_pinned(expected: u64) {
    if !is_root() || env::var_os("PARAPIN_TEST_MACHINE").is_none() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while foll_pinned() != expected && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(foll_pinned(), expected, "pages pinned on this machine");
}

/// Why this process cannot pin so many bytes through io_uring, if it cannot; also said on standard output.
pub(crate) fn cannot_pin(bytes: u64) -> bool {
    let demand = cgroup::Demand {
        locked: bytes,
        rule: cgroup::LockRule::User,
        fresh: bytes,
        huge: Vec::new(),
    };
    if let Err(error) = io_uring::IoUring::new(1) {
        skip(&format!(
            "io_uring is not available to this process: {error}"
        ));
        return true;
    }
    if let Err(shortages) = parapin::MemoryBudget::current().check(&demand) {
        skip(&shortages[0].to_string());
        return true;
    }
    false
}

/// Whether tests may change this machine (hugetlb pools, cgroups) and expect that nobody else pins on it.
pub(crate) fn may_change_machine() -> bool {
    let may = is_root() && env::var_os("PARAPIN_TEST_MACHINE").is_some();
    if !may {
        skip(
            "this test changes the machine: set PARAPIN_TEST_MACHINE=1, as root, on one that has no other work",
        );
    }
    may
}

/// Where `parapin` is: beside this test, unless the test was carried to another machine with it.
pub(crate) fn parapin_path() -> PathBuf {
    let carried = env::var_os("PARAPIN_BIN");
    carried.map_or_else(|| env!("CARGO_BIN_EXE_parapin").into(), PathBuf::from)
}

/// `parapin` with arguments.
pub(crate) fn parapin(arguments: &[&str]) -> Command {
    let mut command = Command::new(parapin_path());
    command.args(arguments);
    command
}

/// Runs `wrapper` (such as `taskset -c 0`) with `parapin` and its arguments behind it.
pub(crate) fn parapin_under(wrapper: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(parapin_path())
        .args(arguments);
    command
}

/// A copy of `parapin` that every user may execute, wherever the build directory is.
pub(crate) fn public_parapin() -> (tempdir::Dir, PathBuf) {
    let dir = tempdir::Dir::new();
    let copy = dir.path().join("parapin");
    fs::copy(parapin_path(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, copy)
}

/// What a finished program printed, for messages of failed assertions.
pub(crate) fn describe(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs `command`, which must print one JSON object and nothing else on standard output, and end with `exit`.
pub(crate) fn json(command: &mut Command, exit: i32) -> Value {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(exit), "{}", describe(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", describe(&output)))
}

/// The first mount of a file system of this kind, with an option that matches, from /proc/self/mounts.
pub(crate) fn mount(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let matches =
            fields[2] == kind && (option.is_empty() || fields[3].split(',').any(|o| o == option));
        matches.then(|| Path::new(fields[1]).to_owned())
    })
}

mod tempdir {
    use std::{
        env, fs,
        os::unix::fs::PermissionsExt,
        path::{Path, PathBuf},
        process,
        sync::atomic::{AtomicU32, Ordering},
    };

    /// A directory that everybody may enter, removed on drop.
    pub(crate) struct Dir(PathBuf);

    impl Dir {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("parapin-test-{}-{number}", process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
