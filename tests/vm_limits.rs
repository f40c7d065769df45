// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Each limit that a pin can run into: the message names cause and remedy, the exit code is 1, and nothing stays.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edu;
mod machine;

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use edu::{Edu, Via};
use machine::{
    alone, assert_foll_pinned, describe, foll_pinned, json, parapin, parapin_under,
    vm::{DEVICES, expect_kernel, in_vm},
};
use nix::sys::{
    mman::{MapFlags, ProtFlags, mmap_anonymous},
    signal::{Signal, kill},
};
use parapin::{Iova, Mapping, Pages, PinErrorKind, Pinner, Region, Regions, Strategy, Type1};
use serde_json::Value;
use vfio::FaultKind;
use vfio_ioctls::VfioContainer;

const MIB: u64 = 1 << 20;

/// `parapin pin` for the first device, through `via`.
fn pin(via: Via, arguments: &[&str]) -> Command {
    let mut all = vec![
        "pin",
        "--json",
        "--target",
        via.name(),
        "--device",
        DEVICES[0],
    ];
    all.extend(arguments);
    parapin(&all)
}

/// Runs a pin that must fail; the error must say what to change, and nothing may stay pinned on the machine.
fn refused(command: &mut Command, kind: &str) -> Value {
    let before = foll_pinned();
    let output = json(command, 1);
    let error = &output["error"];
    assert_eq!(error["kind"], kind, "{output:#}");
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert!(!error["remedy"].as_str().unwrap().is_empty(), "{output:#}");
    assert_eq!(error["left_pinned_bytes"], 0);
    assert_foll_pinned(before);
    output
}

fn message(output: &Value) -> &str {
    output["error"]["message"].as_str().unwrap()
}

#[test]
fn the_command_line_pins_for_a_device() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        for page in ["4k", "thp", "2m"] {
            let output = json(
                &mut pin(
                    via,
                    &["--size", "64M", "--regions", "2", "--page-size", page],
                ),
                0,
            );
            assert_eq!(output["target"], via.name());
            assert_eq!(output["verified_pinned_bytes"], 64 * MIB, "{output:#}");
            assert_eq!(output["limited_by"], "size", "{output:#}");
            let populates = output["populate_seconds"].as_f64().unwrap() > 0.0;
            assert_eq!(populates, via == Via::Type1, "{output:#}");
        }
    }
}

#[test]
fn addresses_outside_of_the_iommus_are_refused_before_anything_is_touched() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let wide = "0x1000000000000";
        let output = refused(
            &mut pin(via, &["--size", "64M", "--iova", wide]),
            "iova-range",
        );
        assert!(
            message(&output).contains("bits), the region at 0x1000003ffffff"),
            "{output:#}"
        );
        let window = "0xfec00000";
        let output = refused(
            &mut pin(via, &["--size", "64M", "--iova", window]),
            "iova-range",
        );
        assert!(
            message(&output).contains("the interrupt window of x86 (MSI), 0xfee00000..=0xfeefffff"),
            "{output:#}"
        );
        assert_eq!(output["error"]["at"]["iova"], 0xfec0_0000_u64);
        assert!(
            output.get("chunks").is_none(),
            "the job never began: {output:#}"
        );
        let output = refused(
            &mut pin(via, &["--size", "64M", "--iova", "0x100000800"]),
            "misaligned",
        );
        assert!(
            message(&output).contains("not aligned to pages of 0x1000 bytes"),
            "{output:#}"
        );
    }
}

