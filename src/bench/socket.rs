//! The two halves of a connection, plain or by TLS. Only this file knows which.

use std::io;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::BytesMut;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The half that reads.
pub(super) struct Reader(Box<dyn AsyncRead + Send + Unpin>);

/// The half that writes. Dropped, it ends the connection.
pub(super) struct Writer(Box<dyn AsyncWrite + Send + Sync + Unpin>);

/// Connects, and shakes hands where there is an authority to trust.
pub(super) async fn connect(
    host: &str,
    port: u16,
    authority: Option<&Arc<ClientConfig>>,
) -> anyhow::Result<(Reader, Writer)> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(authority) = authority else {
        let (reader, writer) = stream.into_split();
        return Ok((Reader(Box::new(reader)), Writer(Box::new(writer))));
    };
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(Arc::clone(authority)).connect(name, stream).await?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Reader(Box::new(reader)), Writer(Box::new(writer))))
}

/// What is needed to trust the authorities of a PEM file, and no others.
pub(super) fn trusting(file: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let why = || format!("--ca {file}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(why)? {
        roots.add(certificate.with_context(why)?).with_context(why)?;
    }
    if roots.is_empty() {
        bail!("--ca {file}: there is no certificate in it");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Reader {
    /// Waits for bytes; none when the other side has ended.
    pub(super) async fn read(&mut self, bytes: &mut BytesMut) -> io::Result<usize> {
        self.0.read_buf(bytes).await
    }
}

impl Writer {
    /// Writes all of it, as far as the socket.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        // By TLS what was written may wait for the socket; otherwise this is nothing.
        self.0.flush().await
    }
}
