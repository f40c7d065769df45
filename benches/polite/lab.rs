// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where measurements are set up: neighbours first, then the memory that a job will need is given free, then the job.
//!
//! ```text
//!  stock  ██████████████                    ██████████████     touched, so that the host has backed it
//!  job             start ██████████████ end
//!  neighbours   ───────────────────────────
//! ```

use std::{
    cell::{OnceCell, RefCell},
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use cgroup::{Demand, LockRule, MemoryBudget};
use parapin::{Mapping, Pages, bench::Skipped};
use rustix::{
    process::{geteuid, getpriority_process},
    thread::sched_getaffinity,
};

use crate::{
    harness::{self, Bench},
    job::{Job, Sample, Work},
    neighbour::{Neighbour, Neighbours},
    role::{Answer, Place, Role},
};

/// Who does a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Who runs the bench.
    Same,
    Root,
    /// Without any capability.
    Nobody,
    /// With CAP_IPC_LOCK alone: RLIMIT_MEMLOCK, which not even root may raise in some containers, does not stop it.
    NobodyWhoLocks,
}

impl User {
    const NOBODY: [&str; 6] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ];
    const NOBODY_WHO_LOCKS: [&str; 7] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+ipc_lock",
        "--ambient-caps=-all,+ipc_lock",
        "--",
    ];
}

/// Everything that measurements have in common.
pub(crate) struct Lab {
    /// Bytes of a job.
    pub(crate) bytes: u64,
    min_chunk: u64,
    rest: Duration,
    /// Those that this process may use.
    pub(crate) cpus: Vec<usize>,
    stock: RefCell<Result<Stock, Skipped>>,
    /// A copy of this program that every user may execute.
    public: OnceCell<PublicProgram>,
}

impl Lab {
    pub(crate) fn new(bench: &Bench) -> Result<Self, Skipped> {
        // The project's VM has 3 GiB, and is slow.
        let usual = if env::var_os("PARAPIN_VM").is_some() {
            1
        } else {
            2
        };
        let gib = harness::number("PARAPIN_BENCH_GIB").unwrap_or(usual) as u64;
        // A test stays below the usual RLIMIT_MEMLOCK of 8 MiB.
        let bytes = bench.size(gib << 30, 4 << 20);
        let mask = sched_getaffinity(None)?;
        let reporting = bench.size(host_is_told_of_free_pages(), false);
        Ok(Self {
            bytes,
            min_chunk: bench.size(32 << 20, 1 << 20),
            rest: bench.size(Duration::from_millis(1500), Duration::from_millis(20)),
            cpus: (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|&cpu| mask.is_set(cpu))
                .collect(),
            stock: RefCell::new(Stock::new(bytes, reporting)),
            public: OnceCell::new(),
        })
    }

    /// A job of this size in the bench's own place.
    pub(crate) fn job(&self, work: Work) -> Job {
        Job {
            place: Place::default(),
            bytes: self.bytes,
            min_chunk: self.min_chunk,
            probing: false,
            work,
        }
    }

    /// What the neighbours do while there is no job.
    pub(crate) fn rest(&self) -> Work {
        Work::Rest(u64::try_from(self.rest.as_millis()).unwrap_or(0))
    }

    /// A neighbour on every CPU.
    pub(crate) fn neighbours(&self, place: &Place) -> Vec<Neighbour> {
        let on = |&cpu| Neighbour::new(Some(cpu), place.clone());
        self.cpus.iter().map(on).collect()
    }

    /// Has `job` done beside `neighbours`.
    pub(crate) fn measure(
        &self,
        neighbours: &[Neighbour],
        job: &Job,
        user: User,
    ) -> Result<Sample, Skipped> {
        // Everything here is about nice values that differ from the usual one, which children inherit.
        match getpriority_process(None)? {
            0 => {}
            nice => {
                let reason = format!("the bench itself runs at nice {nice}");
                return Err(io::Error::other(reason).into());
            }
        }
        let (program, wrapper) = self.program(user)?;
        let mut command = Role::Job(job.clone()).command(&program, wrapper)?;
        command.stdout(Stdio::piped());
        let mut stock = self.stock.borrow_mut();
        let stock = stock.as_mut().map_err(|reason| reason.clone())?;
        let neighbours = Neighbours::start(neighbours)?;
        command.stdin(neighbours.counters()?);
        stock.lend();
        let output = command
            .spawn()
            .and_then(std::process::Child::wait_with_output);
        drop(neighbours);
        stock.take_back()?;
        let output = output?;
        let answer: Result<Answer, _> = serde_json::from_slice(&output.stdout);
        let answer =
            answer.unwrap_or_else(|_| Err(format!("the job gave no answer ({})", output.status)));
        answer.map_err(|reason| io::Error::other(reason).into())
    }

