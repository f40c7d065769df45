// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! [`Devices`]: real queues of IAAs, or a model of them that answers by the clock; and the codecs over them.
//!
//! ```text
//!  pages ── model as fast as it can, once ──► Known: what each page becomes ─┐
//!                                                                            ▼
//!  channels ──► PageCodec ──► queues ──► model by the clock: copies what is known, so that it leaves the CPUs to channels
//! ```

use std::{sync::Arc, time::Duration};

use idxd::{
    Opcode, Queue,
    iaa::{Aecs, Coding},
    model::{Device, Model, Output, PreparedOutputs, Rate, Tenants},
};
use migration::{IaaOptions, PageCodec, PageFormat, Policy};
use parapin::bench::Skipped;

use super::{
    args::CodingName,
    pages::{Bodies, PAGE, Pages},
};

/// What takes descriptors.
#[derive(Debug, Clone)]
pub(super) enum Devices {
    Model,
    Queues(Vec<Arc<Queue>>),
}

/// How many devices there are, and of the model what they are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) count: usize,
    /// GB/s of each.
    pub(super) rate: f64,
    pub(super) tenants: Tenants,
}

/// A codec over queues, and who answers if nobody else does.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) codec: PageCodec,
    _model: Option<Model>,
}

impl Devices {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Queues(_) => "iaa",
        }
    }

    /// A codec over so many devices, of which those of the model write what is known.
    pub(super) fn open(
        &self,
        wanted: &Wanted,
        policy: Policy,
        coding: &Coding,
        known: &Known,
    ) -> Result<Lane, Skipped> {
        match self {
            Self::Model => {
                let devices = (0..wanted.count).map(|index| {
                    Device::new(format!("model{index}"), Device::IAA_LIMITS)
                        .rate(Rate::bytes_per_second(wanted.rate * 1e9))
                        .tenants(wanted.tenants)
                        .can_generate_headers()
                        .prepared_outputs(known.outputs())
                });
                model(devices.collect(), policy, coding)
            }
            Self::Queues(queues) => queues_of(queues, wanted.count, policy, coding),
        }
    }

    /// A codec over one device that computes what it writes.
    pub(super) fn computing(&self, coding: &Coding) -> Result<Lane, Skipped> {
        // Nothing is to fall to the CPU.
        let policy = Policy::Wait;
        match self {
            Self::Model => {
                let device = Device::new("model", Device::IAA_LIMITS).can_generate_headers();
                model(vec![device], policy, coding)
            }
            Self::Queues(queues) => queues_of(queues, 1, policy, coding),
        }
    }
}

fn model(devices: Vec<Device>, policy: Policy, coding: &Coding) -> Result<Lane, Skipped> {
    let count = devices.len();
    let model = Model::start(devices)?;
    let queues: Result<Vec<_>, _> = (0..count).map(|device| model.open(device)).collect();
    let mut options = IaaOptions::default().with_policy(policy);
    // Its thread may have to wait for a CPU, as no device has to.
    options.patience = Duration::from_secs(5);
    Ok(Lane {
        codec: codec(queues?, options, coding)?,
        _model: Some(model),
    })
}

fn queues_of(
    queues: &[Arc<Queue>],
    count: usize,
    policy: Policy,
    coding: &Coding,
) -> Result<Lane, Skipped> {
    let some = queues.get(..count).ok_or_else(|| {
        Skipped::for_reason(format!(
            "{count} queues are needed, {} can be used",
            queues.len()
        ))
    })?;
    let options = IaaOptions::default().with_policy(policy);
    Ok(Lane {
        codec: codec(some.to_vec(), options, coding)?,
        _model: None,
    })
}

fn codec(
    queues: Vec<Arc<Queue>>,
    options: IaaOptions,
    coding: &Coding,
) -> Result<PageCodec, Skipped> {
    let codec = PageCodec::iaa(queues, options)?;
    Ok(codec.safe_for_iaa(true).coding(coding.clone()))
}

/// The codes of that name, if need be made for the pages.
pub(super) fn coding(name: CodingName, pages: &Pages) -> Result<Coding, Skipped> {
    Ok(match name {
        CodingName::Fixed => Coding::Tables(Aecs::fixed()),
        CodingName::Canned => Coding::Tables(Aecs::trained(pages.iter())?),
        CodingName::Generated => Coding::Generated,
    })
}

/// What becomes of each page, both ways.
#[derive(Debug)]
pub(super) struct Known {
    compressed: Arc<[Output]>,
    restored: Arc<[Output]>,
    block: u64,
    guest: u64,
    /// What there is to be restored: streams of software that an IAA can decode.
    pub(super) bodies: Bodies,
}

impl Known {
    /// As a model with that coding compresses them; nothing for real devices, which compute.
    pub(super) fn new(devices: &Devices, coding: &Coding, pages: &Pages) -> Result<Self, Skipped> {
        let output = |bytes: &[u8]| Output {
            bytes: Arc::from(bytes),
            // Nobody asks for it.
            crc: 0,
        };
        let (compressed, restored) = match devices {
            Devices::Model => {
                let lane = devices.computing(coding)?;
                let bodies = Bodies::of(&lane.codec, pages)?;
                let compressed = bodies.iter().map(output).collect();
                (compressed, pages.iter().map(output).collect())
            }
            Devices::Queues(_) => (Arc::default(), Arc::default()),
        };
        let software = PageCodec::software(PageFormat::Deflate).safe_for_iaa(true);
        Ok(Self {
            compressed,
            restored,
            block: pages.block.source().address(),
            guest: pages.guest.address(),
            bodies: Bodies::of(&software, pages)?,
        })
    }

    fn outputs(&self) -> PreparedOutputs {
        let (compressed, restored) = (Arc::clone(&self.compressed), Arc::clone(&self.restored));
        let (block, guest) = (self.block, self.guest);
        Arc::new(move |descriptor| {
            let is_compress = descriptor.opcode() == Opcode::Compress as u8;
            let (outputs, address, start) = match is_compress {
                true => (&compressed, descriptor.src_addr(), block),
                false => (&restored, descriptor.dst_addr(), guest),
            };
            let page = usize::try_from(address.wrapping_sub(start)).ok()? / PAGE;
            outputs.get(page).cloned()
        })
    }
}
