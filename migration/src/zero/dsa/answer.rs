// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device's completions say about pages, and what is left for the CPU.

use idxd::{Completion, Source, Status, Task};

use super::queues::Shape;
use crate::{Kernel, PageBitmap, Trouble, sys};

/// What is asked of a channel.
#[derive(Debug)]
pub(in crate::zero) struct Asked<'a> {
    pub(in crate::zero) source: &'a Source,
    /// Bytes of a page.
    pub(in crate::zero) size: u64,
    /// Where pages begin in the source; all of them lie inside.
    pub(in crate::zero) offsets: &'a [u64],
    /// The same pages, for the CPU's glance at one word.
    pub(in crate::zero) sampler: sys::Pages<'a>,
    /// Finishes what a device could not.
    pub(in crate::zero) kernel: Kernel,
    /// Descriptors of a batch.
    pub(in crate::zero) batch: usize,
}

impl Asked<'_> {
    /// The pieces of a page: where each begins in it, and its length.
    pub(super) fn pieces(&self, shape: &Shape) -> impl Iterator<Item = (u64, u32)> + use<> {
        let (size, piece) = (self.size, shape.piece);
        (0..shape.pieces as u64).map(move |index| {
            let start = index * piece;
            let len = piece.min(size - start);
            (start, u32::try_from(len).unwrap_or(u32::MAX))
        })
    }

    /// What the CPU says of a page from a byte on.
    pub(super) fn is_zero_from(&self, index: usize, from: u64, len: u64) -> bool {
        if len == 0 {
            return true;
        }
        let offset = self.offsets[index] + from;
        // Outside is impossible, since the batch was checked; data is the answer that loses nothing.
        self.kernel
            .is_zero(self.source, offset, len)
            .unwrap_or(false)
    }
}

/// What became of the pages of a scan.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::zero) struct Done {
    /// Pages that a sampled word showed to be data.
    pub(in crate::zero) sampled: usize,
    /// Pages whose answer came from a device.
    pub(in crate::zero) by_device: usize,
    /// Pages that the CPU looked at, or finished.
    pub(in crate::zero) by_cpu: usize,
    pub(in crate::zero) trouble: Trouble,
}

/// What a completion says of the piece that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Equal,
    Differs,
    /// Equal up to that byte, and nothing is known of it and what follows.
    EqualUpTo(u64),
}

fn said(completion: &Completion, len: u32, trouble: &mut Trouble) -> Said {
    match (completion.status, completion.result) {
        (Status::SUCCESS, 0) => Said::Equal,
        (Status::SUCCESS, 1) => Said::Differs,
        // A difference would have ended it before the fault; a count that cannot be is not believed.
        (status, 0) if status.is_page_fault() && completion.completed <= len => {
            trouble.faults += 1;
            Said::EqualUpTo(u64::from(completion.completed))
        }
        (status, _) => {
            if status.is_page_fault() {
                trouble.faults += 1;
            } else {
                trouble.failed += 1;
            }
            Said::EqualUpTo(0)
        }
    }
}

/// Takes the answers of a task.
pub(super) fn read(
    task: &Task,
    asked: &Asked<'_>,
    shape: &Shape,
    list: &[usize],
    zero: &mut PageBitmap,
    done: &mut Done,
) {
    let mut descriptor = 0;
    for index in list {
        let (mut differs, mut by_cpu) = (false, false);
        for (start, len) in asked.pieces(shape) {
            if !differs {
                match said(&task.completion(descriptor), len, &mut done.trouble) {
                    Said::Equal => {}
                    Said::Differs => differs = true,
                    Said::EqualUpTo(byte) => {
                        by_cpu = true;
                        let rest = u64::from(len) - byte;
                        differs = !asked.is_zero_from(*index, start + byte, rest);
                    }
                }
            }
            descriptor += 1;
        }
        if !differs {
            zero.set(*index);
        }
        if by_cpu {
            done.by_cpu += 1;
        } else {
            done.by_device += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_believed_but_success_and_what_is_in_front_of_a_fault() {
        let completion = |byte: u8, result, completed| Completion {
            status: Status::of_byte(byte),
            result,
            completed,
            fault_addr: 0,
        };
        let table = [
            (completion(0x01, 0, 0), Said::Equal),
            (completion(0x01, 1, 7), Said::Differs),
            (completion(0x01, 2, 0), Said::EqualUpTo(0)),
            (completion(0x03, 0, 512), Said::EqualUpTo(512)),
            (completion(0x83, 0, 4096), Said::EqualUpTo(4096)),
            (completion(0x04, 0, 1), Said::EqualUpTo(1)),
            // These cannot be.
            (completion(0x03, 0, 4097), Said::EqualUpTo(0)),
            (completion(0x03, 1, 512), Said::EqualUpTo(0)),
            (completion(0x00, 0, 0), Said::EqualUpTo(0)),
            (completion(0x02, 0, 0), Said::EqualUpTo(0)),
            (completion(0x81, 0, 0), Said::EqualUpTo(0)),
            (completion(0x20, 0, 4096), Said::EqualUpTo(0)),
        ];
        for (completion, expected) in table {
            let mut trouble = Trouble::default();
            assert_eq!(
                said(&completion, 4096, &mut trouble),
                expected,
                "{completion:?}"
            );
            let is_trouble = !matches!(expected, Said::Equal | Said::Differs);
            assert_eq!(trouble.faults + trouble.failed, u64::from(is_trouble));
        }
    }
}
