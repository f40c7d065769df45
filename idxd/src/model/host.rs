// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Model`]: the thread that plays all devices, and what it shares with their ports.
//!
//! ```text
//!  port ──► Door ──► entries of a device, each due by its clock ──► the thread works on what is due ──► records
//! ```
//!
//! The thread fetches what the doors have taken, works on what is due outside of the mutex, and takes note of whose it is, so that
//! a port that is closed waits for that and for nothing else.

use std::{
    collections::VecDeque,
    io, mem,
    num::NonZeroU64,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Counts, Device, EntryFate,
    bus::Residency,
    door::{Answer, Door, Entry},
    execute::Worker,
    port::ModelPort,
};
use crate::{Descriptor, Limits, Opcode, Queue, QueueError, queue::Birth, sys::Process};

/// The thread takes naps of this length while anything was submitted lately: a submitter then need not wake it, which would
/// be charged to him.
const NAP: Duration = Duration::from_micros(10);
/// Entries that it works on without a look at the others.
const AT_A_TIME: usize = 16;
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
    /// One for each device.
    doors: Vec<Door>,
    /// Whether the thread sleeps until it is woken.
    asleep: AtomicBool,
}

#[derive(Debug)]
struct World {
    stop: bool,
    last_submission: Instant,
    stations: Vec<Station>,
    /// Whose entries are being worked on.
    working_for: Option<u64>,
    /// Ports that are being closed and wait for that.
    closing: usize,
    ports: u64,
}

/// A device and its queue.
#[derive(Debug)]
struct Station {
    device: Arc<Device>,
    counts: Counts,
    entries: VecDeque<Entry>,
    halted: bool,
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
        let devices: Vec<_> = devices.into_iter().map(Arc::new).collect();
        let doors = devices.iter().map(|device| Door::new(Arc::clone(device)));
        let doors = doors.collect();
        let stations = devices.into_iter().map(|device| Station {
            device,
            counts: Counts::default(),
            entries: VecDeque::new(),
            halted: false,
        });
        let host = Arc::new(Host {
            world: Mutex::new(World {
                stop: false,
                last_submission: now,
                stations: stations.collect(),
                working_for: None,
                closing: 0,
                ports: 0,
            }),
            change: Condvar::new(),
            doors,
            asleep: AtomicBool::new(false),
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
        let birth = Birth::now()?;
        let mut world = self.host.lock();
        let played = &world.stations[device].device;
        let (name, generates) = (played.name.clone(), played.generates_headers);
        world.ports += 1;
        let port = ModelPort::new(Arc::clone(&self.host), device, world.ports, self.process);
        drop(world);
        Ok(Queue::born(birth, name, limits, generates, Box::new(port)))
    }

    /// What came to a device.
    ///
    /// # Panics
    ///
    /// If there is no such device.
    #[must_use]
    pub fn counts(&self, device: usize) -> Counts {
        let worked = self.host.lock().stations[device].counts;
        let came = self.host.doors[device].counts();
        Counts {
            taken: came.taken,
            full: came.full,
            dropped: came.dropped,
            ..worked
        }
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
        let answer = self.doors[station].offer(port, descriptors, weigh);
        // The thread says so before it looks into the doors for the last time.
        if self.asleep.swap(false, Ordering::SeqCst) {
            drop(self.lock());
            self.change.notify_all();
        }
        answer
    }

    /// Forgets what that port submitted; when this returns, nothing of it is read or written any more.
    pub(super) fn close(&self, station: usize, port: u64) {
        // The thread fetches under the same mutex: what is not here is there.
        let mut world = self.lock();
        self.doors[station].forget(port);
        let entries = &mut world.stations[station].entries;
        let before = entries.len();
        entries.retain(|entry| entry.port != port);
        self.doors[station].leave(before - entries.len());
        world.closing += 1;
        while world.working_for == Some(port) {
            world = self.wait(world);
        }
        world.closing -= 1;
    }

    fn play(&self) {
        let residency = Residency::of_this_process();
        let mut batch = Vec::with_capacity(AT_A_TIME);
        let mut spare = Vec::new();
        let mut world = self.lock();
        while !world.stop {
            let now = Instant::now();
            let doors = self.doors.iter().zip(&mut world.stations);
            let fetched = doors.fold(false, |any, (door, station)| {
                door.fetch(&mut spare, &mut station.entries) || any
            });
            if fetched {
                world.last_submission = now;
            }
            if let Some(station) = world.due(now, &mut batch) {
                world = self.work(world, station, &mut batch, &residency);
                continue;
            }
            let next = world.next_due();
            if next.is_none() && now.duration_since(world.last_submission) > LATELY {
                self.asleep.store(true, Ordering::SeqCst);
                if !self.doors.iter().any(Door::has_fresh) {
                    world = self.wait(world);
                }
                self.asleep.store(false, Ordering::SeqCst);
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

    /// Works on entries of one port.
    fn work<'w>(
        &'w self,
        mut world: MutexGuard<'w, World>,
        station: usize,
        batch: &mut Vec<Entry>,
        residency: &Residency,
    ) -> MutexGuard<'w, World> {
        let device = Arc::clone(&world.stations[station].device);
        // There is room before a record says so.
        self.doors[station].leave(batch.len());
        world.working_for = batch.first().map(|entry| entry.port);
        drop(world);
        let working = Working(self);
        let mut worker = Worker {
            device: &device,
            residency,
            counts: Counts::default(),
        };
        for entry in batch.drain(..) {
            // SAFETY: the entry was submitted, and nobody else has it; its port is not closed, since `close` waits for
            // `working_for`.
            #[expect(unsafe_code, reason = "the model works on what was submitted")]
            unsafe {
                worker.work(&entry.descriptor, entry.fate);
            }
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

/// The thread works on entries. It ends also where a [`Behaviour`] panics: who closes a port waits for it.
struct Working<'h>(&'h Host);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut world = self.0.lock();
        world.working_for = None;
        if world.closing > 0 {
            self.0.change.notify_all();
        }
    }
}

impl World {
    /// What is to be worked on now: some that are due on a device, all of one port.
    fn due(&mut self, now: Instant, batch: &mut Vec<Entry>) -> Option<usize> {
        for (index, station) in self.stations.iter_mut().enumerate() {
            while batch.len() < AT_A_TIME {
                let port = batch.first().map(|entry: &Entry| entry.port);
                match station.take_due(now, port) {
                    Some(entry) => batch.push(entry),
                    None => break,
                }
            }
            if !batch.is_empty() {
                return Some(index);
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
    /// The first entry that is due, if it is of that port.
    fn take_due(&mut self, now: Instant, port: Option<u64>) -> Option<Entry> {
        if self.halted {
            return None;
        }
        let at = self.entries.iter().enumerate().position(|(at, entry)| {
            // A drain waits for what the same process submitted before.
            let waits = entry.descriptor.opcode() == Opcode::Drain as u8
                && self
                    .entries
                    .iter()
                    .take(at)
                    .any(|before| before.port == entry.port);
            entry.due <= now && !waits && entry.fate != EntryFate::Silent
        })?;
        let entry = &self.entries[at];
        if entry.fate == EntryFate::Halt {
            self.halted = true;
            return None;
        }
        if port.is_some_and(|port| port != entry.port) {
            return None;
        }
        self.entries.remove(at)
    }
}
