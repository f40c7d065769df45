// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Model`]: the thread that plays all devices, and what it shares with their ports.
//!
//! A device has a list of what was taken and when each is due by its clock. The thread works on what is due, outside of
//! the mutex, and takes note of whose it is, so that a port that is closed waits for that and for nothing else.

use std::{
    collections::VecDeque,
    io, mem,
    num::NonZeroU64,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Behaviour, Counts, Device, EntryFate, bus::Residency, execute::Worker, port::ModelPort,
    tenants::Crowd,
};
use crate::{Descriptor, Limits, Mode, Opcode, Queue, QueueError, sys::Process};

/// The thread takes naps of this length while anything was submitted lately: a submitter then need not wake it, which would
/// be charged to him.
const NAP: Duration = Duration::from_micros(10);
const LATELY: Duration = Duration::from_millis(5);

/// Devices, and the thread that plays them. Dropping it halts them.
#[derive(Debug)]
pub struct Model {
    host: Arc<Host>,
    process: Process,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Host {
    world: Mutex<World>,
    change: Condvar,
}

#[derive(Debug)]
struct World {
    stop: bool,
    /// Whether the thread sleeps until it is woken.
    asleep: bool,
    last_submission: Instant,
    stations: Vec<Station>,
    /// Whose entry is being worked on.
    working_for: Option<u64>,
    ports: u64,
}

/// A device and its queue.
#[derive(Debug)]
struct Station {
    device: Arc<Device>,
    counts: Counts,
    entries: VecDeque<Entry>,
    busy_until: Instant,
    halted: bool,
    crowd: Crowd,
}

#[derive(Debug)]
struct Entry {
    descriptor: Descriptor,
    port: u64,
    due: Instant,
    fate: EntryFate,
}

impl Model {
    /// Starts the devices.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or the kernel is too old to tell a process from its child.
    pub fn start(devices: Vec<Device>) -> io::Result<Self> {
        let process = Process::current()?;
        let now = Instant::now();
        let stations = devices.into_iter().map(|device| Station {
            crowd: Crowd::new(device.tenants),
            device: Arc::new(device),
            counts: Counts::default(),
            entries: VecDeque::new(),
            busy_until: now,
            halted: false,
        });
        let host = Arc::new(Host {
            world: Mutex::new(World {
                stop: false,
                asleep: false,
                last_submission: now,
                stations: stations.collect(),
                working_for: None,
                ports: 0,
            }),
            change: Condvar::new(),
        });
        let played = Arc::clone(&host);
        let thread = thread::Builder::new()
            .name("idxd-model".to_owned())
            .spawn(move || {
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                // A device does not wait for a CPU: where that is allowed, its model comes first. On Linux this is for the
                // thread.
                let _ = rustix::process::setpriority_process(None, -20);
                played.play();
            })?;
        Ok(Self {
            host,
            process,
            thread: Some(thread),
        })
    }

    /// Opens the queue of a device, as another process would: each has its own.
    ///
    /// # Errors
    ///
    /// As for [`Queue::over`].
    ///
    /// # Panics
    ///
    /// If there is no such device.
    pub fn open(&self, device: usize) -> Result<Arc<Queue>, QueueError> {
        let limits = self.host.lock().stations[device].device.limits;
        self.open_as(device, limits)
    }

    /// Opens the queue of a device and believes something else of its limits, as somebody may who was told wrong.
    ///
    /// # Errors
    ///
    /// As for [`Queue::over`].
    ///
    /// # Panics
    ///
    /// If there is no such device.
    pub fn open_as(&self, device: usize, limits: Limits) -> Result<Arc<Queue>, QueueError> {
        let mut world = self.host.lock();
        let name = world.stations[device].device.name.clone();
        world.ports += 1;
        let port = ModelPort::new(Arc::clone(&self.host), device, world.ports, self.process);
        drop(world);
        Queue::over(name, limits, Box::new(port))
    }

    /// What came to a device.
    ///
    /// # Panics
    ///
    /// If there is no such device.
    #[must_use]
    pub fn counts(&self, device: usize) -> Counts {
        self.host.lock().stations[device].counts
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The thread is in the parent.
            mem::forget(self.thread.take());
            return;
        }
        self.host.lock().stop = true;
        self.host.change.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How an offered descriptor is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Taken,
    Full,
    /// As the driver's `write` refuses it.
    Invalid,
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'w>(&self, world: MutexGuard<'w, World>) -> MutexGuard<'w, World> {
        self.change
            .wait(world)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes descriptors until one is answered otherwise.
    pub(super) fn offer(
        &self,
        station: usize,
        port: u64,
        descriptors: &[Descriptor],
        weigh: impl Fn(&Descriptor) -> (u64, u32),
    ) -> (usize, Answer) {
        let now = Instant::now();
        let mut world = self.lock();
        let mut taken = 0;
        let mut answer = Answer::Taken;
        let station = &mut world.stations[station];
        let device = Arc::clone(&station.device);
        let mut behaviour = device.decider();
        for descriptor in descriptors {
            let offered = (descriptor, port);
            answer = station.take(&device, behaviour.as_mut(), offered, now, &weigh);
            if answer != Answer::Taken {
                break;
            }
            taken += 1;
        }
        drop(behaviour);
        world.last_submission = now;
        if mem::take(&mut world.asleep) {
            drop(world);
            self.change.notify_all();
        }
        (taken, answer)
    }

