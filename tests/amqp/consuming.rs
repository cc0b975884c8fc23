//! Consumers: how many messages they hold, whose turn it is, when they go.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicAck, BasicCancel, BasicConsume, BasicQos, BasicQosOk, Method, QueueDeclare,
};
use sluicemq::protocol::table::TableBuf;

use crate::harness::broker::{OwnBroker, only_here, unique};
use crate::harness::client::Client;
use crate::harness::login::Login;
use crate::harness::methods::{consume, queue_declare, queue_delete};

/// Nothing is on its way to the client: what it asks is answered first.
fn expect_nothing(client: &mut Client) {
    client.barrier();
    client.barrier();
}

#[test]
fn each_consumer_has_a_prefetch_of_its_own() {
    let mut client = Client::open();
    let queue = client.queue();
    client.qos(2, false);
    client.consume_as(BasicConsume { consumer_tag: "one", ..consume(&queue) });
    client.consume_as(BasicConsume { consumer_tag: "two", ..consume(&queue) });
    client.put_all(&queue, &["1", "2", "3", "4", "5", "6"]);
    let mut held: Vec<String> = (0..4).map(|_| client.delivery().consumer_tag().to_owned()).collect();
    held.sort();
    assert_eq!(held, ["one", "one", "two", "two"]);
    expect_nothing(&mut client);
}

/// A channel whose consumers share a prefetch of two, and hold it.
fn with_shared_prefetch() -> (Client, String) {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2", "3", "4", "5"]);
    client.qos(2, true);
    client.consume_as(BasicConsume { consumer_tag: "one", ..consume(&queue) });
    assert_eq!(client.bodies(2), ["1", "2"]);
    client.consume_as(BasicConsume { consumer_tag: "two", ..consume(&queue) });
    expect_nothing(&mut client);
    (client, queue)
}

#[test]
fn a_channel_can_have_one_for_all_consumers() {
    let (mut client, _) = with_shared_prefetch();
    client.ack(1);
    assert_eq!(client.bodies(1), ["3"]);
    expect_nothing(&mut client);
    client.ack_through(3);
    assert_eq!(client.bodies(2), ["4", "5"]);
}

/// Consumes at a priority.
fn consume_at(client: &mut Client, priority: i32, queue: &str, consumer_tag: &str) {
    let mut arguments = TableBuf::new();
    arguments.insert("x-priority", Field::I32(priority));
    let consume = BasicConsume { consumer_tag, arguments: arguments.as_table(), ..consume(queue) };
    client.consume_as(consume);
}

/// Acknowledges one delivery after the other; who had them.
fn serve(client: &mut Client, messages: usize) -> Vec<String> {
    let served = (0..messages).map(|_| {
        let delivery = client.delivery();
        client.ack(delivery.tag());
        delivery.consumer_tag().to_owned()
    });
    served.collect()
}

#[test]
fn a_channels_prefetch_goes_to_the_highest_priority() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["m"; 30]);
    client.qos(1, true);
    consume_at(&mut client, 0, &queue, "low");
    let first = client.delivery().tag();
    consume_at(&mut client, 5, &queue, "high");
    client.ack(first);
    assert_eq!(serve(&mut client, 29), ["high"; 29]);
}

#[test]
fn a_priority_takes_no_more_of_a_channels_prefetch_from_another_queue() {
    let mut client = Client::open();
    let (one, other) = (client.queue(), client.queue());
    client.fill(&one, &["m"; 40]);
    client.fill(&other, &["m"; 40]);
    client.qos(1, true);
    consume_at(&mut client, 5, &one, "high");
    let first = client.delivery().tag();
    consume_at(&mut client, 0, &one, "low");
    consume_at(&mut client, 0, &other, "other");
    client.ack(first);
    let served = serve(&mut client, 40);
    let count = |tag| served.iter().filter(|served| *served == tag).count();
    assert_eq!(count("low"), 0);
    assert!(count("high").abs_diff(count("other")) < 10, "{served:?}");
}

#[test]
fn a_later_prefetch_for_consumers_ends_the_channels() {
    let (mut client, _) = with_shared_prefetch();
    let qos = BasicQos { prefetch_size: 0, prefetch_count: 10, global: false };
    client.call(&Method::BasicQos(qos), &Method::BasicQosOk(BasicQosOk {}));
    assert_eq!(client.bodies(3), ["3", "4", "5"]);
}

