// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A command line that is shown as it would be typed, and runs at the root of the workspace.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    let named = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(named)
}

/// Words without blanks in them, and the variables set before them.
#[derive(Debug)]
pub(crate) struct CommandLine {
    words: String,
    variables: Vec<(&'static str, String)>,
}

impl CommandLine {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            variables: Vec::new(),
        }
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Appends flags to those that the variable has already.
    pub(crate) fn flags(self, name: &'static str, flags: &str) -> Self {
        let present = env::var(name).unwrap_or_default();
        self.variable(name, format!("{present} {flags}").trim())
    }

    /// Runs with its output in sight.
    pub(crate) fn show(&self) -> Result<()> {
        let status = self
            .process()
            .status()
            .with_context(|| format!("cannot start: {self}"))?;
        self.judge(status)
    }

    /// Runs without a word, unless it fails. Returns its standard output.
    pub(crate) fn read(&self) -> Result<String> {
        let output = self
            .process()
            .output()
            .with_context(|| format!("cannot start: {self}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        self.judge(output.status)?;
        Ok(text.into_owned())
    }

    /// Runs with its messages in sight. Returns its standard output.
    pub(crate) fn listen(&self) -> Result<String> {
        let output = self
            .process()
            .stderr(process::Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start: {self}"))?;
        self.judge(output.status)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it can be started and succeeds; prints nothing.
    pub(crate) fn succeeds(&self) -> bool {
        self.process()
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn judge(&self, status: process::ExitStatus) -> Result<()> {
        if !status.success() {
            bail!("{status}; repeat with: {self}");
        }
        Ok(())
    }

    fn process(&self) -> process::Command {
        let mut words = self.words.split_whitespace();
        let mut process =
            process::Command::new(words.next().expect("a command line names a program"));
        process
            .args(words)
            .current_dir(root())
            .stdin(process::Stdio::null());
        process.envs(self.variables.iter().map(|(name, value)| (name, value)));
        process
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.variables {
            write!(f, "{name}='{value}' ")?;
        }
        f.write_str(&self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_as_typed() {
        let command =
            CommandLine::new("cargo doc --no-deps").variable("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            command.to_string(),
            "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps"
        );
    }

    #[test]
    fn a_failure_says_how_to_repeat_it() {
        let error = CommandLine::new("false --at-all")
            .read()
            .expect_err("`false` fails");
        assert_eq!(
            error.to_string(),
            "exit status: 1; repeat with: false --at-all"
        );
    }
}
