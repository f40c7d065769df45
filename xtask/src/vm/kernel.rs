// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel of the machine, and its headers: built out of Debian's source package and `vm/kernel.fragment`, once.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cgroup::CpuBudget;

use super::{
    cache::{self, Workshop},
    child::{Running, tied},
    tools,
};
use crate::command::{CommandLine, root};

/// The Debian package with the kernel's source.
pub(crate) const PACKAGE: &str = "linux-source-6.12";
/// What that package installs.
pub(crate) const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";
/// The directory in it.
const TREE: &str = "linux-source-6.12";
/// What is booted, in the cache.
const IMAGE: &str = "bzImage";
/// Grows when the steps below change what comes out of them.
const RECIPE: &str = "1";
/// No step takes longer.
const LIMIT: Duration = Duration::from_secs(3600);

pub(crate) fn has_source() -> bool {
    Path::new(SOURCE).exists()
}

/// The image to boot; builds it if it is not cached, which takes minutes.
pub(crate) fn image() -> Result<PathBuf> {
    let fragment = fragment()?;
    let cached = kernel_directory(&fragment)?;
    let image = cached.join(IMAGE);
    if image.exists() {
        return Ok(image);
    }
    let workshop = open()?;
    // Whoever held the lock before may have built it.
    if !image.exists() {
        let version = version()?;
        eprintln!("vm: building the kernel {version} (some minutes, once)");
        let build = Build::unpack(&workshop)?;
        build.configure(&fragment)?;
        build.compile()?;
        build.collect_kernel(&cached)?;
        let headers = headers_directory(&version)?;
        if !headers.exists() {
            build.install_headers(&headers)?;
        }
    }
    Ok(image)
}

/// Whether there is nothing to build.
pub(crate) fn is_cached() -> bool {
    let cached = fragment().and_then(|fragment| kernel_directory(&fragment));
    cached.is_ok_and(|cached| cached.join(IMAGE).exists())
}

fn fragment() -> Result<String> {
    let path = root().join("vm/kernel.fragment");
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn kernel_directory(fragment: &str) -> Result<PathBuf> {
    let key = cache::key(&[&version()?, fragment, RECIPE]);
    Ok(cache::directory()?.join(format!("kernel-{key}")))
}

/// The include directory of the kernel's headers; installs them if they are not cached, which takes half a minute.
pub(crate) fn headers() -> Result<PathBuf> {
    let version = version()?;
    let cached = headers_directory(&version)?;
    if !cached.exists() {
        let workshop = open()?;
        if !cached.exists() {
            eprintln!("vm: installing the headers of the kernel {version} (once)");
            Build::unpack(&workshop)?.install_headers(&cached)?;
        }
    }
    Ok(cached.join("include"))
}

fn headers_directory(version: &str) -> Result<PathBuf> {
    let key = cache::key(&[version, RECIPE]);
    Ok(cache::directory()?.join(format!("headers-{key}")))
}

fn open() -> Result<Workshop> {
    tools::need_to_build()?;
    Workshop::open()
}

/// Which source this is, such as `6.12.117-1~deb12u1`.
fn version() -> Result<String> {
    let query = CommandLine::new(format!(
        "dpkg-query --show --showformat=${{Version}} {PACKAGE}"
    ));
    if !has_source() || !query.succeeds() {
        tools::need_to_build()?;
        bail!(
            "{SOURCE} does not belong to the Debian package {PACKAGE}; apt-get install --reinstall {PACKAGE}"
        );
    }
    query.read()
}

/// An unpacked source in a workshop.
#[derive(Debug)]
struct Build<'a> {
    workshop: &'a Workshop,
    tree: PathBuf,
    log: PathBuf,
}

impl<'a> Build<'a> {
    fn unpack(workshop: &'a Workshop) -> Result<Self> {
        let build = Self {
            workshop,
            tree: workshop.path().join(TREE),
            // Beside the workshop, so that it is still there when the build has failed.
            log: workshop.path().with_file_name("build.log"),
        };
        File::create(&build.log)
            .with_context(|| format!("cannot write {}", build.log.display()))?;
        let mut unpack = tied("tar");
        unpack.arg("-xf").arg(SOURCE).arg("-C").arg(workshop.path());
        build.stage("unpack", &mut unpack)?;
        Ok(build)
    }

