//! Acknowledgements and what comes back: tags, order, the redelivered flag, confirms, transactions.

use sluicemq::protocol::field::Field;
use sluicemq::protocol::methods::{
    BasicAck, BasicNack, BasicPublish, BasicRecover, BasicRecoverAsync, BasicRecoverOk, BasicReject, Method,
    QueueDeclare, TxCommit, TxCommitOk, TxRollback, TxRollbackOk, TxSelect, TxSelectOk,
};
use sluicemq::protocol::table::{ArrayBuf, TableBuf};

use crate::dead_letters::dead_letters_to;
use crate::harness::broker::unique;
use crate::harness::client::{Client, NO_PROPERTIES};
use crate::harness::content::{content_frames, properties};
use crate::harness::methods::{publish, queue_declare, queue_delete};
use crate::harness::wire::method_frame;
use crate::rules::queue_with;

/// A client whose queue holds these messages.
fn with_queue(bodies: &[&str]) -> (Client, String) {
    let mut client = Client::open();
    let queue = client.queue();
    client.fill(&queue, bodies);
    (client, queue)
}

fn commit(client: &mut Client) {
    client.call(&Method::TxCommit(TxCommit {}), &Method::TxCommitOk(TxCommitOk {}));
}

fn rollback(client: &mut Client) {
    client.call(&Method::TxRollback(TxRollback {}), &Method::TxRollbackOk(TxRollbackOk {}));
}

fn select(client: &mut Client) {
    client.call(&Method::TxSelect(TxSelect {}), &Method::TxSelectOk(TxSelectOk {}));
}

#[test]
fn tags_begin_at_one_and_are_shared_by_get_and_deliver() {
    let (mut client, queue) = with_queue(&["a", "b", "c"]);
    assert_eq!(client.get(&queue).unwrap().tag(), 1);
    client.consume(&queue);
    assert_eq!((client.delivery().tag(), client.delivery().tag()), (2, 3));
    client.open_channel(2);
    client.on(1).ack_through(3);
    client.barrier();
}

#[test]
fn what_goes_back_goes_to_its_place_and_is_redelivered() {
    let (mut client, queue) = with_queue(&["a", "b", "c", "d"]);
    for _ in 0..3 {
        assert!(!client.get(&queue).unwrap().is_redelivered());
    }
    client.requeue(2);
    client.requeue(1);
    let first = client.take(&queue);
    assert_eq!((first.text(), first.is_redelivered()), ("a", true));
    client.requeue(3);
    for (body, redelivered) in [("b", true), ("c", true), ("d", false)] {
        let next = client.take(&queue);
        assert_eq!((next.text(), next.is_redelivered()), (body, redelivered));
    }
}

#[test]
fn many_go_back_at_once_in_their_order() {
    let (mut client, queue) = with_queue(&["a", "b", "c", "d"]);
    for _ in 0..3 {
        client.get(&queue).unwrap();
    }
    client.requeue_through(2);
    assert_eq!(client.take_all(&queue), ["a", "b", "d"]);
    client.requeue_through(0);
    assert_eq!(client.take_all(&queue), ["c"]);
}

#[test]
fn what_is_rejected_for_good_is_gone() {
    let (mut client, queue) = with_queue(&["a", "b", "c"]);
    for _ in 0..3 {
        client.get(&queue).unwrap();
    }
    client.send(&Method::BasicReject(BasicReject { delivery_tag: 1, requeue: false }));
    client.send(&Method::BasicNack(BasicNack { delivery_tag: 3, multiple: true, requeue: false }));
    client.close_channel();
    client.open_channel(1);
    assert!(client.take_all(&queue).is_empty());
}

#[test]
fn a_channel_that_closes_gives_back_what_it_holds() {
    let (mut client, queue) = with_queue(&["a", "b"]);
    client.open_channel(2).get(&queue).unwrap();
    client.consume(&queue);
    client.delivery();
    client.close_channel();
    client.on(1);
    for body in ["a", "b"] {
        let back = client.take(&queue);
        assert_eq!((back.text(), back.is_redelivered()), (body, true));
    }
}

