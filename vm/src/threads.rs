// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where everybody is while a test does not end: one line a thread, and its way into the kernel.

use std::{fs, path::Path};

/// Lines of a thread's stack that say enough.
const DEPTH: usize = 6;

/// All threads of all programs but this one.
pub(crate) fn describe() -> String {
    let mut text = String::from("\n--- threads when it was too late\n");
    for process in numbered(Path::new("/proc")) {
        let tasks = Path::new("/proc").join(process.to_string()).join("task");
        for thread in numbered(&tasks) {
            let read = |file| {
                let text = fs::read_to_string(tasks.join(thread.to_string()).join(file));
                text.unwrap_or_default().trim().to_owned()
            };
            // Threads of the kernel run no program.
            if process == 1 || read("cmdline").is_empty() {
                continue;
            }
            let stat = read("stat");
            let state = stat.rsplit(") ").next().unwrap_or("?");
            text += &format!(
                "{process}/{thread} {} {} syscall {}\n",
                read("comm"),
                &state[..state.len().min(1)],
                read("syscall")
            );
            for line in read("stack").lines().take(DEPTH) {
                text += &format!("      {line}\n");
            }
        }
    }
    text
}

/// The numbers among the names in a directory, in order.
fn numbered(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}
