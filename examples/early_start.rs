// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A pin that is started early and joined late, so that the rest of a boot goes on meanwhile.
//!
//! ```text
//!  one after the other:  pin ─────────► kernel image, vCPUs, device backend ─► run
//!  started early:        pin ────────────────────────────────► join ─► run
//!                        kernel image, vCPUs, device backend ────┘
//! ```
//!
//! Boots some times either way, and prints how long the pin, the other work and the whole took in the quickest boot.
//! What is gained is the time in which the boot waits for others, and CPUs that would be idle; where there are none of
//! both, it is nothing.
//!
//! ```text
//! early_start [--target io-uring|type1|iommufd] [--device 0000:00:02.0] [--size MIB] [--boots NUMBER] [--bad-kernel]
//! ```
//!
//! With `io-uring` it runs on any machine. With `--bad-kernel` the boot fails while memory is being pinned, and the pin
//! is cancelled.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use std::{
    env, fmt,
    hash::{DefaultHasher, Hasher},
    io::Read,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{MIB, Result};
use iommufd_ioctls::IommuFd;
use kvm_ioctls::{Kvm, VcpuFd};
use parapin::{
    IoUring, OpsTarget, PinErrorKind, PinHandle, Pinned, Pinner, Regions, Target, regions_of,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where the kernel image is put.
const KERNEL: u64 = MIB;
const VCPUS: u64 = 4;

fn main() -> ExitCode {
    if common::flag("--backend") {
        thread::sleep(Backend::TIME);
        println!("ready");
        return ExitCode::SUCCESS;
    }
    common::exit(run())
}

fn run() -> Result<()> {
    let ops: Arc<dyn VfioOps> = match common::value("--target").as_deref() {
        None | Some("io-uring") => return compare(&IoUring),
        Some("type1") => Arc::new(VfioContainer::new(None)?),
        Some("iommufd") => Arc::new(VfioIommufd::new(Arc::new(IommuFd::new()?), None, None)?),
        Some(other) => return Err(format!("no such target: {other}").into()),
    };
    // Attached before memory is mapped: without a device nothing would be pinned yet.
    let _device = VfioDevice::new(&common::device()?, Arc::clone(&ops), true)?;
    compare(&OpsTarget::new(ops)?)
}

fn compare<T>(target: &T) -> Result<()>
where
    T: Target + Clone + Send + 'static,
    T::Session: 'static,
{
    let mut image = Image::new(memory_size()? / 4);
    if common::flag("--bad-kernel") {
        image.hash ^= 1;
        return boot_early(target, &image).map(drop);
    }
    // The first touch of a machine's memory may take longer than any later one: this boot does not count.
    boot_in_turn(target, &image)?;
    let (mut in_turn, mut early) = (Vec::new(), Vec::new());
    for _ in 0..common::value("--boots").map_or(Ok(5), |number| number.parse())? {
        in_turn.push(boot_in_turn(target, &image)?);
        early.push(boot_early(target, &image)?);
    }
    for (order, boots) in [("one after the other", in_turn), ("started early", early)] {
        let quickest = boots.iter().min_by_key(|times| times.whole);
        println!("{order}: {}", quickest.ok_or("no boot was asked for")?);
    }
    Ok(())
}

fn boot_in_turn<T: Target>(target: &T, image: &Image) -> Result<Times> {
    let begin = Instant::now();
    let memory = guest_memory()?;
    let pinned = Pinner::new().pin(target, &regions(&memory)?)?;
    let other = other_work(&memory, image, || ())?;
    Ok(Times::of(&pinned, &other, begin))
}

fn boot_early<T>(target: &T, image: &Image) -> Result<Times>
where
    T: Target + Clone + Send + 'static,
    T::Session: 'static,
{
    let begin = Instant::now();
    // Before the handle, so that it is dropped after it: a job that is dropped is undone.
    let memory = guest_memory()?;
    let pin = Pinner::new().start(target.clone(), &regions(&memory)?)?;
    let other = match other_work(&memory, image, || tell(&pin)) {
        Ok(done) => done,
        Err(error) => {
            give_up(pin)?;
            return Err(error);
        }
    };
    // The memory must be pinned before the guest runs and uses its device.
    let pinned = pin.join()?;
    Ok(Times::of(&pinned, &other, begin))
}

/// Cancels the pin of a boot that failed. Dropping the handle does so too, and tells nobody.
fn give_up<T: Target>(pin: PinHandle<T>) -> Result<()> {
    pin.cancel();
    match pin.join() {
        // It was too late to cancel: dropping the guard unpins.
        Ok(pinned) => drop(pinned),
        Err(error) if error.kind() == PinErrorKind::Cancelled => {
            println!("pin cancelled, {} chunks undone", error.chunks_undone());
        }
        Err(error) => return Err(error.into()),
    }
    println!("the kernel counts {}", common::pinned_by_kernel()?);
    Ok(())
}

fn tell<T: Target>(pin: &PinHandle<T>) {
    match pin.progress() {
        Some(now) => println!("  pinned {} of {} MiB", now.done / MIB, now.total / MIB),
        None => println!("  no progress told yet"),
    }
}

/// What a boot does beside the pin, and how long that took.
struct Other {
    _vcpus: Vec<VcpuFd>,
    time: Duration,
    waited: Duration,
}

/// Puts the kernel into the guest's memory, though that is being pinned, makes the vCPUs, and waits for a device
/// backend such as virtiofsd or swtpm. `between` is called between these steps.
fn other_work(memory: &GuestMemoryMmap, image: &Image, between: impl Fn()) -> Result<Other> {
    let begin = Instant::now();
    let mut backend = Backend::start()?;
    memory.write_slice(&image.bytes, GuestAddress(KERNEL))?;
    between();
    if image.measured() != image.hash {
        return Err("the kernel image is not the one that shall be booted".into());
    }
    between();
    let vcpus = vcpus()?;
    let before = Instant::now();
    backend.ready()?;
    between();
    Ok(Other {
        _vcpus: vcpus,
        time: begin.elapsed(),
        waited: before.elapsed(),
    })
}

/// A process of its own, which only stands for one: it sleeps until it is ready, and prints so.
struct Backend(Child);

impl Backend {
    const TIME: Duration = Duration::from_millis(200);

    fn start() -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        Ok(Self(
            command.arg("--backend").stdout(Stdio::piped()).spawn()?,
        ))
    }

    fn ready(&mut self) -> Result<()> {
        let output = self.0.stdout.as_mut().ok_or("the backend has no output")?;
        output.read_exact(&mut [0])?;
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// None where there is no KVM; that much less is done then.
fn vcpus() -> Result<Vec<VcpuFd>> {
    let Ok(kvm) = Kvm::new() else {
        return Ok(Vec::new());
    };
    let vm = kvm.create_vm()?;
    let vcpus = (0..VCPUS).map(|id| vm.create_vcpu(id));
    Ok(vcpus.collect::<std::result::Result<_, _>>()?)
}

fn memory_size() -> Result<usize> {
    let mib: usize = common::value("--size").map_or(Ok(1024), |size| size.parse())?;
    Ok(mib << 20)
}

fn guest_memory() -> Result<GuestMemoryMmap> {
    let all = (GuestAddress(0), memory_size()?);
    Ok(GuestMemoryMmap::from_ranges(&[all])?)
}

fn regions(memory: &GuestMemoryMmap) -> Result<Regions> {
    #[expect(
        unsafe_code,
        reason = "only the VMM can promise what a device may do to its memory"
    )]
    // SAFETY: both boots drop the memory after the handle and the guard, and access it only through `vm-memory`.
    let regions = unsafe { regions_of(memory) }?;
    Ok(Regions::new(regions)?)
}

/// What the guest boots, kernel and initramfs, and the hash that it must have.
struct Image {
    bytes: Vec<u8>,
    hash: u64,
}

impl Image {
    fn new(size: usize) -> Self {
        let mut image = Self {
            bytes: Vec::from_iter(0..=u8::MAX).repeat(size / 256),
            hash: 0,
        };
        image.hash = image.measured();
        image
    }

    /// Stands for the hash that a measured boot takes.
    fn measured(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.bytes);
        hasher.finish()
    }
}

/// How long the parts of a boot took.
struct Times {
    pin: Duration,
    other: Duration,
    waited: Duration,
    whole: Duration,
}

impl Times {
    fn of<T: Target>(pinned: &Pinned<T>, other: &Other, begin: Instant) -> Self {
        Self {
            pin: pinned.report().job.time,
            other: other.time,
            waited: other.waited,
            whole: begin.elapsed(),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pin {} ms, other work {} ms ({} ms of them waiting), whole boot {} ms",
            self.pin.as_millis(),
            self.other.as_millis(),
            self.waited.as_millis(),
            self.whole.as_millis()
        )
    }
}
