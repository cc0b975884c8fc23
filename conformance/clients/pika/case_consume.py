"""Consumers: prefetch, order, priorities, cancelling, getting."""

from collections import Counter

import pika
from setting import Inbox, barrier, case, channel_closed, connection_closed, drain, get, ready, still_usable, until
from setting import DEADLINE_SECONDS, until_ready


def fill(world, queue, count):
    """Put `count` numbered messages into the queue, all confirmed."""
    channel = world.channel(confirms=True)
    for number in range(count):
        channel.basic_publish("", queue, b"%d" % number)
    channel.connection.close()


def numbered(*numbers):
    """The bodies of those messages of `fill`."""
    return [b"%d" % number for number in numbers]


@case("basic.qos/per-consumer")
def prefetch_per_consumer(world):
    channel = world.channel()
    queue = world.queue(channel)
    channel.basic_qos(prefetch_count=3)
    inboxes = [Inbox(channel, queue), Inbox(channel, queue)]
    fill(world, queue, 10)
    for inbox in inboxes:
        inbox.wait_for(3)
    barrier(channel, queue)
    assert ([len(inbox) for inbox in inboxes], ready(channel, queue)) == ([3, 3], 4)
    channel.basic_ack(inboxes[0].tags[0])
    inboxes[0].wait_for(4)
    barrier(channel, queue)
    assert ([len(inbox) for inbox in inboxes], ready(channel, queue)) == ([4, 3], 3)


@case("basic.qos/per-channel")
def prefetch_per_channel(world):
    channel = world.channel()
    first, second = world.queue(channel), world.queue(channel)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    inboxes = [Inbox(channel, first), Inbox(channel, second)]
    fill(world, first, 5)
    fill(world, second, 5)
    until(channel.connection, lambda: sum(map(len, inboxes)) >= 3, "three deliveries")
    barrier(channel, first)
    barrier(channel, second)
    assert sum(map(len, inboxes)) == 3, inboxes
    assert ready(channel, first) + ready(channel, second) == 7
    held = inboxes[0] if len(inboxes[0]) else inboxes[1]
    channel.basic_ack(held.tags[0])
    until(channel.connection, lambda: sum(map(len, inboxes)) >= 4, "one more after an ack")
    barrier(channel, first)
    assert sum(map(len, inboxes)) == 4


@case("basic.qos/later-consumers")
def prefetch_later_consumers(world):
    channel = world.channel()
    first, second = world.queue(channel), world.queue(channel)
    channel.basic_qos(prefetch_count=2)
    early = Inbox(channel, first)
    channel.basic_qos(prefetch_count=5)
    late = Inbox(channel, second)
    fill(world, first, 8)
    fill(world, second, 8)
    early.wait_for(2)
    late.wait_for(5)
    barrier(channel, first)
    assert (len(early), ready(channel, first), len(late), ready(channel, second)) == (2, 6, 5, 3)


@case("basic.qos/under-load")
def prefetch_under_load(world):
    channel = world.channel()
    queue = world.queue(channel)
    fill(world, queue, 2000)
    channel.basic_qos(prefetch_count=10)
    inbox = Inbox(channel, queue)
    acked = 0
    while acked < 2000:
        until(channel.connection, lambda: len(inbox) >= min(acked + 10, 2000), "as many as the limit allows")
        barrier(channel, queue)
        assert len(inbox) - acked <= 10, f"{len(inbox) - acked} held at once, expected 10"
        acked = min(acked + 6, 2000)
        channel.basic_ack(inbox.tags[acked - 1], multiple=True)
    assert inbox.bodies == numbered(*range(2000))


@case("basic.qos/prefetch-size")
def prefetch_size(world):
    channel = world.channel()
    with connection_closed(540, "NOT_IMPLEMENTED - prefetch_size!=0 (1000)"):
        channel.basic_qos(prefetch_size=1000)