#[test]
fn memlock_is_checked_before_and_explained_in_the_middle() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let device = Device::given_away();
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
    ];
    for via in Via::BOTH {
        let run = |check: &str| {
            let mut arguments = vec![
                "pin",
                "--json",
                "--target",
                via.name(),
                "--device",
                DEVICES[0],
            ];
            arguments.extend(["--size", "256M", "--min-chunk", "4M", "--max-chunk", "8M"]);
            arguments.extend((!check.is_empty()).then_some(check));
            let mut command = Command::new("prlimit");
            command
                .arg(format!("--memlock={0}:{0}", 64 * MIB))
                .args(wrapper)
                .arg(machine::parapin_path())
                .args(arguments);
            command
        };
        let output = refused(&mut run(""), "memlock");
        assert!(message(&output).contains("RLIMIT_MEMLOCK"), "{output:#}");
        assert!(
            output.get("chunks").is_none(),
            "refused before the job: {output:#}"
        );

        expect_kernel("RLIMIT_MEMLOCK");
        let output = refused(&mut run("--no-check"), "memlock");
        assert!(
            output["error"]["chunks_undone"].as_u64().unwrap() >= 3,
            "{output:#}"
        );
        assert!(message(&output).contains("RLIMIT_MEMLOCK"), "{output:#}");
    }
    drop(device);
}

/// The files of the first device, for a while everybody's.
struct Device(Vec<(PathBuf, fs::Permissions)>);

impl Device {
    fn given_away() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let group = fs::read_link(machine::vm::sysfs(DEVICES[0]).join("iommu_group")).unwrap();
        let group = Path::new("/dev/vfio").join(group.file_name().unwrap());
        let nodes = fs::read_dir("/dev/vfio/devices").unwrap();
        let nodes = nodes.map(|node| node.unwrap().path());
        let paths = nodes.chain([
            group,
            "/dev/vfio/vfio".into(),
            "/dev/iommu".into(),
            "/dev/vfio".into(),
            "/dev/vfio/devices".into(),
        ]);
        Self(
            paths
                .map(|path| {
                    let before = fs::metadata(&path).unwrap().permissions();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
                    (path, before)
                })
                .collect(),
        )
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            let _ = fs::set_permissions(path, before.clone());
        }
    }
}

/// Sets a parameter of vfio_iommu_type1 and puts the old value back.
struct EntryLimit(String);

const ENTRY_LIMIT: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

impl EntryLimit {
    fn set(limit: u32) -> Self {
        let before = fs::read_to_string(ENTRY_LIMIT).unwrap();
        fs::write(ENTRY_LIMIT, limit.to_string()).unwrap();
        Self(before.trim().to_owned())
    }
}

impl Drop for EntryLimit {
    fn drop(&mut self) {
        let _ = fs::write(ENTRY_LIMIT, &self.0);
    }
}

#[test]
fn few_map_entries_make_large_chunks_and_too_few_are_refused() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let _limit = EntryLimit::set(8);
    let small = ["--size", "256M", "--min-chunk", "4M", "--max-chunk", "4M"];
    let output = json(&mut pin(Via::Type1, &small), 0);
    assert_eq!(
        output["chunks"], 1,
        "a share of 8 entries, not 64: {output:#}"
    );

    let regions = ["--size", "256M", "--regions", "9"];
    let output = refused(&mut pin(Via::Type1, &regions), "entries");
    assert!(
        message(&output)
            .contains("9 regions need as many map entries, and the container has 8 left")
    );
}

#[test]
fn entries_that_others_use_up_are_explained_in_the_middle() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let limit = EntryLimit::set(20);
    let edu = Edu::open(Via::Type1);
    drop(limit);
    let target = edu.target().strategy(Strategy::Pipeline);
    let memory = Arc::new(Mapping::anonymous(64 * MIB, Pages::Small).unwrap());
    let region = |iova| Region::of_mapping(Arc::clone(&memory), Iova(iova)).unwrap();
    let mut others = Vec::new();
    // The target was asked before these took 18 of the 20 entries.
    for index in 0..18 {
        let regions = Regions::new([region((64 + index) << 30)]).unwrap();
        let mut pinner = Pinner::new().max_chunk(64 * MIB).min_chunk(64 * MIB);
        others.push(
            pinner
                .pin(&edu.target().strategy(Strategy::Serial), &regions)
                .unwrap(),
        );
    }
    let regions = Regions::new((0..4).map(|index| region(index << 30))).unwrap();
    let (before, on_machine) = (Via::Type1.counter(), foll_pinned());
    let error = Pinner::new().pin(&target, &regions).unwrap_err();
    assert_eq!(error.kind(), PinErrorKind::Entries);
    assert_eq!(error.chunks_undone(), 2, "{error}");
    assert!(
        error
            .to_string()
            .contains("the container has no map entry left"),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("dma_entry_limit"));
    assert_eq!(Via::Type1.counter(), before);
    assert_foll_pinned(on_machine);
    // With what is left now, and a target that knows of it, it works.
    others.truncate(10);
    drop(Pinner::new().pin(&edu.target(), &regions).unwrap());
}

