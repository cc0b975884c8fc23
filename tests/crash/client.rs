//! A client: a real session without a socket. What it says is heard at once, and whole.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use sluicemq::broker::Broker;
use sluicemq::clock::Now;
use sluicemq::protocol::frame::{self, FrameKind, PROTOCOL_HEADER};
use sluicemq::protocol::header::ContentHeader;
use sluicemq::protocol::methods::{ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method};
use sluicemq::protocol::table::Table;
use sluicemq::session::Session;

use crate::message::{Content, FRAME_MAX};

/// Channels a client uses: 1 to this one.
pub(crate) const CHANNELS: u16 = 2;

/// What a client hears on a channel.
#[derive(Debug)]
pub(crate) enum Heard {
    Confirmed {
        tag: u64,
        multiple: bool,
    },
    Delivered(Delivery),
    /// Any other method: an answer, with the counts in it.
    Answered {
        name: &'static str,
        messages: Option<u32>,
    },
    /// What no workload may bring about.
    Refused(String),
}

#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    /// The consumer's tag, or none when it answers a basic.get.
    pub(crate) consumer: Option<String>,
    pub(crate) content: Content,
}

pub(crate) struct Client {
    session: Session,
    input: BytesMut,
    now: Now,
    heard: VecDeque<(u16, Heard)>,
    unfinished: Option<(u16, Delivery, u64)>,
}

impl Client {
    /// A client that has logged in and opened its channels.
    pub(crate) fn connect(broker: &Arc<Broker>, now: Now) -> Self {
        let session = Session::new(Arc::clone(broker), now);
        let mut client =
            Self { session, input: BytesMut::new(), now, heard: VecDeque::new(), unfinished: None };
        let mut login = BytesMut::from(&PROTOCOL_HEADER[..]);
        let start_ok = ConnectionStartOk {
            client_properties: Table::EMPTY,
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "en_US",
        };
        frame::put_method(&mut login, 0, &Method::ConnectionStartOk(start_ok));
        client.feed(login);
        let credentials = client.session.take_verification().expect("a login to verify");
        let user = broker.login(&credentials, IpAddr::V4(Ipv4Addr::LOCALHOST), now.instant);
        client.session.on_verified(user, now);
        let tune_ok = ConnectionTuneOk { channel_max: 10, frame_max: FRAME_MAX, heartbeat: 0 };
        client.say(0, &Method::ConnectionTuneOk(tune_ok));
        client.say(0, &Method::ConnectionOpen(ConnectionOpen { virtual_host: "/" }));
        assert!(client.session.is_running(), "the login failed");
        for channel in 1..=CHANNELS {
            client.say(channel, &Method::ChannelOpen(ChannelOpen {}));
        }
        client.heard.clear();
        client
    }

    pub(crate) fn say(&mut self, channel: u16, method: &Method<'_>) {
        let mut bytes = BytesMut::new();
        frame::put_method(&mut bytes, channel, method);
        self.feed(bytes);
    }

    /// Everything arrives in one piece.
    pub(crate) fn feed(&mut self, bytes: BytesMut) {
        self.input.unsplit(bytes);
        self.session.on_bytes(&mut self.input, self.now);
        self.listen();
    }

    /// Whether it can say something that is understood at once.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.session.wants_input() && self.input.is_empty()
    }

    /// Whether there is something that it will hear only when it is durable.
    pub(crate) fn has_parked(&self) -> bool {
        !self.session.parked().is_empty()
    }

    /// Lets the session do what it was woken for; whether there was anything.
    pub(crate) fn work(&mut self) -> bool {
        if self.session.poll_work(&mut Context::from_waker(Waker::noop())) == Poll::Pending {
            return false;
        }
        self.session.on_wake(self.now);
        self.session.on_rest(&mut self.input, self.now);
        self.listen();
        true
    }

    pub(crate) fn hear(&mut self) -> Option<(u16, Heard)> {
        self.heard.pop_front()
    }

    fn listen(&mut self) {
        let mut bytes = Vec::new();
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.session.output().fill(&mut slices);
            let before = bytes.len();
            slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
            self.session.output().advance(bytes.len() - before);
            self.session.on_written(self.now);
        }
        let mut at = 0;
        while let Ok(Some(frame)) = frame::peek(&bytes[at..], FRAME_MAX) {
            at += frame.wire_bytes();
            match frame.kind {
                FrameKind::Method => {
                    let method = Method::parse(frame.payload).expect("a method of the broker's");
                    self.on_method(frame.channel, &method);
                }
                FrameKind::Header => {
                    let header = ContentHeader::parse(frame.payload).expect("a content header");
                    let (_, delivery, left) = self.unfinished.as_mut().expect("a method with content");
                    delivery.content.properties = header.properties.to_vec();
                    *left = header.body_bytes;
                    self.finish();
                }
                FrameKind::Body => {
                    let (_, delivery, left) = self.unfinished.as_mut().expect("a method with content");
                    delivery.content.body.extend_from_slice(frame.payload);
                    *left -= frame.payload.len() as u64;
                    self.finish();
                }
                FrameKind::Heartbeat => {}
            }
        }
        assert!(at == bytes.len(), "the session wrote a part of a frame");
    }

    fn finish(&mut self) {
        if let Some((channel, delivery, _)) = self.unfinished.take_if(|(_, _, left)| *left == 0) {
            self.heard.push_back((channel, Heard::Delivered(delivery)));
        }
    }

    fn on_method(&mut self, channel: u16, method: &Method<'_>) {
        let answer = |messages| Heard::Answered { name: method.name(), messages };
        let heard = match method {
            Method::BasicAck(ack) => Heard::Confirmed { tag: ack.delivery_tag, multiple: ack.multiple },
            Method::BasicDeliver(deliver) => {
                let content = content_of(deliver.exchange, deliver.routing_key);
                let consumer = Some(deliver.consumer_tag.to_owned());
                let (tag, redelivered) = (deliver.delivery_tag, deliver.redelivered);
                self.unfinished = Some((channel, Delivery { tag, redelivered, consumer, content }, u64::MAX));
                return;
            }
            Method::BasicGetOk(ok) => {
                let content = content_of(ok.exchange, ok.routing_key);
                let (tag, redelivered) = (ok.delivery_tag, ok.redelivered);
                self.unfinished =
                    Some((channel, Delivery { tag, redelivered, consumer: None, content }, u64::MAX));
                return;
            }
            Method::QueueDeclareOk(ok) => answer(Some(ok.message_count)),
            Method::QueuePurgeOk(ok) => answer(Some(ok.message_count)),
            Method::QueueDeleteOk(ok) => answer(Some(ok.message_count)),
            Method::ChannelClose(_) | Method::ConnectionClose(_) | Method::BasicNack(_) => {
                Heard::Refused(format!("{method:?}"))
            }
            _ => answer(None),
        };
        self.heard.push_back((channel, heard));
    }
}

fn content_of(exchange: &[u8], key: &[u8]) -> Content {
    Content { exchange: exchange.to_vec(), key: key.to_vec(), ..Content::default() }
}
