//! basic.return: mandatory messages that nobody takes go back to their publisher.

use crate::broker::publish::Lost;
use crate::broker::wakes::HOLD_STEPS;
use crate::message::record::{BodyView, MessageView};
use crate::protocol::methods::{BasicReturn, Method};
use crate::protocol::reply::ReplyCode;
use crate::session::channel::content::Shown;
use crate::session::link::Link;
use crate::session::unroutable::{Returns, Unroutable};

/// Sends some of these back, as far as this turn goes. `true` when that is all.
pub fn return_some(link: &mut Link, channel: u16, returns: &mut Returns) -> bool {
    for _ in 0..HOLD_STEPS {
        let Some(first) = returns.take_first() else { return true };
        link.wakes.count(1);
        match first {
            Unroutable::Never { names, properties, body, charge: _charge } => {
                let (names, body) = (names.view(), BodyView::Chunks(&body));
                send_return(link, channel, &MessageView { names, properties: &properties, body });
            }
            Unroutable::NoLonger(Lost { run, .. }) => {
                for message in run.messages() {
                    let properties = &*Shown::of(run.marks()).properties(message.properties);
                    send_return(link, channel, &MessageView { properties, ..message });
                }
            }
        }
    }
    false
}

/// Sends a message back to its publisher.
pub(super) fn send_return(link: &mut Link, channel: u16, message: &MessageView<'_>) {
    let method = BasicReturn {
        reply_code: ReplyCode::NoRoute.code(),
        reply_text: ReplyCode::NoRoute.name(),
        exchange: message.names.exchange(),
        routing_key: message.names.routing_key(),
    };
    link.send_return(channel, &Method::BasicReturn(method), message);
}
