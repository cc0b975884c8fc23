"""Acks, nacks, rejects, recover, and transactions: what becomes of a delivered message."""

from case_consume import fill, numbered
from setting import Inbox, barrier, case, channel_closed, connection_closed, drain, ready, still_usable


def take(channel, queue, count):
    """Get `count` messages without acking them; returns their delivery tags."""
    return [channel.basic_get(queue)[0].delivery_tag for _ in range(count)]


def take_redelivered(channel, queue):
    """(body, redelivered) of everything ready."""
    seen = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return seen
        seen.append((body, method.redelivered))


def filled(world, count):
    """(channel, queue holding `count` numbered messages)."""
    channel = world.channel()
    queue = world.queue(channel)
    fill(world, queue, count)
    return channel, queue


def left_after_close(world, channel, queue):
    """What the queue still holds once this connection no longer holds anything."""
    channel.connection.close()
    return drain(world.channel(), queue)


@case("basic.ack/multiple")
def ack_multiple(world):
    channel, queue = filled(world, 5)
    tags = take(channel, queue, 5)
    channel.basic_ack(tags[2], multiple=True)
    assert left_after_close(world, channel, queue) == numbered(3, 4)


@case("basic.ack/multiple-zero")
def ack_multiple_zero(world):
    channel, queue = filled(world, 3)
    channel.basic_ack(0, multiple=True)
    take(channel, queue, 2)
    channel.basic_ack(0, multiple=True)
    channel.basic_ack(0, multiple=True)
    assert left_after_close(world, channel, queue) == numbered(2)


@case("basic.ack/unknown-tag")
def ack_unknown(world):
    connection = world.connect()
    for settle in ["basic_ack", "basic_nack", "basic_reject"]:
        channel = connection.channel()
        queue = world.queue(channel)
        with channel_closed(406, "PRECONDITION_FAILED - unknown delivery tag 7"):
            getattr(channel, settle)(7)
            ready(channel, queue)
    channel = connection.channel()
    with channel_closed(406, "PRECONDITION_FAILED - unknown delivery tag 0"):
        channel.basic_ack(0)
        ready(channel, queue)
    still_usable(connection)


@case("basic.ack/twice")
def ack_twice(world):
    channel, queue = filled(world, 1)
    [tag] = take(channel, queue, 1)
    channel.basic_ack(tag)
    with channel_closed(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)
        ready(channel, queue)
    still_usable(channel.connection)


@case("basic.nack/requeue-order")
def nack_order(world):
    channel, queue = filled(world, 6)
    tags = take(channel, queue, 4)
    for tag in [tags[2], tags[0], tags[3], tags[1]]:
        channel.basic_nack(tag, requeue=True)
    seen = take_redelivered(channel, queue)
    assert seen == [(body, True) for body in numbered(0, 1, 2, 3)] + [(body, False) for body in numbered(4, 5)]


@case("basic.nack/before-publish")
def nack_before_publish(world):
    channel, queue = filled(world, 1)
    channel.basic_qos(prefetch_count=1)
    inbox = Inbox(channel, queue)
    inbox.wait_for(1)
    channel.basic_nack(inbox.tags[0], requeue=True)
    channel.basic_publish("", queue, b"behind it")
    assert inbox.wait_for(2) == numbered(0, 0)
    channel.basic_ack(inbox.tags[1])
    assert inbox.wait_for(3)[2] == b"behind it"


@case("basic.nack/multiple")
def nack_multiple(world):
    channel, queue = filled(world, 5)
    tags = take(channel, queue, 4)
    channel.basic_nack(tags[2], multiple=True, requeue=True)
    assert drain(channel, queue) == numbered(0, 1, 2, 4)
    channel.basic_nack(0, multiple=True, requeue=True)
    assert drain(channel, queue) == numbered(3)


@case("basic.nack/drop")
def nack_drop(world):
    channel, queue = filled(world, 3)
    channel.basic_nack(take(channel, queue, 2)[1], multiple=True, requeue=False)
    assert left_after_close(world, channel, queue) == numbered(2)


@case("basic.reject/requeue")
def reject_requeue(world):
    channel, queue = filled(world, 2)
    channel.basic_reject(take(channel, queue, 1)[0], requeue=True)
    assert take_redelivered(channel, queue) == [(b"0", True), (b"1", False)]


@case("basic.reject/drop")
def reject_drop(world):
    channel, queue = filled(world, 2)
    channel.basic_reject(take(channel, queue, 1)[0], requeue=False)
    assert left_after_close(world, channel, queue) == numbered(1)