    fn configure(&self, fragment: &str) -> Result<()> {
        let file = self.workshop.path().join("fragment");
        fs::write(&file, fragment).with_context(|| format!("cannot write {}", file.display()))?;
        self.stage("tinyconfig", &mut self.make(&["tinyconfig"]))?;
        let mut merge = tied("scripts/kconfig/merge_config.sh");
        merge
            .args(["-m", ".config"])
            .arg(&file)
            .current_dir(&self.tree);
        self.stage("merge", &mut merge)?;
        self.stage("olddefconfig", &mut self.make(&["olddefconfig"]))?;
        let path = self.tree.join(".config");
        let config =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let dropped = dropped(fragment, &config);
        ensure!(
            dropped.is_empty(),
            "the kernel does not take these lines of vm/kernel.fragment: {}; look for what they depend on",
            dropped.join(", ")
        );
        Ok(())
    }

    fn compile(&self) -> Result<()> {
        let jobs = format!("-j{}", CpuBudget::current().threads());
        self.stage("bzImage", &mut self.make(&[&jobs, "bzImage"]))
    }

    fn collect_kernel(&self, to: &Path) -> Result<()> {
        let kernel = self.workshop.path().join("kernel");
        fs::create_dir(&kernel).context("cannot make a directory for the kernel")?;
        for (from, name) in [("arch/x86/boot/bzImage", IMAGE), (".config", "config")] {
            let from = self.tree.join(from);
            fs::copy(&from, kernel.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        self.workshop.publish("kernel", to)
    }

    fn install_headers(&self, to: &Path) -> Result<()> {
        let headers = self.workshop.path().join("headers");
        let path = format!("INSTALL_HDR_PATH={}", headers.display());
        self.stage("headers", &mut self.make(&["headers_install", &path]))?;
        self.workshop.publish("headers", to)
    }

    fn make(&self, arguments: &[&str]) -> Command {
        let mut make = tied("make");
        make.args([
            "ARCH=x86_64",
            "KBUILD_BUILD_USER=parapin",
            "KBUILD_BUILD_HOST=vm",
        ])
        .args(arguments)
        .current_dir(&self.tree)
        .env_remove("MAKEFLAGS")
        .env_remove("CROSS_COMPILE");
        make
    }

    /// Runs one stage with its output in the log, and says how long it took.
    fn stage(&self, name: &str, command: &mut Command) -> Result<()> {
        let log = || {
            let log = File::options().append(true).open(&self.log);
            log.with_context(|| format!("cannot write {}", self.log.display()))
        };
        let begin = Instant::now();
        command
            .stdin(std::process::Stdio::null())
            .stdout(log()?)
            .stderr(log()?);
        let status = Running::start(command)?.wait(LIMIT)?;
        if !status.success() {
            eprintln!("{}", last_lines(&self.log, 20));
            bail!(
                "stage `{name}` of the kernel failed ({status}); its log is {}",
                self.log.display()
            );
        }
        eprintln!(
            "vm: kernel: {name:<12} {:>6.1} s",
            begin.elapsed().as_secs_f64()
        );
        Ok(())
    }
}

/// The end of a log, for a message.
pub(crate) fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The lines of the fragment that the kernel's own rules did not leave in its configuration.
fn dropped<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let lines = fragment
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("CONFIG_"));
    let taken = |line: &str| match line.strip_suffix("=n") {
        Some(name) => {
            let set = format!("{name}=");
            !config.lines().any(|line| line.starts_with(&set))
        }
        None => config.lines().any(|taken| taken == line),
    };
    lines.filter(|line| !taken(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_the_kernel_drops_is_found() {
        let fragment =
            "# CONFIG_NO=y\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=n\nCONFIG_E=20\n";
        let config = "CONFIG_A=y\nCONFIG_BB=y\n# CONFIG_C is not set\nCONFIG_D=y\nCONFIG_E=17\n";
        assert_eq!(
            dropped(fragment, config),
            ["CONFIG_B=y", "CONFIG_D=n", "CONFIG_E=20"]
        );
    }
}