#[test]
fn a_channels_prefetch_can_be_raised_under_way() {
    let (mut client, _) = with_shared_prefetch();
    client.qos(3, true);
    assert_eq!(client.bodies(1), ["3"]);
    client.qos(0, true);
    assert_eq!(client.bodies(2), ["4", "5"], "zero is no limit");
}

#[test]
fn both_limits_hold_together() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2", "3", "4"]);
    client.qos(1, false);
    client.qos(3, true);
    client.consume(&queue);
    assert_eq!(client.bodies(1), ["1"]);
    expect_nothing(&mut client);
    client.ack(1);
    assert_eq!(client.bodies(1), ["2"]);
}

#[test]
fn a_consumer_without_acknowledgement_ignores_its_prefetch() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2", "3"]);
    client.qos(1, false);
    client.consume_as(BasicConsume { no_ack: true, ..consume(&queue) });
    assert_eq!(client.bodies(3), ["1", "2", "3"]);
    assert_eq!(client.counts(&queue), (0, 1));
}

#[test]
fn get_ignores_prefetch_and_does_not_count_in_the_channels() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2", "3", "4", "5"]);
    client.qos(1, true);
    client.get(&queue).unwrap();
    client.get(&queue).unwrap();
    client.consume(&queue);
    assert_eq!(client.bodies(1), ["3"]);
    client.ack(1);
    client.requeue(2);
    expect_nothing(&mut client);
    client.ack(3);
    assert_eq!(client.bodies(1), ["2"]);
}

#[test]
fn what_was_got_before_a_channel_had_a_limit_does_not_count_either() {
    if !only_here("RabbitMQ counts it, and never forgets it again") {
        return;
    }
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2", "3", "4"]);
    client.get(&queue).unwrap();
    client.qos(1, true);
    client.consume(&queue);
    assert_eq!(client.bodies(1), ["2"]);
    client.ack(1);
    expect_nothing(&mut client);
    client.qos(2, true);
    assert_eq!(client.bodies(1), ["3"]);
}

#[test]
fn what_goes_back_makes_room_again() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1", "2"]);
    client.qos(1, false);
    client.consume(&queue);
    client.delivery();
    client.requeue(1);
    let again = client.delivery();
    assert_eq!((again.text(), again.is_redelivered()), ("1", true));
    client.ack(2);
    assert_eq!(client.bodies(1), ["2"]);
}

#[test]
fn consumers_without_acknowledgements_take_turns() {
    let mut client = Client::open();
    let queue = client.queue();
    let no_ack = |tag| BasicConsume { consumer_tag: tag, no_ack: true, ..consume(&queue) };
    client.consume_as(no_ack("one"));
    client.consume_as(no_ack("two"));
    client.put_all(&queue, &["1", "2", "3", "4"]);
    let turns: Vec<_> = (0..4).map(|_| client.delivery().consumer_tag().to_owned()).collect();
    assert_eq!(turns[..2], turns[2..]);
    assert_ne!(turns[0], turns[1]);
}

#[test]
fn competing_consumers_take_turns() {
    let mut client = Client::open();
    let queue = client.queue();
    for tag in ["one", "two", "three"] {
        client.consume_as(BasicConsume { consumer_tag: tag, ..consume(&queue) });
    }
    client.put_all(&queue, &["1", "2", "3", "4", "5", "6"]);
    let turns: Vec<String> = (0..6).map(|_| client.delivery().consumer_tag().to_owned()).collect();
    for tag in ["one", "two", "three"] {
        assert_eq!(turns.iter().filter(|turn| *turn == tag).count(), 2, "{turns:?}");
    }
    assert_eq!(turns[..3], turns[3..], "in the same order each round");
}

fn consume_with_priority(client: &mut Client, queue: &str, tag: &str, priority: Field<'_>) {
    let mut arguments = TableBuf::new();
    arguments.insert("x-priority", priority);
    client.consume_as(BasicConsume { consumer_tag: tag, arguments: arguments.as_table(), ..consume(queue) });
}

#[test]
fn the_highest_priority_that_has_room_is_served() {
    let mut client = Client::open();
    let queue = client.queue();
    client.qos(2, false);
    consume_with_priority(&mut client, &queue, "low", Field::I32(-1));
    client.consume_as(BasicConsume { consumer_tag: "middle", ..consume(&queue) });
    consume_with_priority(&mut client, &queue, "high", Field::I8(10));
    client.put_all(&queue, &["1", "2", "3", "4", "5"]);
    let served: Vec<String> = (0..5).map(|_| client.delivery().consumer_tag().to_owned()).collect();
    assert_eq!(served, ["high", "high", "middle", "middle", "low"]);
}