@case("basic.recover/requeue")
def recover(world):
    channel, queue = filled(world, 3)
    take(channel, queue, 2)
    channel.basic_recover(requeue=True)
    assert take_redelivered(channel, queue) == [(b"0", True), (b"1", True), (b"2", False)]


@case("basic.recover/no-requeue")
def recover_no_requeue(world):
    channel = world.channel()
    with connection_closed(540, "NOT_IMPLEMENTED - requeue=false"):
        channel.basic_recover(requeue=False)


@case("connection.close/unacked-to-others")
def connection_close_redelivers(world):
    holder, queue = filled(world, 3)
    held = Inbox(holder, queue)
    held.wait_for(3)
    holder.basic_ack(held.tags[0])
    other = Inbox(world.channel(), queue)
    holder.connection.close()
    assert other.wait_for(2) == numbered(1, 2)
    assert all(method.redelivered for method, _, _ in other.messages)


@case("connection.close/exclusive-queue-gone")
def exclusive_queue_gone(world):
    owner, other = world.channel(), world.channel()
    queue = world.name("exclusive")
    owner.queue_declare(queue, exclusive=True)
    owner.connection.close()
    with channel_closed(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        other.queue_declare(queue, passive=True)


@case("tx/commit")
def tx_commit(world):
    channel, other = world.channel(), world.channel()
    first, second = world.queue(channel), world.queue(channel)
    channel.tx_select()
    channel.basic_publish("", first, b"one")
    channel.basic_publish("", second, b"two")
    assert (ready(other, first), ready(channel, first), ready(other, second)) == (0, 0, 0)
    channel.tx_commit()
    assert (drain(other, first), drain(other, second)) == ([b"one"], [b"two"])


@case("tx/rollback")
def tx_rollback(world):
    channel = world.channel()
    queue = world.queue(channel)
    channel.tx_select()
    channel.basic_publish("", queue, b"never")
    channel.tx_rollback()
    channel.basic_publish("", queue, b"second thought")
    channel.tx_commit()
    assert drain(channel, queue) == [b"second thought"]


@case("tx/acks")
def tx_acks(world):
    channel, queue = filled(world, 4)
    channel.tx_select()
    tags = take(channel, queue, 3)
    channel.basic_ack(tags[0])
    channel.tx_commit()
    channel.basic_ack(tags[1])
    channel.tx_rollback()
    channel.basic_nack(tags[2], requeue=True)
    assert ready(channel, queue) == 1, "a nack counted before commit"
    channel.tx_commit()
    assert ready(channel, queue) == 2
    # The rolled back ack left its message unacked, so it can be acked still, and returns when it is not.
    assert left_after_close(world, channel, queue) == numbered(1, 2, 3)


def published_to_what_went(world):
    """(channel with a queue that went, channel whose transaction published to it, the queue, what comes back)"""
    owner, channel = world.channel(), world.channel()
    queue, returned = world.queue(owner), []
    channel.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    channel.tx_select()
    for body in [b"one", b"two"]:
        channel.basic_publish("", queue, body, mandatory=True)
    barrier(channel, queue)
    owner.queue_delete(queue)
    return owner, channel, queue, returned


@case("tx/queue-gone")
def tx_queue_gone(world):
    _, channel, _, returned = published_to_what_went(world)
    channel.tx_commit()
    channel.connection.process_data_events(time_limit=0)
    assert returned == [b"one", b"two"]


@case("tx/queue-made-anew")
def tx_queue_made_anew(world):
    owner, channel, queue, returned = published_to_what_went(world)
    owner.queue_declare(queue)
    channel.tx_commit()
    channel.connection.process_data_events(time_limit=0)
    assert (drain(owner, queue), returned) == ([b"one", b"two"], [])


@case("tx/recover")
def tx_recover(world):
    channel, queue = filled(world, 3)
    channel.tx_select()
    tags = take(channel, queue, 2)
    channel.basic_ack(tags[0])
    channel.basic_recover(requeue=True)
    assert ready(channel, queue) == 2
    channel.tx_commit()
    assert left_after_close(world, channel, queue) == numbered(1, 2)


@case("tx/not-selected")
def tx_not_selected(world):
    connection = world.connect()
    for end in ["tx_commit", "tx_rollback"]:
        with channel_closed(406, "PRECONDITION_FAILED - channel is not transactional"):
            getattr(connection.channel(), end)()
    still_usable(connection)


@case("tx/confirm-channel")
def tx_on_confirm(world):
    channel = world.channel(confirms=True)
    with channel_closed(406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"):
        channel.tx_select()
    still_usable(channel.connection)