#[test]
fn a_connection_that_is_lost_gives_back_what_it_holds() {
    let mut owner = Client::open();
    let queue = owner.shared_queue("lost");
    owner.fill(&queue, &["a", "b"]);
    let mut lost = Client::open();
    lost.consume(&queue);
    lost.delivery();
    drop(lost);
    owner.consume(&queue);
    let back = owner.delivery();
    assert_eq!((back.text(), back.is_redelivered()), ("a", true));
    assert_eq!(owner.delivery().text(), "b");
}

#[test]
fn recover_gives_back_all_of_the_channel() {
    let (mut client, queue) = with_queue(&["a", "b"]);
    client.get(&queue).unwrap();
    client.get(&queue).unwrap();
    let recover = Method::BasicRecover(BasicRecover { requeue: true });
    client.call(&recover, &Method::BasicRecoverOk(BasicRecoverOk {}));
    let back = client.get(&queue).unwrap();
    assert_eq!((back.text(), back.is_redelivered(), back.tag()), ("a", true, 3));
    client.send(&Method::BasicRecoverAsync(BasicRecoverAsync { requeue: true }));
    client.barrier();
    assert_eq!(client.take_all(&queue), ["a", "b"]);
}

#[test]
fn recover_redelivers_to_the_consumer() {
    let (mut client, queue) = with_queue(&["a"]);
    client.consume(&queue);
    client.delivery();
    client.send(&Method::BasicRecover(BasicRecover { requeue: true }));
    client.expect(&Method::BasicRecoverOk(BasicRecoverOk {}));
    let again = client.delivery();
    assert_eq!((again.text(), again.is_redelivered(), again.tag()), ("a", true, 2));
}

#[test]
fn get_ok_counts_what_is_left() {
    let (mut client, queue) = with_queue(&["a", "b", "c"]);
    for left in [2, 1, 0] {
        let got = client.take(&queue);
        let Method::BasicGetOk(method) = got.method() else { panic!("{got:?}") };
        assert_eq!(method.message_count, left);
    }
    assert!(client.get(&queue).is_none());
}

#[test]
fn an_ack_after_its_queue_is_gone_is_fine() {
    let (mut client, queue) = with_queue(&["a"]);
    client.get(&queue).unwrap();
    client.delete(queue_delete(&queue));
    client.ack(1);
    client.barrier();
}

#[test]
fn every_publish_is_confirmed_once_and_in_numbers_from_one() {
    let mut client = Client::open();
    let queue = client.queue();
    client.select_confirms();
    client.select_confirms();
    for _ in 0..100 {
        client.put(&queue, "x");
    }
    let mut confirmed = 0;
    while confirmed < 100 {
        let frame = client.next_method();
        let Method::BasicAck(ack) = frame.method() else { panic!("{frame:?}") };
        if ack.multiple {
            assert!(ack.delivery_tag > confirmed);
        } else {
            assert_eq!(ack.delivery_tag, confirmed + 1);
        }
        confirmed = ack.delivery_tag;
    }
    client.barrier();
    assert_eq!(client.counts(&queue), (100, 0), "what is confirmed is in its queue");
}

#[test]
fn an_unroutable_publish_is_confirmed() {
    let mut client = Client::open();
    client.select_confirms();
    client.publish("amq.direct", &unique("nowhere"), "lost");
    client.expect(&Method::BasicAck(BasicAck { delivery_tag: 1, multiple: false }));
}

#[test]
fn a_transaction_publishes_when_it_commits() {
    let mut client = Client::open();
    let queue = client.queue();
    select(&mut client);
    client.put(&queue, "a");
    client.barrier();
    assert_eq!(client.counts(&queue), (0, 0));
    commit(&mut client);
    assert_eq!(client.counts(&queue), (1, 0));
    client.put(&queue, "b");
    rollback(&mut client);
    commit(&mut client);
    assert_eq!(client.take_all(&queue), ["a"]);
}

