// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A helper that sleeps in the kernel is told of, with where the kernel has it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    io::Read,
    num::NonZeroUsize,
    os::unix::net::UnixStream,
    sync::{Barrier, Mutex},
    time::Duration,
};

use pinning::{Alarm, Allowance, Chunk, Constraints, Crew, Job, Plan, Range, Watch, Work};
use rustix::thread::gettid;

const MIB: u64 = 1 << 20;

/// The helper reads from a socket that nobody writes to, until it is closed.
struct Reads {
    begun: Barrier,
    socket: Mutex<UnixStream>,
    helper: Mutex<Option<(i32, u64)>>,
}

impl Work for Reads {
    type Error = Infallible;

    fn run(&self, chunk: Chunk, worker: usize) -> Result<(), Infallible> {
        self.begun.wait();
        if worker == 1 {
            let thread = gettid().as_raw_nonzero().get();
            *self.helper.lock().unwrap() = Some((thread, chunk.start()));
            let _ = self.socket.lock().unwrap().read(&mut [0]);
        }
        Ok(())
    }

    fn undo(&self, _: Chunk) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn a_sleeping_helper_is_told_of_again_and_again() {
    let mut job = Job::new([Range::new(0, 2 * MIB, 4096).unwrap()]).unwrap();
    (job.min_chunk, job.max_chunk) = (MIB, MIB);
    let budget = Allowance {
        threads: NonZeroUsize::new(2).unwrap(),
        limited_by: "affinity",
    };
    let plan = Plan::new(&job, &Constraints::default(), &budget).unwrap();
    let (reader, writer) = UnixStream::pair().unwrap();
    let work = Reads {
        begun: Barrier::new(2),
        socket: Mutex::new(reader),
        helper: Mutex::new(None),
    };
    let mut writer: Option<UnixStream> = Some(writer);
    let after = Duration::from_millis(200);
    let mut told = Vec::new();
    let mut call = |stuck: &pinning::Stuck<'_>| {
        told.push((
            stuck.worker,
            stuck.thread,
            stuck.at,
            stuck.time,
            stuck.state,
            stuck.wchan.map(str::to_owned),
            stuck.to_string(),
        ));
        if told.len() == 2 {
            // The helper reads the end of the stream, and the job goes on.
            drop(writer.take());
        }
    };
    let watch = Watch {
        alarm: Some(Alarm {
            after,
            call: &mut call,
        }),
        ..Watch::default()
    };
    let crew = Crew::new(1, 0);
    let finished = pinning::run(&plan, Some(&crew), &work, watch).unwrap();
    assert_eq!(finished.report.bytes, 2 * MIB);
    assert_eq!(told.len(), 2, "{told:?}");
    let (thread, start) = work.helper.into_inner().unwrap().unwrap();
    for (nth, (worker, tid, at, time, state, wchan, text)) in told.iter().enumerate() {
        assert_eq!((*worker, *tid, *at), (1, thread, Some((start, MIB))));
        assert!(
            *time >= after * (u32::try_from(nth).unwrap() + 1),
            "{time:?}"
        );
        assert_eq!(*state, Some('S'));
        // Hidden where the kernel gives no names away (kptr_restrict does not matter, missing KALLSYMS does).
        let wchan = wchan.as_deref().unwrap();
        assert!(wchan.contains("unix_stream"), "{wchan}");
        assert!(
            text.contains(wchan) && text.contains(&thread.to_string()),
            "{text}"
        );
    }
}
