// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Pages`]: memory that is compared with zero, and what has to come out.

use std::hint::black_box;

use idxd::{Kind, Source, Status, Task};

/// Some pages, of which some have one byte that is not zero.
pub(crate) struct Pages {
    pub(crate) source: Source,
    size: u32,
    differs: Vec<bool>,
}

impl Pages {
    /// `count` pages of `size` bytes.
    pub(crate) fn new(count: usize, size: u32, differs: impl Fn(usize) -> bool) -> Self {
        let differs: Vec<bool> = (0..count).map(differs).collect();
        // Not zeroes from the start: pages that nobody has touched are missing, to a device.
        let mut bytes = vec![1; count * size as usize];
        black_box(&mut bytes).fill(0);
        for (index, page) in bytes.chunks_mut(size as usize).enumerate() {
            if differs[index] {
                page[index * 7919 % size as usize] = 1 << (index % 8);
            }
        }
        Self {
            source: Source::of_vec(bytes).unwrap(),
            size,
            differs,
        }
    }

    /// A task with a comparison for each page.
    pub(crate) fn task(&self) -> Task {
        let mut task = Task::with_capacity(Kind::Dsa, self.differs.len()).unwrap();
        for page in 0..self.differs.len() {
            let offset = page as u64 * u64::from(self.size);
            task.push_compval(&self.source, offset, self.size, 0)
                .unwrap();
        }
        task
    }

    /// What has to come out if every page is answered.
    pub(crate) fn answers(&self) -> Vec<Option<bool>> {
        self.differs.iter().map(|differs| Some(*differs)).collect()
    }
}

/// Of each descriptor whether its page differs; none where there is no answer to be believed.
pub(crate) fn answers(task: &Task) -> Vec<Option<bool>> {
    (0..task.len())
        .map(|index| {
            let said = task.completion(index);
            (said.status == Status::SUCCESS).then_some(said.result != 0)
        })
        .collect()
}