#[test]
fn a_transaction_settles_when_it_commits() {
    let (mut client, queue) = with_queue(&["a", "b", "c"]);
    select(&mut client);
    for _ in 0..3 {
        client.get(&queue).unwrap();
    }
    client.ack(1);
    client.requeue(2);
    client.barrier();
    assert_eq!(client.counts(&queue), (0, 0), "nothing went back yet");
    commit(&mut client);
    client.close_channel();
    client.open_channel(1);
    assert_eq!(client.take_all(&queue), ["b", "c"]);
}

#[test]
fn a_rollback_takes_acknowledgements_back() {
    let (mut client, queue) = with_queue(&["a", "b"]);
    select(&mut client);
    client.get(&queue).unwrap();
    client.ack(1);
    rollback(&mut client);
    assert_eq!(client.counts(&queue), (1, 0), "unacknowledged again, and not requeued");
    client.ack(1);
    commit(&mut client);
    client.close_channel();
    client.open_channel(1);
    assert_eq!(client.take_all(&queue), ["b"]);
}

#[test]
fn an_open_transaction_is_forgotten_with_its_channel() {
    let (mut client, queue) = with_queue(&["a"]);
    select(&mut client);
    client.get(&queue).unwrap();
    client.ack(1);
    client.put(&queue, "never");
    client.close_channel();
    client.open_channel(1);
    assert_eq!(client.take_all(&queue), ["a"]);
}

#[test]
fn a_transaction_returns_when_it_commits() {
    let mut client = Client::open();
    select(&mut client);
    let nowhere = unique("nowhere");
    client.publish_as(BasicPublish { mandatory: true, ..publish("", &nowhere) }, NO_PROPERTIES, b"back");
    client.barrier();
    client.send(&Method::TxCommit(TxCommit {}));
    assert_eq!(client.returned().text(), "back");
    client.expect(&Method::TxCommitOk(TxCommitOk {}));
}

/// A transaction publishes to a queue that goes before it commits; the queue and the client with the transaction.
fn published_to_what_went(mandatory: bool, bodies: &[&str]) -> (Client, String) {
    let mut client = Client::open();
    let queue = client.shared_queue("went");
    client.open_channel(2);
    select(&mut client);
    for body in bodies {
        let publish = BasicPublish { mandatory, ..publish("", &queue) };
        client.publish_as(publish, NO_PROPERTIES, body.as_bytes());
    }
    client.barrier();
    client.on(1).delete(queue_delete(&queue));
    (client, queue)
}

#[test]
fn what_a_transaction_published_to_a_queue_that_went_is_returned_when_it_commits() {
    let (mut client, queue) = published_to_what_went(true, &["a", "b"]);
    client.declare(QueueDeclare { exclusive: true, ..queue_declare(&format!("not {queue}")) });
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    for body in ["a", "b"] {
        assert_eq!(client.returned().text(), body);
    }
    client.expect(&Method::TxCommitOk(TxCommitOk {}));

    let (mut client, _) = published_to_what_went(false, &["a"]);
    commit(client.on(2));
}

#[test]
fn what_a_transaction_published_goes_to_the_queue_that_has_the_name_when_it_commits() {
    let (mut client, queue) = published_to_what_went(true, &["a", "b"]);
    client.declare(queue_declare(&queue));
    client.on(2).put(&queue, "c");
    commit(&mut client);
    assert_eq!(client.on(1).take_all(&queue), ["a", "b", "c"]);
}

#[test]
fn what_a_transaction_published_by_name_goes_to_a_queue_that_is_made_before_it_commits() {
    let (mut client, mut other) = (Client::open(), Client::open());
    let (queue, never) = (unique("later"), unique("never"));
    select(&mut client);
    put_mandatory(&mut client, &[(&queue, "a"), (&never, "lost"), (&queue, "b")]);
    other.leave_queue(queue.clone());
    other.declare(queue_declare(&queue));
    client.put(&queue, "c");
    client.barrier();
    // As soon as it is gone only its name is known again.
    other.delete(queue_delete(&queue));
    put_mandatory(&mut client, &[(&queue, "d")]);
    other.declare(queue_declare(&queue));
    client.put(&queue, "e");
    client.send(&Method::TxCommit(TxCommit {}));
    assert_eq!(client.returned().text(), "lost");
    client.expect(&Method::TxCommitOk(TxCommitOk {}));
    assert_eq!(other.take_all(&queue), ["a", "b", "c", "d", "e"]);
}

