// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What holds for every source file by itself: its length, its first line, and no unfinished work.

use std::path::Path;

use super::Finding;

const HEADER: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";
const LONGEST: usize = 600;
/// In two halves, so that this file passes its own rule.
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line, what| {
        findings.push(Finding {
            file: file.to_owned(),
            line,
            what,
        })
    };
    if text.lines().next() != Some(HEADER) {
        find(1, format!("the first line is not `{HEADER}`"));
    }
    let lines = text.lines().count();
    if lines > LONGEST && !is_test(file) {
        find(
            LONGEST + 1,
            format!("{lines} lines, at most {LONGEST} are allowed"),
        );
    }
    for (index, line) in text.lines().enumerate() {
        for word in UNFINISHED.into_iter().filter(|word| has_word(line, word)) {
            find(
                index + 1,
                format!("`{word}`: finish it, or file it where others see it"),
            );
        }
    }
    findings
}

fn is_test(file: &Path) -> bool {
    file.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        check(Path::new(file), text)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_missing_header_is_found() {
        assert_eq!(found("a.rs", HEADER), [""; 0]);
        assert_eq!(
            found("a.rs", "//! Text.\n"),
            [format!("a.rs:1: the first line is not `{HEADER}`")]
        );
        assert_eq!(found("a.rs", "").len(), 1);
    }

    #[test]
    fn a_long_file_is_found_unless_it_is_a_test() {
        let longest = format!("{HEADER}\n{}", "\n".repeat(LONGEST - 1));
        assert_eq!(found("src/a.rs", &longest), [""; 0]);
        let longer = longest + "\n";
        assert_eq!(
            found("src/a.rs", &longer),
            ["src/a.rs:601: 601 lines, at most 600 are allowed"]
        );
        assert_eq!(found("vfio/tests/a.rs", &longer), [""; 0]);
    }

    #[test]
    fn unfinished_work_is_found_as_a_whole_word() {
        for word in UNFINISHED {
            let findings = found("a.rs", &format!("{HEADER}\n// {word}: later\n"));
            assert_eq!(
                findings,
                [format!(
                    "a.rs:2: `{word}`: finish it, or file it where others see it"
                )]
            );
            assert_eq!(
                found(
                    "a.rs",
                    &format!("{HEADER}\nlet name = \"file-{word}{word}\";\n")
                ),
                [""; 0]
            );
        }
    }
}
