//! All producers of a run, opened together and then started together: tasks of this process, or another process.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bench::apart::parent::Apart;
use crate::bench::args::Args;
use crate::bench::client::{Client, Input};
use crate::bench::meter::Meter;
use crate::bench::producer::{Producer, Sent, watch};
use crate::bench::target::Target;
use crate::bench::topology::Topology;

/// Producers that are connected and wait to be started.
pub(super) enum Opened {
    /// In this process.
    Here(Vec<(Producer, Input)>),
    /// In a process of their own.
    Apart(Box<Apart>),
}

/// Producers that publish.
#[derive(Default)]
pub(super) struct Producers {
    /// They end when told, or with an error. With `--apart` one task stands for all producers.
    pub(super) publishing: JoinSet<anyhow::Result<Sent>>,
    /// They end with an error only.
    pub(super) watching: JoinSet<anyhow::Result<()>>,
}

impl Opened {
    /// Opens every connection, here or in the process that the arguments ask for.
    pub(super) async fn open(
        target: &Target,
        topology: &Topology,
        args: &Args,
        meter: &Meter,
    ) -> anyhow::Result<Self> {
        if args.apart {
            return Ok(Self::Apart(Box::new(Apart::open(topology, args, meter).await?)));
        }
        let mut opened = Vec::new();
        for id in 0..args.producers {
            let route = topology.route(id, args.producers);
            opened.push(Producer::open(id, Client::open(target).await?, &route, args).await?);
        }
        Ok(Self::Here(opened))
    }

    /// Lets them publish until told to stop.
    pub(super) fn start(self, meter: &Arc<Meter>, stop: &CancellationToken) -> Producers {
        let mut producers = Producers::default();
        match self {
            Self::Here(opened) => {
                for (producer, input) in opened {
                    producers.watching.spawn(watch(input, producer.confirms(), Arc::clone(meter)));
                    producers.publishing.spawn(producer.run(Arc::clone(meter), stop.clone()));
                }
            }
            Self::Apart(apart) => {
                let (sent, ended) = apart.start(Arc::clone(meter), stop.clone());
                producers.publishing.spawn(sent);
                producers.watching.spawn(ended);
            }
        }
        producers
    }
}