    fn program(&self, user: User) -> Result<(PathBuf, &'static [&'static str]), Skipped> {
        let program = env::current_exe()?;
        let root = geteuid().is_root();
        match user {
            User::Same => Ok((program, &[])),
            User::Root if root => Ok((program, &[])),
            User::Root => Err(io::Error::other("the bench does not run as root").into()),
            // Without root this process is an ordinary user itself.
            User::Nobody if !root => Ok((program, &[])),
            User::Nobody => Ok((self.public()?, &User::NOBODY)),
            User::NobodyWhoLocks if !root => Err(io::Error::other(
                "only root can give somebody else CAP_IPC_LOCK, without which RLIMIT_MEMLOCK is in the way",
            )
            .into()),
            User::NobodyWhoLocks => Ok((self.public()?, &User::NOBODY_WHO_LOCKS)),
        }
    }

    fn public(&self) -> Result<PathBuf, Skipped> {
        let public = match self.public.get() {
            Some(public) => public,
            None => {
                let made = PublicProgram::new()?;
                self.public.get_or_init(|| made)
            }
        };
        Ok(public.0.clone())
    }
}

/// Memory that the host has backed, given free for as long as a job works.
struct Stock {
    bytes: u64,
    memory: Option<Mapping>,
    /// When pages were given free last.
    freed: Option<Instant>,
    /// Whether the host takes free pages.
    reporting: bool,
}

impl Stock {
    /// The kernel tells the host of free pages this long after the first of them (`PAGE_REPORTING_DELAY` in
    /// mm/page_reporting.c, and a little more).
    const REPORTED_AFTER: Duration = Duration::from_millis(2200);

    /// For jobs of `bytes`, with a quarter more for page tables and what others take.
    ///
    /// # Errors
    /// Where that much may not be had: the kernel would kill the process.
    fn new(bytes: u64, reporting: bool) -> Result<Self, Skipped> {
        let bytes = bytes / 4 * 5;
        let demand = Demand {
            locked: 0,
            rule: LockRule::Exempt,
            fresh: bytes,
            huge: Vec::new(),
        };
        if let Err(shortages) = MemoryBudget::current().check(&demand) {
            return Err(Skipped::because(&shortages[0]));
        }
        Ok(Self {
            bytes,
            memory: None,
            freed: None,
            reporting,
        })
    }

    /// Gives all of it free, when the host has just looked for free pages and will not do so soon.
    fn lend(&mut self) {
        if self.memory.is_none() {
            // The first time.
            let _ = self.take_back();
        }
        if let Some(freed) = self.freed.filter(|_| self.reporting) {
            thread::sleep(Self::REPORTED_AFTER.saturating_sub(freed.elapsed()));
        }
        self.freed = Some(Instant::now());
        self.memory = None;
    }

    /// Touches as much again.
    fn take_back(&mut self) -> Result<(), Skipped> {
        let memory = Mapping::anonymous(self.bytes, Pages::Small)?;
        memory.fill(0, self.bytes, 1);
        self.memory = Some(memory);
        Ok(())
    }
}

/// Whether a virtio balloon reports free pages (`VIRTIO_BALLOON_F_REPORTING`, bit 5 of the features).
fn host_is_told_of_free_pages() -> bool {
    let Ok(balloons) = fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon") else {
        return false;
    };
    balloons.flatten().any(|device| {
        fs::read_to_string(device.path().join("features"))
            .is_ok_and(|features| features.as_bytes().get(5) == Some(&b'1'))
    })
}

/// A copy of this program that every user may execute, wherever the build directory is; removed on drop.
struct PublicProgram(PathBuf);

impl PublicProgram {
    fn new() -> io::Result<Self> {
        let copy = env::temp_dir().join(format!("parapin-polite-{}", std::process::id()));
        let public = Self(copy);
        fs::copy(env::current_exe()?, public.path())?;
        fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755))?;
        Ok(public)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PublicProgram {
    fn drop(&mut self) {
        // Left behind, it is a file in the directory for such.
        let _ = fs::remove_file(&self.0);
    }
}