#[test]
fn a_transaction_keeps_the_names_in_cc_and_bcc_as_well() {
    let mut client = Client::open();
    let (there, copy, blind) = (client.queue(), unique("copy"), unique("blind"));
    let keys = |names: &[&str]| {
        let mut keys = ArrayBuf::new();
        names.iter().for_each(|name| _ = keys.push(Field::LongStr(name.as_bytes())));
        keys
    };
    let mut headers = TableBuf::new();
    headers
        .insert("CC", Field::Array(keys(&[&there, &copy, &unique("never")]).as_array()))
        .insert("BCC", Field::Array(keys(&[&blind, &copy]).as_array()));
    let sent = properties(|p| _ = p.headers(headers.as_table()));
    client.open_channel(2);
    select(&mut client);
    let nowhere = unique("nowhere");
    client.publish_as(BasicPublish { mandatory: true, ..publish("", &nowhere) }, &sent, b"m");
    client.barrier();
    for queue in [&copy, &blind] {
        client.on(1).leave_queue(queue.clone());
        client.declare(queue_declare(queue));
    }
    commit(client.on(2));
    for queue in [&there, &copy, &blind] {
        assert_eq!(client.on(1).take_all(queue), ["m"]);
    }
}

#[test]
fn a_transaction_keeps_names_and_no_bindings() {
    let mut client = Client::open();
    let (exchange, queue) = (client.exchange("direct"), client.queue());
    client.open_channel(2);
    select(&mut client);
    client.publish_as(BasicPublish { mandatory: true, ..publish(&exchange, &queue) }, NO_PROPERTIES, b"back");
    client.barrier();
    client.on(1).bind(&queue, &exchange, &queue);
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    assert_eq!(client.returned().text(), "back");
    client.expect(&Method::TxCommitOk(TxCommitOk {}));
    assert_eq!(client.on(1).counts(&queue).0, 0);
}

#[test]
fn what_a_transaction_published_expires_by_the_time_of_its_commit() {
    const LIFE_MS: i32 = 1000;
    let mut client = Client::open();
    let dead = client.queue();
    let lives = |client: &mut Client, ms: i32, to: &str| {
        let [exchange, key] = dead_letters_to(to);
        queue_with(client, &[exchange, key, ("x-message-ttl", Field::I32(ms))])
    };
    let (queue, clock) = (lives(&mut client, LIFE_MS, "nowhere"), lives(&mut client, LIFE_MS + 50, &dead));
    client.consume(&dead);
    client.open_channel(2);
    select(&mut client);
    // Of both kinds, and a large one: no two of them are kept together.
    let persistent = properties(|p| _ = p.delivery_mode(2));
    client.publish_as(publish("", &queue), &persistent, b"a");
    client.publish_as(publish("", &queue), NO_PROPERTIES, &[b'b'; 5000]);
    client.publish_as(publish("", &queue), &properties(|p| _ = p.expiration("900")), b"c");
    client.put(&queue, "d");
    client.barrier();
    client.on(1).put(&clock, "their time is over");
    assert_eq!(client.delivery().text(), "their time is over");
    commit(client.on(2));
    let taken: Vec<_> = client.on(1).take_all(&queue).iter().map(|body| body[..1].to_owned()).collect();
    assert_eq!(taken, ["a", "b", "c", "d"]);
}