@case("basic.consume/order")
def consume_order(world):
    channel = world.channel()
    queue = world.queue(channel)
    inbox = Inbox(channel, queue)
    fill(world, queue, 500)
    assert inbox.wait_for(500) == numbered(*range(500))
    assert inbox.tags == list(range(1, 501))
    assert not any(method.redelivered for method, _, _ in inbox.messages)
    assert {method.consumer_tag for method, _, _ in inbox.messages} == {inbox.tag}


@case("basic.consume/no-ack")
def consume_no_ack(world):
    channel = world.channel()
    queue = world.queue(channel)
    fill(world, queue, 50)
    channel.basic_qos(prefetch_count=5)
    assert Inbox(channel, queue, auto_ack=True).wait_for(50) == numbered(*range(50))
    channel.connection.close()
    assert get(world.channel(), queue) is None


@case("basic.consume/server-named-tag")
def server_named_tag(world):
    channel = world.channel()
    queue = world.queue(channel)
    # pika makes tags of its own, unless the method is sent as it is.
    frame = channel._impl._rpc
    answers = []
    frame(pika.spec.Basic.Consume(queue=queue, consumer_tag=""), answers.append, [pika.spec.Basic.ConsumeOk])
    until(channel.connection, lambda: answers, "consume-ok")
    assert answers[0].method.consumer_tag.startswith("amq.ctag-"), answers


@case("basic.consume/missing-queue")
def consume_missing_queue(world):
    channel, missing = world.channel(), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '/'"):
        Inbox(channel, missing)
    still_usable(channel.connection)


@case("basic.consume/exclusive")
def consume_exclusive(world):
    connection = world.connect()
    channel = connection.channel()
    queue = world.queue(channel)
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    shared = Inbox(channel, queue)
    with channel_closed(403, text):
        Inbox(connection.channel(), queue, exclusive=True)
    channel.basic_cancel(shared.tag)
    Inbox(channel, queue, exclusive=True)
    with channel_closed(403, text):
        Inbox(connection.channel(), queue)
    still_usable(connection)


@case("basic.consume/priority")
def consumer_priority(world):
    channel = world.channel()
    queue = world.queue(channel)
    channel.basic_qos(prefetch_count=3)
    low = Inbox(channel, queue)
    high = Inbox(channel, queue, arguments={"x-priority": 10})
    fill(world, queue, 5)
    until(channel.connection, lambda: len(low) + len(high) == 5, "five deliveries")
    assert (high.bodies, low.bodies) == (numbered(0, 1, 2), numbered(3, 4))


@case("basic.consume/competing")
def competing(world):
    setup = world.channel()
    queue = world.queue(setup)
    connection = world.connect()
    inboxes = []
    for _ in range(4):
        channel = connection.channel()
        inboxes.append(Inbox(channel, queue, auto_ack=True))
    fill(world, queue, 400)
    until(connection, lambda: sum(map(len, inboxes)) == 400, "400 deliveries")
    assert [len(inbox) for inbox in inboxes] == [100] * 4
    assert Counter(body for inbox in inboxes for body in inbox.bodies) == Counter(numbered(*range(400)))
    for inbox in inboxes:
        assert inbox.bodies == sorted(inbox.bodies, key=int), "a consumer saw its share out of order"


@case("basic.consume/tag-reused")
def tag_reused(world):
    channel = world.channel()
    queue = world.queue(channel)
    Inbox(channel, queue, consumer_tag="taken")
    with connection_closed(530, "NOT_ALLOWED - attempt to reuse consumer tag 'taken'"):
        # pika itself refuses to send this.
        channel._impl._send_method(pika.spec.Basic.Consume(queue=queue, consumer_tag="taken"))
        channel.connection.process_data_events(time_limit=DEADLINE_SECONDS)


@case("basic.cancel/client")
def cancel_by_client(world):
    channel = world.channel()
    queue = world.queue(channel)
    channel.basic_qos(prefetch_count=2)
    inbox = Inbox(channel, queue)
    fill(world, queue, 5)
    inbox.wait_for(2)
    # pika hands back deliveries that crossed the cancel; with two held there are none.
    assert channel.basic_cancel(inbox.tag) == []
    channel.basic_ack(inbox.tags[0])
    channel.basic_ack(inbox.tags[1])
    barrier(channel, queue)
    assert (len(inbox), ready(channel, queue)) == (2, 3)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 0


