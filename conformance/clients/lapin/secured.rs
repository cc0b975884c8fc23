//! TLS: who the broker is, and who the client is.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use lapin::options::BasicGetOptions;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties, runtime};

use crate::world::*;

pub async fn server_certificate(world: &World) -> Result<()> {
    publish_and_get(world, &connect(world, Some("ca.pem"), None, "localhost").await?).await?;
    refused_with(connect(world, Some("other.pem"), None, "localhost").await, "certificate")
}

pub async fn external(world: &World) -> Result<()> {
    publish_and_get(world, &connect(world, Some("ca.pem"), Some("client"), "localhost").await?).await
}

pub async fn expired(world: &World) -> Result<()> {
    refused_with(connect(world, Some("ca.pem"), Some("expired"), "localhost").await, "")
}

pub async fn wrong_name(world: &World) -> Result<()> {
    refused_with(connect(world, Some("ca.pem"), None, "127.0.0.1").await, "certificate")
}

pub async fn plain(world: &World) -> Result<()> {
    let mut uri = world.uri.clone();
    uri.authority.port = tls_port()?;
    refused_with(world.connect_to(uri).await, "")
}

fn tls_port() -> Result<u16> {
    Ok(std::env::var("CONFORMANCE_TLS_PORT")?.parse()?)
}

async fn connect(world: &World, authority: Option<&str>, own: Option<&str>, host: &str) -> Result<Connection> {
    let folder = PathBuf::from(std::env::var("CONFORMANCE_CERTIFICATES")?);
    let file = |name: &str| std::fs::read(folder.join(name)).with_context(|| name.to_owned());
    let mut uri: AMQPUri = world.uri.clone();
    uri.scheme = AMQPScheme::AMQPS;
    uri.authority.host = host.to_owned();
    uri.authority.port = tls_port()?;
    let mut config = OwnedTLSConfig::default();
    if let Some(authority) = authority {
        config.cert_chain = Some(String::from_utf8(file(authority)?)?);
    }
    if let Some(own) = own {
        let (pem, key) = (file(&format!("{own}.pem"))?, file(&format!("{own}.key"))?);
        config.identity = Some(OwnedIdentity::PKCS8 { pem, key });
        uri.query.auth_mechanism = Some(SASLMechanism::External);
    }
    let connecting =
        Connection::connect_uri_with_config(uri, ConnectionProperties::default(), config, runtime::default_runtime()?);
    Ok(within("connect", connecting).await??)
}

fn refused_with(connected: Result<Connection>, word: &str) -> Result<()> {
    match connected {
        Ok(_) => bail!("it was let in"),
        Err(refused) => {
            let told = format!("{refused:#}");
            ensure!(told.contains(word) && !told.contains("not within"), "{told}");
            Ok(())
        }
    }
}

async fn publish_and_get(world: &World, connection: &Connection) -> Result<()> {
    let channel = channel(connection).await?;
    let queue = world.queue(&channel).await?;
    for body in [b"small".to_vec(), vec![b'l'; 1 << 20]] {
        publish(&channel, "", &queue, &body).await?;
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await?;
        ensure!(got.context("nothing is there")?.data == body);
    }
    Ok(())
}