    /// Forgets what that port submitted; when this returns, nothing of it is read or written any more.
    pub(super) fn close(&self, station: usize, port: u64) {
        let mut world = self.lock();
        world.stations[station]
            .entries
            .retain(|entry| entry.port != port);
        while world.working_for == Some(port) {
            world = self.wait(world);
        }
    }

    fn play(&self) {
        let residency = Residency::of_this_process();
        let mut world = self.lock();
        while !world.stop {
            let now = Instant::now();
            if let Some((station, entry)) = world.due(now) {
                world = self.work(world, station, &entry, &residency);
                continue;
            }
            let next = world.next_due();
            if next.is_none() && now.duration_since(world.last_submission) > LATELY {
                world.asleep = true;
                world = self.wait(world);
                continue;
            }
            // What is due and was not worked on waits for something before it.
            let nap = match next.map(|next| next.saturating_duration_since(now)) {
                Some(time) if !time.is_zero() => time.min(NAP),
                _ => NAP,
            };
            drop(world);
            thread::sleep(nap);
            world = self.lock();
        }
    }

    fn work<'w>(
        &'w self,
        mut world: MutexGuard<'w, World>,
        station: usize,
        entry: &Entry,
        residency: &Residency,
    ) -> MutexGuard<'w, World> {
        let device = Arc::clone(&world.stations[station].device);
        world.working_for = Some(entry.port);
        drop(world);
        let working = Working(self);
        let mut worker = Worker {
            device: &device,
            residency,
            counts: Counts::default(),
        };
        // SAFETY: the entry was submitted, and nobody else has it; its port is not closed, since `close` waits for
        // `working_for`.
        #[expect(unsafe_code, reason = "the model works on what was submitted")]
        unsafe {
            worker.work(&entry.descriptor, entry.fate);
        }
        let done = worker.counts;
        drop(working);
        let mut world = self.lock();
        let counts = &mut world.stations[station].counts;
        counts.batches += done.batches;
        counts.descriptors += done.descriptors;
        counts.largest_batch = counts.largest_batch.max(done.largest_batch);
        world
    }
}

/// The thread works on an entry. It ends also where a [`Behaviour`](super::Behaviour) panics: who closes a port waits for it.
struct Working<'h>(&'h Host);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.lock().working_for = None;
        self.0.change.notify_all();
    }
}

impl World {
    /// What is to be worked on now: the first that is due on any device.
    fn due(&mut self, now: Instant) -> Option<(usize, Entry)> {
        for (index, station) in self.stations.iter_mut().enumerate() {
            if station.halted {
                continue;
            }
            let ready = station.entries.iter().enumerate().position(|(at, entry)| {
                // A drain waits for what the same process submitted before.
                let waits = entry.descriptor.opcode() == Opcode::Drain as u8
                    && station
                        .entries
                        .iter()
                        .take(at)
                        .any(|before| before.port == entry.port);
                entry.due <= now && !waits && entry.fate != EntryFate::Silent
            });
            let taken = ready.and_then(|at| Some((at, station.entries.remove(at)?)));
            if let Some((at, entry)) = taken {
                if entry.fate == EntryFate::Halt {
                    station.halted = true;
                    station.entries.insert(at, entry);
                    continue;
                }
                return Some((index, entry));
            }
        }
        None
    }

    fn next_due(&self) -> Option<Instant> {
        self.stations
            .iter()
            .filter(|station| !station.halted)
            .flat_map(|station| &station.entries)
            .filter(|entry| entry.fate != EntryFate::Silent)
            .map(|entry| entry.due)
            .min()
    }
}

impl Station {
    fn take(
        &mut self,
        device: &Device,
        behaviour: &mut dyn Behaviour,
        (descriptor, port): (&Descriptor, u64),
        now: Instant,
        weigh: impl Fn(&Descriptor) -> (u64, u32),
    ) -> Answer {
        let is_batch = descriptor.opcode() == Opcode::Batch as u8;
        let record = device.limits.kind.record_size() as u64;
        let misaligned = descriptor.completion_addr() % record != 0;
        if device.by_write && (is_batch || misaligned) {
            return Answer::Invalid;
        }
        let full = self.entries.len() >= device.limits.size as usize;
        let is_shared = device.limits.mode == Mode::Shared;
        let crowded = is_shared && self.crowd.fills(device.limits.size, self.entries.len());
        if is_shared && (full || crowded || behaviour.is_full()) {
            self.counts.full += 1;
            return Answer::Full;
        }
        self.counts.taken += 1;
        if full || misaligned {
            self.counts.dropped += 1;
            return Answer::Taken;
        }
        let fate = behaviour.entry(descriptor);
        let (bytes, count) = weigh(descriptor);
        let alone = device.rate.time(bytes, count);
        let time = match is_shared && device.tenants.share > 0.0 {
            true => device.tenants.stretch(alone),
            false => alone,
        };
        self.busy_until = self.busy_until.max(now) + time;
        let late = match fate {
            EntryFate::Late(by) => by,
            _ => Duration::ZERO,
        };
        self.entries.push_back(Entry {
            descriptor: *descriptor,
            port,
            due: self.busy_until + late,
            fate,
        });
        Answer::Taken
    }
}