@case("basic.cancel/unknown-tag")
def cancel_unknown(world):
    channel = world.channel()
    answers = []
    channel._impl._rpc(pika.spec.Basic.Cancel(consumer_tag="unknown"), answers.append, [pika.spec.Basic.CancelOk])
    until(channel.connection, lambda: answers, "cancel-ok")
    assert answers[0].method.consumer_tag == "unknown"


@case("basic.cancel/server")
def cancel_by_server(world):
    channel = world.channel()
    queue = world.queue(channel)
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    inbox = Inbox(channel, queue)
    world.channel().queue_delete(queue)
    world.forget(queue)
    until(channel.connection, lambda: cancelled, "the consumer is told")
    assert cancelled == [inbox.tag]
    still_usable(channel.connection)
    assert channel.is_open


@case("basic.get/empty")
def get_empty(world):
    channel = world.channel()
    assert channel.basic_get(world.queue(channel)) == (None, None, None)


@case("basic.get/message-count")
def get_message_count(world):
    channel = world.channel()
    queue = world.queue(channel)
    fill(world, queue, 3)
    seen = []
    for _ in range(3):
        method, _, body = channel.basic_get(queue)
        seen.append((method.message_count, method.delivery_tag, method.redelivered, body))
        assert (method.exchange, method.routing_key) == ("", queue)
    assert seen == [(2, 1, False, b"0"), (1, 2, False, b"1"), (0, 3, False, b"2")]
    assert get(channel, queue) is None


@case("basic.get/missing-queue")
def get_missing_queue(world):
    channel, missing = world.channel(), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '/'"):
        channel.basic_get(missing)
    still_usable(channel.connection)


@case("basic.qos/get-is-free")
def prefetch_without_gets(world):
    channel = world.channel()
    queue = world.queue(channel)
    fill(world, queue, 4)
    channel.basic_qos(prefetch_count=1, global_qos=True)
    got = [channel.basic_get(queue)[0].delivery_tag for _ in range(2)]
    inbox = Inbox(channel, queue)
    assert inbox.wait_for(1) == numbered(2)
    for tag in got:
        channel.basic_ack(tag)
    barrier(channel, queue)
    assert (len(inbox), ready(channel, queue)) == (1, 1), "an ack of what was got is no room in the prefetch"


@case("basic.consume/many")
def consume_many(world):
    channel = world.channel()
    queue = world.queue(channel)
    inboxes = [Inbox(channel, queue, auto_ack=True) for _ in range(2000)]
    fill(world, queue, 2000)
    until(channel.connection, lambda: sum(map(len, inboxes)) == 2000, "a message for each")


@case("connection.close/unread-to-others")
def close_returns_unread(world):
    channel, holder = world.channel(confirms=True), world.channel()
    queue = world.queue(channel)
    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number * 300_000)
    holder.basic_consume(queue, lambda *_: None)
    until_ready(channel, queue, 0)
    holder.connection.close()
    until_ready(channel, queue, 3)
    for number in range(3):
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert (body[:1], method.redelivered) == (b"%d" % number, True)


@case("channel.close/amid-a-large-message")
def channel_close_amid_a_message(world):
    connection = world.connect()
    channel, missing = connection.channel(), world.name("missing")
    channel.confirm_delivery()
    with channel_closed(404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'"):
        channel.basic_publish(missing, "", b"x" * 5_000_000)
    still_usable(connection)


@case("channel.close/unacked-requeued")
def channel_close_requeues(world):
    connection = world.connect()
    channel, holder = connection.channel(), connection.channel()
    queue = world.queue(channel)
    fill(world, queue, 3)
    holder.basic_get(queue)
    Inbox(holder, queue).wait_for(2)
    holder.close()
    until_ready(channel, queue, 3)
    method, _, body = channel.basic_get(queue)
    assert (method.redelivered, body) == (True, b"0")
    assert drain(channel, queue) == numbered(1, 2)
