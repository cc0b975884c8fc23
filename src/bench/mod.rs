//! A load tool for any AMQP 0-9-1 broker: it makes load, measures it, and checks what comes back.

mod args;

pub use crate::bench::args::Args;

/// Runs the load and prints the report; `false` when what came back is not what was sent.
///
/// # Errors
/// The broker cannot be reached, or refuses.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    anyhow::bail!("cannot load {}: not built yet", args.url)
}
