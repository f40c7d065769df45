// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A C program that is compiled against the kernel's headers prints the same numbers as our structures and constants have.

use fakes::header::{self, Numbers};

use crate::{Flags, Opcode, Status, descriptor, record};

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

/// What a name of ours is in C.
fn in_c(name: &str) -> String {
    match name.split_once('.') {
        Some((structure, field)) => format!("offsetof(struct {structure}, {field})"),
        None if name.starts_with(|c: char| c.is_ascii_uppercase()) => name.to_owned(),
        None => format!("sizeof(struct {name})"),
    }
}

#[test]
fn structures_and_numbers_are_those_of_the_kernels_header() {
    const HEADER: &str = "linux/idxd.h";
    let Some(headers) = header::directory_of(HEADER) else {
        println!("skipped: no {HEADER}; Debian's linux-libc-dev has it");
        return;
    };
    let ours = ours();
    let expressions = ours.keys().map(|name| (name.clone(), in_c(name)));
    let theirs = header::values(&headers, &[HEADER], expressions).unwrap();
    assert_eq!(ours, theirs);
}
