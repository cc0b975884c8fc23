//! A client that speaks AMQP over any stream, and waits for each answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use sluicemq::protocol::frame::{self, FRAME_END, PROTOCOL_HEADER};
use sluicemq::protocol::methods::{
    BasicGet, BasicPublish, ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk,
    ConnectionTuneOk, Method, QueueDeclare,
};
use sluicemq::protocol::table::Table;

use crate::authority::Pair;

/// A broker that says nothing for so long, and should, has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const QUEUE: &str = "of-tls";
const FRAME_BYTES_MAX: u32 = 131_072;

pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// How a client does its handshake.
#[derive(Clone)]
pub(crate) struct Trust {
    roots: RootCertStore,
    own: Option<(Vec<CertificateDer<'static>>, String)>,
    versions: Vec<&'static SupportedProtocolVersion>,
    pub(crate) speaks: Vec<Vec<u8>>,
}

impl Trust {
    /// Who is signed by this authority is believed.
    pub(crate) fn of(authority: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate"))
            .expect("an authority");
        Self { roots, own: None, versions: rustls::ALL_VERSIONS.to_vec(), speaks: Vec::new() }
    }

    /// Shows this certificate.
    pub(crate) fn with(mut self, pair: &Pair) -> Self {
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
            .map(|one| one.expect("a certificate"));
        self.own = Some((chain.collect(), pair.key.clone()));
        self
    }

    /// Speaks this version alone.
    pub(crate) fn speaking(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Does the handshake, to its end on both sides: with TLS 1.3 a client hears afterwards that it is refused.
    pub(crate) fn connect(&self, address: SocketAddr, host: &str) -> io::Result<Secured> {
        self.shake(socket(address)?, host)
    }

    /// The same with a socket that is there already.
    pub(crate) fn shake(&self, mut socket: TcpStream, host: &str) -> io::Result<Secured> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&self.versions).expect("versions that there are");
        let builder = builder.with_root_certificates(self.roots.clone());
        let mut config = match &self.own {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.clone(), key).expect("a pair")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.speaks);
        let name = ServerName::try_from(host.to_owned()).expect("a host's name");
        let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(tls, socket))
    }
}

/// A socket that does not wait for ever.
pub(crate) fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One connection.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    input: BytesMut,
}

impl<S: Read + Write> Client<S> {
    /// Says the protocol's header: the mechanisms that are offered.
    pub(crate) fn begin(stream: S) -> io::Result<(Self, String)> {
        let mut client = Self { stream, input: BytesMut::new() };
        client.stream.write_all(&PROTOCOL_HEADER)?;
        let offered = client.hear(|method| match method {
            Method::ConnectionStart(start) => Some(String::from_utf8_lossy(start.mechanisms).into_owned()),
            _ => None,
        })?;
        Ok((client, offered))
    }

    /// Logs in, and opens a channel.
    pub(crate) fn log_in(mut self, mechanism: &str, response: &[u8]) -> io::Result<Self> {
        let client_properties = Table::EMPTY;
        self.say(
            0,
            &Method::ConnectionStartOk(ConnectionStartOk {
                client_properties,
                mechanism,
                response,
                locale: "en_US",
            }),
        )?;
        self.hear(|method| matches!(method, Method::ConnectionTune(_)).then_some(()))?;
        let tune_ok = ConnectionTuneOk { channel_max: 2047, frame_max: FRAME_BYTES_MAX, heartbeat: 0 };
        self.say(0, &Method::ConnectionTuneOk(tune_ok))?;
        self.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }))?;
        self.hear(|method| matches!(method, Method::ConnectionOpenOk(_)).then_some(()))?;
        self.say(1, &Method::ChannelOpen(ChannelOpen {}))?;
        self.hear(|method| matches!(method, Method::ChannelOpenOk(_)).then_some(()))?;
        Ok(self)
    }

    /// Asks something, and waits for the answer.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        let declare = QueueDeclare {
            queue: QUEUE,
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: Table::EMPTY,
        };
        self.say(1, &Method::QueueDeclare(declare))?;
        self.hear(|method| matches!(method, Method::QueueDeclareOk(_)).then_some(()))
    }

    /// Takes leave, and waits until the other side has ended it.
    pub(crate) fn close(mut self) -> io::Result<()> {
        let close = ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
        self.say(0, &Method::ConnectionClose(close))?;
        self.hear(|method| matches!(method, Method::ConnectionCloseOk(_)).then_some(()))?;
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }

    /// Publishes to the queue of [`Client::ask`].
    pub(crate) fn publish(&mut self, body: &[u8]) -> io::Result<()> {
        let mut output = BytesMut::new();
        let publish =
            BasicPublish { exchange: b"", routing_key: QUEUE.as_bytes(), mandatory: false, immediate: false };
        frame::put_method(&mut output, 1, &Method::BasicPublish(publish));
        frame::put_header(&mut output, 1, body.len() as u64, &[0, 0]);
        for part in body.chunks(FRAME_BYTES_MAX as usize - 8) {
            frame::put_body_head(&mut output, 1, part.len() as u32);
            output.extend_from_slice(part);
            output.extend_from_slice(&[FRAME_END]);
        }
        self.stream.write_all(&output)?;
        self.stream.flush()
    }

    /// Gets the next message of that queue.
    pub(crate) fn get(&mut self) -> io::Result<Vec<u8>> {
        loop {
            self.say(1, &Method::BasicGet(BasicGet { queue: QUEUE, no_ack: true }))?;
            let is_there = self.hear(|method| match method {
                Method::BasicGetOk(_) => Some(true),
                Method::BasicGetEmpty(_) => Some(false),
                _ => None,
            })?;
            if is_there {
                break;
            }
        }
        let (mut body, mut size) = (Vec::new(), None);
        while size.is_none_or(|size| body.len() < size) {
            let frame = self.hear_frame()?;
            let payload = &frame[7..frame.len() - 1];
            match size {
                None => size = Some(u64::from_be_bytes(payload[4..12].try_into().expect("a size")) as usize),
                Some(_) => body.extend_from_slice(payload),
            }
        }
        Ok(body)
    }

    fn say(&mut self, channel: u16, method: &Method<'_>) -> io::Result<()> {
        let mut output = BytesMut::new();
        frame::put_method(&mut output, channel, method);
        self.stream.write_all(&output)?;
        self.stream.flush()
    }

    /// The next method, which must be the one that is waited for.
    fn hear<T>(&mut self, wanted: impl Fn(&Method<'_>) -> Option<T>) -> io::Result<T> {
        let frame = self.hear_frame()?;
        let method = Method::parse(&frame[7..frame.len() - 1]).expect("a method");
        wanted(&method).ok_or_else(|| io::Error::other(format!("{method:?}")))
    }

    /// The next frame, whole.
    fn hear_frame(&mut self) -> io::Result<BytesMut> {
        loop {
            let whole =
                frame::peek(&self.input, FRAME_BYTES_MAX).expect("frames").map(|frame| frame.wire_bytes());
            if let Some(bytes) = whole {
                return Ok(self.input.split_to(bytes));
            }
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }
}