#[test]
fn a_transaction_that_went_to_two_queues_is_in_the_one_that_is_left() {
    let mut client = Client::open();
    let (exchange, left, goes) = (client.exchange("fanout"), client.queue(), client.queue());
    client.bind(&left, &exchange, "");
    client.bind(&goes, &exchange, "");
    client.open_channel(2);
    select(&mut client);
    client.publish_as(BasicPublish { mandatory: true, ..publish(&exchange, "") }, NO_PROPERTIES, b"m");
    client.barrier();
    client.on(1).delete(queue_delete(&goes));
    commit(client.on(2));
    assert_eq!(client.on(1).take_all(&left), ["m"]);
}

/// Mandatory messages: a queue's name or another key, and the body.
fn put_mandatory(client: &mut Client, messages: &[(&str, &str)]) {
    for (key, body) in messages {
        let publish = BasicPublish { mandatory: true, ..publish("", key) };
        client.publish_as(publish, NO_PROPERTIES, body.as_bytes());
    }
    client.barrier();
}

#[test]
fn a_transaction_returns_in_the_order_of_publishing() {
    let mut client = Client::open();
    let (first, second, kept) = (client.shared_queue("first"), client.shared_queue("second"), client.queue());
    let nowhere = unique("nowhere");
    client.open_channel(2);
    select(&mut client);
    let (first, second, nowhere) = (first.as_str(), second.as_str(), nowhere.as_str());
    let keys = [first, nowhere, second, first, &kept, first, nowhere, second, second, first];
    let bodies: Vec<String> = (0..keys.len()).map(|number| number.to_string()).collect();
    let messages: Vec<_> = keys.into_iter().zip(bodies.iter().map(String::as_str)).collect();
    put_mandatory(&mut client, &messages);
    // One of those before is not wanted back, and what is large lies apart.
    client.put(first, "gone");
    let large = vec![b'x'; 200_000];
    let publish = |key| BasicPublish { mandatory: true, ..publish("", key) };
    client.publish_as(publish(first), NO_PROPERTIES, &large);
    put_mandatory(&mut client, &[(nowhere, "last but one"), (first, "last")]);
    client.on(1).delete(queue_delete(first));
    client.delete(queue_delete(second));
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    for body in ["0", "1", "2", "3", "5", "6", "7", "8", "9"] {
        assert_eq!(client.returned().text(), body);
    }
    assert!(client.returned().body == large);
    for body in ["last but one", "last"] {
        assert_eq!(client.returned().text(), body);
    }
    client.expect(&Method::TxCommitOk(TxCommitOk {}));
    assert_eq!(client.on(1).take_all(&kept), ["4"]);
}

/// Arguments of a queue that has a place for one message and refuses others.
fn with_one_place() -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments.insert("x-max-length", Field::I32(1)).insert("x-overflow", Field::LongStr(b"reject-publish"));
    arguments
}

const COMMIT: (u16, u16) = (90, 20);
const PARTIAL: &str = "PRECONDITION_FAILED - partial tx completion";

#[test]
fn a_transaction_that_is_refused_in_part_returns_before_it_says_so() {
    let mut client = Client::open();
    let arguments = with_one_place();
    let full = QueueDeclare { exclusive: true, arguments: arguments.as_table(), ..queue_declare("") };
    let (full, nowhere) = (client.declare(full).queue, unique("nowhere"));
    client.open_channel(2);
    select(&mut client);
    put_mandatory(&mut client, &[(&nowhere, "a"), (&full, "b"), (&full, "c"), (&nowhere, "d"), (&full, "e")]);
    client.send(&Method::TxCommit(TxCommit {}));
    for body in ["a", "d"] {
        assert_eq!(client.returned().text(), body);
    }
    client.expect_channel_close(COMMIT, 406, PARTIAL);
    assert_eq!(client.on(1).take_all(&full), ["b"]);
}

