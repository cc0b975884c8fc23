//! What `sluicemq bench` can be told.

use clap::Args as ClapArgs;

use crate::bench::target::Target;

/// The load to make.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The broker: amqp://user:password@host:port/vhost, with %2f for the vhost /
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    pub url: String,

    /// Connections that publish
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub producers: u16,

    /// Connections that consume; 0 leaves the queues to fill
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=10_000))]
    pub consumers: u16,

    /// Queues, shared out among producers and consumers; they are deleted at the end
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub queues: u16,

    /// Bytes of a message; from 16 on each carries what tells loss, order and latency, from 8 on loss and order
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(..=536_870_912))]
    pub size: u32,

    /// Acknowledge every Kth delivery, with all before it
    #[arg(long, value_name = "K", default_value_t = 100, conflicts_with = "auto_ack")]
    pub ack_every: u16,

    /// Let the broker take a delivery for acknowledged when it is sent
    #[arg(long)]
    pub auto_ack: bool,

    /// Deliveries a consumer may hold unacknowledged; 0 sets no limit
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub prefetch: u16,

    /// Publish with confirms, at most 10000 outstanding for each producer
    #[arg(long)]
    pub confirms: bool,

    /// Publish with confirms, at most N outstanding for each producer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub confirm_window: Option<u32>,

    /// Publish persistent messages to durable queues
    #[arg(long)]
    pub persistent: bool,

    /// Messages a second from all producers together; 0 publishes as fast as the broker takes them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,

    /// How long to publish; what is queued then is still consumed
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// Checks what no single argument can tell.
    ///
    /// # Errors
    /// One sentence for the person.
    pub fn check(&self) -> Result<(), String> {
        Target::parse(&self.url).map_err(|error| format!("{error:#}"))?;
        if !self.auto_ack && self.ack_every == 0 {
            return Err("--ack-every must be at least 1; --auto-ack never acknowledges".to_owned());
        }
        if !self.auto_ack && self.prefetch != 0 && self.ack_every > self.prefetch {
            let (every, prefetch) = (self.ack_every, self.prefetch);
            return Err(format!(
                "--ack-every {every} is more than --prefetch {prefetch}: no delivery would ever be acknowledged"
            ));
        }
        Ok(())
    }

    /// Outstanding confirms of each producer, if it is to ask for them.
    pub fn window(&self) -> Option<u32> {
        const WINDOW_DEFAULT: u32 = 10_000;
        self.confirm_window.or(self.confirms.then_some(WINDOW_DEFAULT))
    }
}
