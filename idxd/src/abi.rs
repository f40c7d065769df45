// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A C program that is compiled against the kernel's headers prints the same numbers as our structures and constants have.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Flags, Opcode, Status, descriptor, record};

type Numbers = BTreeMap<String, u64>;

fn ours() -> Numbers {
    let layouts = descriptor::layout()
        .into_iter()
        .chain(record::layout())
        .map(|(name, value)| (name.to_owned(), value as u64));
    let opcodes = [
        ("DSA_OPCODE_NOOP", Opcode::Noop),
        ("DSA_OPCODE_BATCH", Opcode::Batch),
        ("DSA_OPCODE_DRAIN", Opcode::Drain),
        ("DSA_OPCODE_MEMFILL", Opcode::Memfill),
        ("DSA_OPCODE_COMPVAL", Opcode::Compval),
        ("IAX_OPCODE_DECOMPRESS", Opcode::Decompress),
        ("IAX_OPCODE_COMPRESS", Opcode::Compress),
    ]
    .map(|(name, opcode)| (name.to_owned(), opcode as u64));
    let flags = [
        ("IDXD_OP_FLAG_FENCE", Flags::FENCE),
        ("IDXD_OP_FLAG_BOF", Flags::BLOCK_ON_FAULT),
        ("IDXD_OP_FLAG_CRAV", Flags::COMPLETION_ADDRESS_VALID),
        ("IDXD_OP_FLAG_RCR", Flags::REQUEST_COMPLETION_RECORD),
        ("IDXD_OP_FLAG_RCI", Flags::REQUEST_COMPLETION_INTERRUPT),
        ("IDXD_OP_FLAG_CRSTS", Flags::STEER_COMPLETION_RECORD),
        ("IDXD_OP_FLAG_CR", Flags::CHECK_RESULT),
        ("IDXD_OP_FLAG_CC", Flags::CACHE_CONTROL),
        ("IDXD_OP_FLAG_RD_SRC2_AECS", Flags::READ_SOURCE_2_AECS),
    ]
    .map(|(name, flag)| (name.to_owned(), u64::from(flag.bits())));
    let statuses = [
        ("DSA_COMP_NONE", Status::NONE),
        ("DSA_COMP_SUCCESS", Status::SUCCESS),
        ("DSA_COMP_SUCCESS_PRED", Status::SUCCESS_PRED),
        ("DSA_COMP_PAGE_FAULT_NOBOF", Status::PAGE_FAULT_NOBOF),
        ("DSA_COMP_PAGE_FAULT_IR", Status::PAGE_FAULT_IR),
        ("DSA_COMP_BATCH_FAIL", Status::BATCH_FAIL),
        ("DSA_COMP_BATCH_PAGE_FAULT", Status::BATCH_PAGE_FAULT),
        ("DSA_COMP_BAD_OPCODE", Status::BAD_OPCODE),
        ("DSA_COMP_INVALID_FLAGS", Status::INVALID_FLAGS),
        ("DSA_COMP_NOZERO_RESERVE", Status::NOZERO_RESERVE),
        ("DSA_COMP_XFER_ERANGE", Status::XFER_ERANGE),
        ("DSA_COMP_DESC_CNT_ERANGE", Status::DESC_CNT_ERANGE),
        ("DSA_COMP_DESCLIST_ALIGN", Status::DESCLIST_ALIGN),
        ("DSA_COMP_CRA_ALIGN", Status::CRA_ALIGN),
        ("DSA_COMP_ADDR_ALIGN", Status::ADDR_ALIGN),
        ("DSA_COMP_HW_ERR1", Status::HW_ERR1),
        ("IAX_COMP_ANALYTICS_ERROR", Status::ANALYTICS_ERROR),
        ("IAX_COMP_OUTBUF_OVERFLOW", Status::OUTBUF_OVERFLOW),
    ]
    .map(|(name, status)| (name.to_owned(), u64::from(status.code())));
    layouts
        .chain(opcodes)
        .chain(flags)
        .chain(statuses)
        .chain([("DSA_COMP_STATUS_MASK".to_owned(), 0x7f)])
        .collect()
}

/// A C program that prints the value of each name.
fn program(names: impl Iterator<Item = String>) -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/idxd.h>\nint main(void) {\n",
    );
    for name in names {
        let value = match name.split_once('.') {
            Some((structure, field)) => format!("offsetof(struct {structure}, {field})"),
            None if name.starts_with(|c: char| c.is_ascii_uppercase()) => name.clone(),
            None => format!("sizeof(struct {name})"),
        };
        text += &format!("printf(\"{name} %llu\\n\", (unsigned long long)({value}));\n");
    }
    text + "return 0;\n}\n"
}

fn theirs(headers: &Path, ours: &Numbers) -> Numbers {
    let dir = env::temp_dir().join(format!("parapin-idxd-abi-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (source, binary) = (dir.join("abi.c"), dir.join("abi"));
    fs::write(&source, program(ours.keys().cloned())).unwrap();
    let compiled = Command::new("cc")
        .arg("-isystem")
        .arg(headers)
        .args([&source, Path::new("-o"), &binary])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compiled.stderr).into_owned();
    assert!(compiled.status.success(), "{errors}");
    let printed = Command::new(&binary).output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    String::from_utf8(printed.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn structures_and_numbers_are_those_of_the_kernels_header() {
    let given = env::var_os("PARAPIN_KERNEL_HEADERS").map(PathBuf::from);
    let headers = given.unwrap_or_else(|| "/usr/include".into());
    if !headers.join("linux/idxd.h").exists() {
        println!("skipped: no linux/idxd.h; Debian's linux-libc-dev has it");
        return;
    }
    let ours = ours();
    assert_eq!(ours, theirs(&headers, &ours));
}
