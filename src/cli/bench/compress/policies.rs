// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What to do when queues are full: every policy against what QEMU does, on queues of several rates, alone and shared.
//!
//! | row | baseline | value | target |
//! |---|---|---|---|
//! | `policy/P rate=R alone` | `retry`, QEMU's | time for a page of all channels together, one device of R GB/s | |
//! | `policy/P rate=R shared` | the same | others hold most of its queue, and have half of its time | |
//! | `policy/P iaa` | the same | on the real queues | |
//!
//! `retry` against itself shows what a difference has to be to mean anything.

use idxd::{iaa::Coding, model::Tenants};
use migration::Policy;
use parapin::bench::{Compare, Outcome, Row, Skipped};

use super::{
    Settings,
    devices::{Devices, Known, Lane, Wanted},
    pages::Pages,
    work::{Work, Worked},
};
use crate::cli::bench::table::Table;

/// GB/s of the model's device: slower than the CPUs, about as fast as these, and faster.
const RATES: [f64; 3] = [0.2, 0.8, 3.2];
/// Others on the queue.
const SHARED: Tenants = Tenants {
    entries: 96,
    share: 0.5,
    full_one_in: 4,
};
/// Pages of a call.
const CALL: usize = 512;

pub(super) fn measure(
    table: &mut Table<'_>,
    settings: &Settings<'_>,
    devices: &Devices,
    pages: &Pages,
    (coding, known): (&Coding, &Known),
) {
    let scene = |name, count, rate, tenants| Scene {
        name,
        wanted: Wanted {
            count,
            rate,
            tenants,
        },
        devices,
        pages,
        coding,
        known,
    };
    let scenes: Vec<Scene<'_>> = match devices {
        Devices::Queues(queues) => {
            vec![scene("iaa".to_owned(), queues.len(), 0.0, Tenants::NONE)]
        }
        Devices::Model => RATES
            .into_iter()
            .flat_map(|rate| [("alone", rate, Tenants::NONE), ("shared", rate, SHARED)])
            .map(|(who, rate, tenants)| scene(format!("rate={rate} {who}"), 1, rate, tenants))
            .collect(),
    };
    for scene in scenes {
        scene.measure(table, settings);
    }
}

/// Queues in a condition.
struct Scene<'a> {
    name: String,
    wanted: Wanted,
    devices: &'a Devices,
    pages: &'a Pages,
    coding: &'a Coding,
    known: &'a Known,
}

impl Scene<'_> {
    fn measure(&self, table: &mut Table<'_>, settings: &Settings<'_>) {
        let retry = self.lane(Policy::Retry);
        for policy in settings.args.policies() {
            let row = Row {
                name: format!("compress/policy/{policy} {}", self.name),
                unit: "ns",
                bytes: None,
                compare: Compare::SpeedUp,
                target: None,
            };
            let lane = self.lane(policy);
            let mut total = Worked::default();
            let mut value = || {
                let worked = self.work(settings, &lane)?;
                total.add(&worked);
                Ok(worked.wall_nanos_a_page())
            };
            let mut baseline =
                || -> Outcome { Ok(self.work(settings, &retry)?.wall_nanos_a_page()) };
            let selected = table.measure(row, Some(&mut baseline), &mut value);
            if selected && total.report.pages > 0 {
                let percent = total.report.by_device as f64 * 100.0 / total.report.pages as f64;
                table.note(format!(
                    "  {policy} {}: {percent:.1} % by the device, {:.0} ns of CPU a page",
                    self.name,
                    total.cpu_nanos_a_page()
                ));
            }
        }
    }

    fn lane(&self, policy: Policy) -> Result<Lane, Skipped> {
        self.devices
            .open(&self.wanted, policy, self.coding, self.known)
    }

    fn work(
        &self,
        settings: &Settings<'_>,
        lane: &Result<Lane, Skipped>,
    ) -> Result<Worked, Skipped> {
        let lane = lane.as_ref().map_err(Clone::clone)?;
        let work = Work {
            codec: &lane.codec,
            pages: self.pages,
            bodies: None,
            channels: usize::from(settings.args.channels),
            call: CALL,
            time: settings.time,
        };
        work.run()
    }
}
