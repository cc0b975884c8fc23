//! The binary: parses arguments, starts tracing, runs.

use std::sync::Arc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let mut config = sluicemq::config::Config::default();
    if let Some(a) = std::env::args().nth(1) {
        config.listeners = vec![a.parse()?];
    }
    sluicemq::net::serve(Arc::new(config), async {
        let _ = tokio::signal::ctrl_c().await;
    })
    .await?;
    Ok(())
}