#[test]
fn a_transaction_keeps_the_limit_of_the_queue_that_has_the_name_when_it_commits() {
    let arguments = with_one_place();
    let full = |queue| QueueDeclare { arguments: arguments.as_table(), ..queue_declare(queue) };
    let (mut client, queue) = published_to_what_went(false, &["a", "b", "c", "d", "e"]);
    client.declare(full(&queue));
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    client.expect_channel_close(COMMIT, 406, PARTIAL);
    assert_eq!(client.on(1).take_all(&queue), ["a"]);

    // What fits is taken, and what others have as well is refused by this one alone.
    let (mut client, queue) = published_to_what_went(true, &["a"]);
    client.declare(full(&queue));
    commit(client.on(2));
    assert_eq!(client.on(1).take_all(&queue), ["a"]);

    let mut client = Client::open();
    let (exchange, other, queue) = (client.exchange("fanout"), client.queue(), client.shared_queue("went"));
    client.bind(&other, &exchange, "");
    client.bind(&queue, &exchange, "");
    client.open_channel(2);
    select(&mut client);
    for body in ["a", "b", "c"] {
        client.publish(&exchange, "", body);
    }
    client.barrier();
    client.on(1).delete(queue_delete(&queue));
    client.declare(full(&queue));
    client.on(2).send(&Method::TxCommit(TxCommit {}));
    client.expect_channel_close(COMMIT, 406, PARTIAL);
    assert_eq!(client.on(1).take_all(&queue), ["a"]);
    assert_eq!(client.take_all(&other), ["a", "b", "c"]);
}

#[test]
fn a_transaction_has_no_limit_where_the_queue_that_has_the_name_has_none() {
    let mut client = Client::open();
    let arguments = with_one_place();
    let queue = client.leave_queue(unique("one"));
    client.declare(QueueDeclare { arguments: arguments.as_table(), ..queue_declare(&queue) });
    client.open_channel(2);
    select(&mut client);
    client.put_all(&queue, &["a", "b", "c"]);
    client.barrier();
    client.on(1).delete(queue_delete(&queue));
    client.declare(queue_declare(&queue));
    commit(client.on(2));
    assert_eq!(client.on(1).take_all(&queue), ["a", "b", "c"]);
}

#[test]
fn recover_does_not_take_back_what_a_transaction_has_acknowledged() {
    let (mut client, queue) = with_queue(&["a", "b", "c"]);
    select(&mut client);
    for _ in 0..3 {
        client.get(&queue).unwrap();
    }
    client.ack(1);
    client.requeue(3);
    let recover = Method::BasicRecover(BasicRecover { requeue: true });
    client.call(&recover, &Method::BasicRecoverOk(BasicRecoverOk {}));
    assert_eq!(client.counts(&queue), (1, 0), "one that nothing was said of");
    commit(&mut client);
    assert_eq!(client.take_all(&queue), ["b", "c"]);
}

#[test]
fn what_goes_back_is_there_before_what_is_published_next() {
    let (mut client, queue) = with_queue(&["first"]);
    client.qos(1, false);
    client.consume(&queue);
    assert_eq!(client.bodies(1), ["first"]);
    // In one write: whoever collects these must not mix up their order.
    let mut frames =
        method_frame(1, &Method::BasicNack(BasicNack { delivery_tag: 1, multiple: false, requeue: true }));
    frames.extend(method_frame(1, &Method::BasicPublish(publish("", &queue))));
    frames.extend(content_frames(1, NO_PROPERTIES, b"second"));
    client.wire.send_bytes(&frames);
    let again = client.delivery();
    assert_eq!((again.text(), again.is_redelivered()), ("first", true));
    client.ack(2);
    assert_eq!(client.bodies(1), ["second"]);
}

#[test]
fn errors_in_a_transaction_are_raised_at_once() {
    let mut client = Client::open();
    let none = unique("none");
    select(&mut client);
    client.publish(&none, "k", "refused");
    client.expect_channel_close((60, 40), 404, &format!("NOT_FOUND - no exchange '{none}' in vhost '/'"));
    select(&mut client);
    let ack = Method::BasicAck(BasicAck { delivery_tag: 5, multiple: false });
    client.check_channel_close(&ack, 406, "PRECONDITION_FAILED - unknown delivery tag 5");
}
