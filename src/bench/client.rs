//! A connection to the broker with one channel: opening it, asking and waiting, then its two halves.
//!
//! Just enough of a client to make load. What runs at full speed works on the halves itself.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use crate::bench::socket::{self, Reader, Writer};
use crate::bench::target::Target;
use crate::protocol::field::Field;
use crate::protocol::frame::{FrameKind, FrameView, PROTOCOL_HEADER, peek, put_method};
use crate::protocol::methods::{
    ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
};
use crate::protocol::table::TableBuf;

/// The channel everything happens on.
pub(super) const CHANNEL: u16 = 1;

/// How long the broker may take for an answer while nothing else happens.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The frame size taken where the broker sets none.
const FRAME_MAX: u32 = 131_072;
/// Free room for each read.
const READ_BYTES: usize = 256 * 1024;

/// An open connection with an open channel.
pub(super) struct Client {
    pub(super) input: Input,
    pub(super) output: Writer,
}

/// The half that reads, with what was read and not yet used.
pub(super) struct Input {
    half: Reader,
    bytes: BytesMut,
    pub(super) frame_max: u32,
}

impl Client {
    /// Connects, logs in and opens the channel.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let place = || format!("cannot connect to {}:{}", target.host, target.port);
        let opened = timeout(ANSWER_TIMEOUT, Self::handshake(target)).await;
        opened.map_err(|_| anyhow!("no answer in time")).flatten().with_context(place)
    }

    async fn handshake(target: &Target) -> anyhow::Result<Self> {
        let (half, output) = socket::connect(&target.host, target.port, target.authority.as_ref()).await?;
        let input = Input { half, bytes: BytesMut::new(), frame_max: FRAME_MAX };
        let mut client = Self { input, output };
        client.output.write(&PROTOCOL_HEADER).await?;
        client.wait(|method| matches!(method, Method::ConnectionStart(_)).then_some(())).await?;

        let properties = properties();
        let response = [b"\0", target.user.as_bytes(), b"\0", target.password.expose()].concat();
        client
            .send(
                0,
                &Method::ConnectionStartOk(ConnectionStartOk {
                    client_properties: properties.as_table(),
                    mechanism: "PLAIN",
                    response: &response,
                    locale: "en_US",
                }),
            )
            .await?;
        let tune = client.wait(|method| match method {
            Method::ConnectionTune(tune) => Some(*tune),
            _ => None,
        });
        let tune = tune.await.context("no word after the login")?;
        if tune.frame_max != 0 {
            client.input.frame_max = tune.frame_max;
        }
        let frame_max = client.input.frame_max;
        let tune_ok = ConnectionTuneOk { channel_max: tune.channel_max, frame_max, heartbeat: 0 };
        client.send(0, &Method::ConnectionTuneOk(tune_ok)).await?;
        client.send(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: &target.vhost })).await?;
        client.wait(|method| matches!(method, Method::ConnectionOpenOk(_)).then_some(())).await?;
        client
            .ask(&Method::ChannelOpen(ChannelOpen), |method| matches!(method, Method::ChannelOpenOk(_)))
            .await?;
        Ok(client)
    }

    /// Sends a method on the channel and waits for its answer.
    pub(super) async fn ask(
        &mut self,
        method: &Method<'_>,
        is_answer: impl Fn(&Method<'_>) -> bool,
    ) -> anyhow::Result<()> {
        self.send(CHANNEL, method).await?;
        let answered = timeout(ANSWER_TIMEOUT, self.wait(|answer| is_answer(answer).then_some(()))).await;
        answered.map_err(|_| anyhow!("no answer in time")).flatten().with_context(|| method.name().to_owned())
    }

    async fn send(&mut self, channel: u16, method: &Method<'_>) -> anyhow::Result<()> {
        let mut frame = BytesMut::new();
        put_method(&mut frame, channel, method);
        Ok(self.output.write(&frame).await?)
    }

    async fn wait<T>(&mut self, pick: impl Fn(&Method<'_>) -> Option<T>) -> anyhow::Result<T> {
        loop {
            let mut picked = None;
            self.input.on_frames(|frame| {
                if frame.kind == FrameKind::Method {
                    let method = Method::parse(frame.payload)?;
                    refuse_close(&method)?;
                    picked = picked.take().or(pick(&method));
                }
                Ok(())
            })?;
            match picked {
                Some(picked) => return Ok(picked),
                None => self.input.read().await?,
            }
        }
    }

    /// Takes leave; a broker that does not answer is left anyway.
    pub(super) async fn close(mut self) {
        const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
        let close = ConnectionClose { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
        let said = async {
            self.send(0, &Method::ConnectionClose(close)).await?;
            self.wait(|method| matches!(method, Method::ConnectionCloseOk(_)).then_some(())).await
        };
        let _ = timeout(CLOSE_TIMEOUT, said).await;
    }
}

impl Input {
    /// Waits for bytes.
    pub(super) async fn read(&mut self) -> anyhow::Result<()> {
        self.bytes.reserve(READ_BYTES);
        match self.half.read(&mut self.bytes).await? {
            0 => bail!("the broker closed the connection without a word"),
            _ => Ok(()),
        }
    }

    /// Calls `on_frame` with each whole frame that was read, where it lies.
    pub(super) fn on_frames(
        &mut self,
        mut on_frame: impl FnMut(FrameView<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut used = 0;
        while let Some(frame) = peek(self.bytes.get(used..).unwrap_or_default(), self.frame_max)? {
            on_frame(frame)?;
            used += frame.wire_bytes();
        }
        self.bytes.advance(used);
        Ok(())
    }
}

/// Who we are, and that we want to be told why a login fails, when to wait and when a consumer is gone.
fn properties() -> TableBuf {
    let mut capabilities = TableBuf::new();
    for name in ["authentication_failure_close", "connection.blocked", "consumer_cancel_notify"] {
        capabilities.insert(name, Field::Bool(true));
    }
    let mut properties = TableBuf::new();
    properties.insert("product", Field::LongStr(b"sluicemq bench"));
    properties.insert("capabilities", Field::Table(capabilities.as_table()));
    properties
}

/// Turns the broker's way of saying no into an error.
pub(super) fn refuse_close(method: &Method<'_>) -> anyhow::Result<()> {
    match method {
        Method::ConnectionClose(close) => {
            bail!("the broker closed the connection: {} {}", close.reply_code, close.reply_text)
        }
        Method::ChannelClose(close) => {
            bail!("the broker closed the channel: {} {}", close.reply_code, close.reply_text)
        }
        _ => Ok(()),
    }
}