/// A region over anonymous memory of a kind that the library does not make itself; it stays until the test ends.
fn mapped(size: u64, flags: MapFlags, protection: ProtFlags) -> Regions {
    let length = NonZeroUsize::new(usize::try_from(size).unwrap()).unwrap();
    let (flags, protection) = (
        flags | MapFlags::MAP_PRIVATE,
        protection | ProtFlags::PROT_READ,
    );
    #[expect(unsafe_code, reason = "memory for a region")]
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { mmap_anonymous(None, length, protection, flags) }.unwrap();
    #[expect(unsafe_code, reason = "the promise about this mapping")]
    // SAFETY: the mapping is never unmapped, and nothing else knows its address. That it may not be writable is what
    // the test is about: the kernel refuses to pin it.
    let region = unsafe { Region::new(Iova(4 << 30), start.as_ptr().cast(), size) }.unwrap();
    Regions::new([region]).unwrap()
}

#[test]
fn a_short_hugetlb_pool_is_refused_and_explained() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        // Without a reservation, as a guest larger than the pool may be.
        let flags = MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB | MapFlags::MAP_NORESERVE;
        let regions = mapped(256 * MIB, flags, ProtFlags::PROT_WRITE);
        let (before, on_machine) = (via.counter(), foll_pinned());
        let error = Pinner::new().pin(&edu.target(), &regions).unwrap_err();
        assert_eq!(error.kind(), PinErrorKind::Hugetlb, "{error}");
        assert!(error.report().is_none(), "refused before the job");

        let mut pinner = Pinner::new()
            .check(false)
            .max_chunk(16 * MIB)
            .min_chunk(8 * MIB);
        let error = pinner.pin(&edu.target(), &regions).unwrap_err();
        assert_eq!(error.kind(), PinErrorKind::Hugetlb, "{error}");
        assert!(
            error
                .to_string()
                .contains("the hugetlb pool has no free page"),
            "{error}"
        );
        assert!(error.remedy().unwrap().contains("nr_hugepages"));
        assert_eq!(via.counter(), before);
        assert_foll_pinned(on_machine);
    }
}

#[test]
fn a_killed_process_leaves_no_pin() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let before = foll_pinned();
    for via in Via::BOTH {
        let mut in_the_middle = 0;
        for round in 0..24u64 {
            let mut child = pin(
                via,
                &["--size", "512M", "--min-chunk", "8M", "--max-chunk", "16M"],
            );
            let mut child = child
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // Not to wait for anything: the moment of the kill is what varies.
            thread::sleep(Duration::from_millis(20 + round * 35));
            in_the_middle += usize::from(foll_pinned() > before);
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = kill(pid, Signal::SIGKILL);
            let status = child.wait().unwrap();
            assert!(status.signal() == Some(9) || status.success(), "{status}");
            assert_foll_pinned(before);
        }
        assert!(
            in_the_middle > 3,
            "{via:?}: killed {in_the_middle} times while pages were pinned"
        );
    }
}

