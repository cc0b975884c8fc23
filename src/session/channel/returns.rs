//! basic.return: mandatory messages that nobody takes go back to their publisher.

use crate::message::block::Pieces;
use crate::message::names::NamesBuf;
use crate::message::record::{BodyView, MessageView};
use crate::protocol::methods::{BasicReturn, Method};
use crate::protocol::reply::ReplyCode;
use crate::session::link::Link;

/// A message kept until its transaction commits, to be returned then.
#[derive(Debug)]
pub(super) struct Unroutable {
    pub(super) names: NamesBuf,
    pub(super) properties: Vec<u8>,
    pub(super) body: Pieces,
}

impl Unroutable {
    pub(super) fn view(&self) -> MessageView<'_> {
        MessageView {
            names: self.names.view(),
            properties: &self.properties,
            body: BodyView::Chunks(&self.body),
        }
    }
}

/// Sends a message back to its publisher.
pub(super) fn send_return(link: &mut Link, channel: u16, message: &MessageView<'_>) {
    let method = BasicReturn {
        reply_code: ReplyCode::NoRoute.code(),
        reply_text: ReplyCode::NoRoute.name(),
        exchange: message.names.exchange(),
        routing_key: message.names.routing_key(),
    };
    link.send(channel, &Method::BasicReturn(method));
    link.send_content(channel, message);
}
