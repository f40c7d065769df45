// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel's headers say, asked by a C program: the oracle for structures and numbers that are written by hand.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// Names and their values.
pub type Numbers = BTreeMap<String, u64>;

/// The directory with `header`, such as `linux/idxd.h`: the kernel's own where `PARAPIN_KERNEL_HEADERS` names them, or the system's.
#[must_use]
pub fn directory_of(header: &str) -> Option<PathBuf> {
    let given = env::var_os("PARAPIN_KERNEL_HEADERS").map(PathBuf::from);
    let found = given.unwrap_or_else(|| "/usr/include".into());
    found.join(header).exists().then_some(found)
}

/// The value in C of each expression, by its name, with `includes` from `headers`.
///
/// # Errors
///
/// If there is no C compiler, or it does not know a name; what it said is in the error.
pub fn values(
    headers: &Path,
    includes: &[&str],
    expressions: impl IntoIterator<Item = (String, String)>,
) -> io::Result<Numbers> {
    let mut text = String::from("#include <stddef.h>\n#include <stdio.h>\n");
    for include in includes {
        text += &format!("#include <{include}>\n");
    }
    text += "int main(void) {\n";
    for (name, expression) in expressions {
        text += &format!("printf(\"{name} %llu\\n\", (unsigned long long)({expression}));\n");
    }
    text += "return 0;\n}\n";
    // One for each header, since tests run beside each other.
    let of = includes.join("-").replace(['/', '.'], "-");
    let dir = env::temp_dir().join(format!("parapin-abi-{}-{of}", process::id()));
    fs::create_dir_all(&dir)?;
    let printed = print(headers, &dir, &text);
    fs::remove_dir_all(&dir)?;
    Ok(printed?
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect())
}

/// What the program prints.
fn print(headers: &Path, dir: &Path, text: &str) -> io::Result<String> {
    let (source, binary) = (dir.join("abi.c"), dir.join("abi"));
    fs::write(&source, text)?;
    let compiled = Command::new("cc")
        .arg("-isystem")
        .arg(headers)
        .args([&source, Path::new("-o"), &binary])
        .output()?;
    if !compiled.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&compiled.stderr).into_owned(),
        ));
    }
    let printed = Command::new(&binary).output()?;
    Ok(String::from_utf8_lossy(&printed.stdout).into_owned())
}