#[test]
fn a_memory_cgroup_is_checked_and_without_the_check_the_kernel_kills() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let group = Group::new("parapin-limits", 128 * MIB);
    for via in Via::BOTH {
        let run = |arguments: &[&str]| {
            let script = format!(
                "echo $$ > {}/cgroup.procs && exec \"$@\"",
                group.0.display()
            );
            let mut all = vec![
                "pin",
                "--json",
                "--target",
                via.name(),
                "--device",
                DEVICES[0],
                "--size",
                "256M",
            ];
            all.extend(arguments);
            parapin_under(&["sh", "-c", &script, "sh"], &all)
        };
        let output = refused(&mut run(&[]), "memcg");
        assert!(message(&output).contains("memory.max"), "{output:#}");

        expect_kernel("oom");
        expect_kernel("Memory cgroup out of memory");
        let before = foll_pinned();
        let output = run(&["--no-check"]).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{}", describe(&output));
        assert_foll_pinned(before);
    }
}

/// A memory cgroup with a limit.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: u64) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(name);
        let _ = fs::create_dir(&path);
        fs::write(path.join("memory.max"), limit.to_string()).unwrap();
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn read_only_memory_is_mapped_for_reading_only() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        let memory =
            [(); 2].map(|()| Arc::new(Mapping::anonymous(32 * MIB, Pages::Small).unwrap()));
        edu::put(&memory[0], 0, 64, 3);
        edu::put(&memory[1], 0, 64, 4);
        let rom = Region::of_mapping(Arc::clone(&memory[0]), Iova(1 << 32))
            .unwrap()
            .read_only();
        let ram = Region::of_mapping(Arc::clone(&memory[1]), Iova(2 << 32)).unwrap();
        let regions = Regions::new([rom, ram]).unwrap();
        let pinned = Pinner::new().pin(&edu.target(), &regions).unwrap();
        edu.copy(Iova(1 << 32), Iova(2 << 32), 64);
        assert!(edu::holds(&memory[1], 0, 64, 3), "the device reads it");
        expect_kernel("DMAR:");
        edu::put(&memory[1], 0, 64, 5);
        edu.copy(Iova(2 << 32), Iova(1 << 32), 64);
        assert!(edu::holds(&memory[0], 0, 64, 3), "and cannot write it");
        drop(pinned);
    }
}

#[test]
fn a_region_of_anything_but_ordinary_memory_is_explained() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    for via in Via::BOTH {
        let edu = Edu::open(via);
        // Mapped read-only, and not said to be: the kernel cannot pin it for writing.
        let regions = mapped(32 * MIB, MapFlags::empty(), ProtFlags::PROT_READ);
        let error = Pinner::new().pin(&edu.target(), &regions).unwrap_err();
        assert_eq!(error.kind(), PinErrorKind::BadAddress, "{error}");
        let serial = edu.target().strategy(Strategy::Serial);
        let error = Pinner::new()
            .check(false)
            .pin(&serial, &regions)
            .unwrap_err();
        assert_eq!(error.kind(), PinErrorKind::BadAddress, "{error}");
    }
}

#[test]
fn two_threads_are_two_and_the_info_is_the_kernels() {
    let _alone = alone();
    if !in_vm() {
        return;
    }
    let container = Arc::new(VfioContainer::new(None).unwrap());
    let unattached = Type1::of_container(Arc::clone(&container)).unwrap_err();
    assert_eq!(unattached.kind, FaultKind::NotAttached, "{unattached}");
    let _edu = Edu::attach(Arc::clone(&container) as _, DEVICES[0]);
    let target = Type1::of_container(container).unwrap();
    assert_eq!(target.info().entries_left(), Some(65535));
    assert!(!target.info().maps_in_parallel());
    assert_eq!(target.info().space().alignment(), 4096);
    assert!(
        target.info().space().ranges().len() >= 2,
        "{:?}",
        target.info()
    );
    assert!(target.info().migration().is_some());
    let memory = Arc::new(Mapping::anonymous(128 * MIB, Pages::Small).unwrap());
    let regions = Regions::new([Region::of_mapping(memory, Iova(1 << 32)).unwrap()]).unwrap();
    let two = NonZeroUsize::new(2).unwrap();
    let pinned = Pinner::new().threads(two).pin(&target, &regions).unwrap();
    assert_eq!(pinned.report().job.threads, 2);
    assert_eq!(pinned.chunks().len(), 4, "in chunks of 32 MiB");
    drop(pinned);
}
