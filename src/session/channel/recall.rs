//! What an exchange remembers, on its way to what was just bound to it: published once more, as it was, so many messages
//! in a turn.

use std::sync::Arc;

use crate::broker::error::BrokerError;
use crate::broker::exchange::{Destination, Exchange};
use crate::broker::history::Remembered;
use crate::broker::route::Targets;
use crate::broker::vhost::Recalled;
use crate::message::record::Content;
use crate::protocol::properties::Properties;
use crate::protocol::table::Table;
use crate::session::channel::content;
use crate::session::channel::publish::{find_targets, publish_again};
use crate::session::link::Link;

/// Publishes remembered messages, the oldest first, as far as this turn goes, and takes them out.
pub fn recall_some(link: &mut Link, recalled: &mut Recalled) {
    if recalled.destination.is_deleted() {
        recalled.past.clear();
    }
    while !link.wakes.is_turn_over()
        && let Some(message) = recalled.past.pop_front()
    {
        link.wakes.count(1);
        let found = match &recalled.destination {
            Destination::Queue(queue) => Ok(Targets::from([Arc::clone(queue)])),
            Destination::Exchange(exchange) => find_behind(link, exchange, &message),
        };
        // What patterns would keep for too long was refused to its publisher as well.
        if let Ok(targets) = found
            && !targets.is_empty()
        {
            link.has_published = true;
            publish_again(link, &targets, &message);
        }
    }
}

/// Where an exchange sends a message that it gets now.
fn find_behind(
    link: &mut Link,
    exchange: &Arc<Exchange>,
    message: &Arc<Remembered>,
) -> Result<Targets, BrokerError> {
    let properties = Properties::unchecked(&message.properties);
    let headers = properties.headers().unwrap_or(Table::EMPTY);
    let more_keys = content::more_keys(headers).unwrap_or_default();
    let published = Content { names: message.names.view(), properties: &message.properties, body: &[] };
    find_targets(link, exchange, &published, &more_keys.keys, properties, &|| Arc::clone(message))
}
