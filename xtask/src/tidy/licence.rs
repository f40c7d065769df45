// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The text of both licences is there.

use std::path::Path;

use super::Finding;

const FILES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-BSD-3-Clause"];

pub(super) fn check(root: &Path) -> Vec<Finding> {
    let missing = FILES.into_iter().filter(|file| !root.join(file).is_file());
    missing
        .map(|file| Finding {
            file: file.into(),
            line: 1,
            what: "the licence file is missing".into(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_file_is_found() {
        assert_eq!(check(Path::new("/nowhere")).len(), 2);
    }
}
