// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where the results of a bench are kept.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use parapin::bench::Report;

/// Writes `parapin-bench/NAME.json` in the target directory, or `NAME.json` in `$PARAPIN_BENCH_DIR`, and says where that is.
pub(super) fn write(name: &str, report: &Report) -> io::Result<PathBuf> {
    // Cargo puts this directory into the target directory itself, whatever that is and whatever the profile and the
    // target triple are, which the path of the executable does not show.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // In a virtual machine there is none.
    let directory = env::var_os("PARAPIN_BENCH_DIR")
        .map_or_else(|| scratch.with_file_name("parapin-bench"), PathBuf::from);
    fs::create_dir_all(&directory)?;
    let path = directory.join(name).with_extension("json");
    fs::write(&path, report.json() + "\n")?;
    Ok(path)
}