#[test]
fn a_priority_is_an_integer() {
    let mut client = Client::open();
    let queue = client.queue();
    let mut arguments = TableBuf::new();
    arguments.insert("x-priority", Field::LongStr(b"high"));
    let consume = BasicConsume { arguments: arguments.as_table(), ..consume(&queue) };
    let text = format!(
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got \
         longstr\""
    );
    client.check_channel_close(&Method::BasicConsume(consume), 406, &text);
}

#[test]
fn an_exclusive_consumer_is_alone_until_it_goes() {
    let mut client = Client::open();
    let queue = client.queue();
    client.consume_as(BasicConsume { consumer_tag: "alone", exclusive: true, ..consume(&queue) });
    client.open_channel(2);
    let text = format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use");
    client.check_channel_close(&Method::BasicConsume(consume(&queue)), 403, &text);
    client.on(1).cancel("alone");
    client.consume_as(BasicConsume { exclusive: true, ..consume(&queue) });
}

#[test]
fn a_tag_is_made_up_and_free_again_after_cancel() {
    let mut client = Client::open();
    let queue = client.queue();
    let made_up = client.consume(&queue);
    assert!(made_up.starts_with("amq.ctag-"), "{made_up}");
    client.consume_as(BasicConsume { consumer_tag: "mine", ..consume(&queue) });
    client.cancel("mine");
    client.consume_as(BasicConsume { consumer_tag: "mine", ..consume(&queue) });
    client.open_channel(2);
    client.consume_as(BasicConsume { consumer_tag: "mine", ..consume(&queue) });
}

#[test]
fn what_a_cancelled_consumer_holds_stays_its_channels() {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, &["1"]);
    let tag = client.consume(&queue);
    client.delivery();
    client.cancel(&tag);
    assert_eq!(client.counts(&queue), (0, 0));
    client.ack(1);
    client.barrier();
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut client = Client::open();
    let queue = unique("auto");
    client.declare(QueueDeclare { auto_delete: true, ..queue_declare(&queue) });
    client.consume_as(BasicConsume { consumer_tag: "one", ..consume(&queue) });
    client.open_channel(2).consume(&queue);
    client.close_channel();
    client.on(1);
    assert_eq!(client.counts(&queue), (0, 1), "one is left");
    client.cancel("one");
    let passive = Method::QueueDeclare(QueueDeclare { passive: true, ..queue_declare(&queue) });
    client.check_channel_close(&passive, 404, &format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
}

#[test]
fn a_consumer_is_told_when_its_queue_is_deleted() {
    let mut client = Client::open();
    let queue = client.queue();
    client.consume_as(BasicConsume { consumer_tag: "told", ..consume(&queue) });
    client.open_channel(2).send(&Method::QueueDelete(queue_delete(&queue)));
    // The two channels may speak in either order.
    let frames = [client.wire.frame(), client.wire.frame()];
    let cancel = Method::BasicCancel(BasicCancel { consumer_tag: "told", nowait: true });
    assert!(frames.iter().any(|frame| frame.channel == 1 && frame.method() == cancel), "{frames:?}");
    client.on(1).barrier();
}

#[test]
fn a_client_that_cannot_take_it_is_not_told() {
    let mut client = Login { capabilities: &[], ..Login::default() }.connect();
    let queue = client.queue();
    client.consume(&queue);
    client.delete(queue_delete(&queue));
    client.barrier();
}

#[test]
fn a_channel_has_only_so_many_consumers() {
    if !only_here("the limit is this broker's configuration") {
        return;
    }
    let own = OwnBroker::start(|config| config.limits.consumers_per_channel_max = 3);
    let mut client = Client::at(own.address);
    let queue = client.queue();
    for _ in 0..3 {
        client.consume(&queue);
    }
    let text = "NOT_ALLOWED - reached maximum (3) of consumers per channel";
    client.check_connection_close(&Method::BasicConsume(consume(&queue)), 530, text);
}

#[test]
fn an_ack_is_no_reason_to_deliver_twice() {
    let mut client = Client::open();
    let queue = client.queue();
    client.qos(1, false);
    client.consume(&queue);
    client.put_all(&queue, &["1", "2", "3"]);
    for (tag, body) in [(1, "1"), (2, "2"), (3, "3")] {
        let delivery = client.delivery();
        assert_eq!((delivery.tag(), delivery.text(), delivery.is_redelivered()), (tag, body, false));
        client.send(&Method::BasicAck(BasicAck { delivery_tag: tag, multiple: false }));
    }
    expect_nothing(&mut client);
}
