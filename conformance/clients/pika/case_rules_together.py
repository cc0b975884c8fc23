"""Rules that meet each other, and what else is done to a queue."""

import pika.exceptions as errors
from case_rules import dead_letters_to, publish, story, wait_for
from setting import Inbox, case, channel_closed, drain, ready, until_ready


def take(channel, queue, count):
    """The delivery tags of the next messages."""
    return [channel.basic_get(queue)[0].delivery_tag for _ in range(count)]


@case("queue.rules/priority-requeue")
def priority_requeue(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, arguments={"x-max-priority": 5})
    for number, priority in enumerate([5, 1, 5, 1, 3]):
        publish(channel, queue, b"%d" % number, priority=priority)
    tags = take(channel, queue, 4)
    for index in [3, 0, 2]:
        channel.basic_nack(tags[index], requeue=True)
    until_ready(channel, queue, 4)
    assert drain(channel, queue) == [b"0", b"4", b"1", b"3"]


@case("queue.rules/priority-max-length")
def priority_max_length(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-max-priority": 5, "x-max-length": 3}))
    for number, priority in enumerate([5, 1, 3, 0, 5, 2]):
        publish(channel, queue, b"%d" % number, priority=priority)
    # What would be delivered first makes room.
    until_ready(channel, dead, 3)
    assert (drain(channel, queue), drain(channel, dead)) == ([b"5", b"1", b"3"], [b"0", b"4", b"2"])


@case("queue.rules/reject-publish-tx")
def reject_publish_tx(world):
    channel = world.channel()
    queue = world.queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.tx_select()
    for number in range(3):
        publish(channel, queue, b"%d" % number)
    with channel_closed(406, "PRECONDITION_FAILED - partial tx completion"):
        channel.tx_commit()
    assert drain(world.channel(), queue) == [b"0"]


@case("queue.rules/held-does-not-expire")
def held_does_not_expire(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-message-ttl": 100}))
    publish(channel, queue, b"held")
    [tag] = take(channel, queue, 1)
    publish(channel, queue, b"younger")
    assert wait_for(channel, dead)[2] == b"younger"
    channel.basic_nack(tag, requeue=True)
    _, properties, body = wait_for(channel, dead)
    assert (body, story(properties)) == (b"held", [(queue, "expired", 1)])


@case("queue.rules/purged-is-not-dead")
def purged_is_not_dead(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    purged, deleted, last = (world.queue(channel, arguments=dead_letters_to(dead)) for _ in range(3))
    for queue in [purged, deleted, last]:
        publish(channel, queue, queue.encode())
    channel.queue_purge(purged)
    channel.queue_delete(deleted)
    world.forget(deleted)
    channel.basic_reject(take(channel, last, 1)[0], requeue=False)
    assert wait_for(channel, dead)[2] == last.encode()


@case("queue.rules/dead-letter-to-itself")
def to_itself(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, arguments={"x-dead-letter-exchange": "", "x-max-length": 1})
    publish(channel, queue, b"rejected")
    channel.basic_reject(take(channel, queue, 1)[0], requeue=False)
    method, properties, body = wait_for(channel, queue)
    assert (method.redelivered, body, story(properties)) == (False, b"rejected", [(queue, "rejected", 1)])
    # What was not rejected would go round for ever.
    publish(channel, queue, b"too old")
    publish(channel, queue, b"newest")
    assert wait_for(channel, queue)[2] == b"newest"
    assert ready(channel, queue) == 0


@case("queue.rules/single-active-hand-over")
def hand_over(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, arguments={"x-single-active-consumer": True})
    first, second = world.channel(), world.channel()
    held = Inbox(first, queue)
    publish(channel, queue, b"0")
    publish(channel, queue, b"1")
    held.wait_for(2)
    # A second consumer is served once the first cancels, which keeps what it holds until it goes.
    taken = Inbox(second, queue)
    first.basic_cancel(held.tag)
    publish(channel, queue, b"2")
    assert taken.wait_for(1) == [b"2"]
    first.basic_ack(held.tags[0])
    first.connection.close()
    assert taken.wait_for(2) == [b"2", b"1"]
    assert [method.redelivered for method, _, _ in taken.messages] == [False, True]


@case("queue.rules/single-active-refusals")
def single_active_refusals(world):
    connection = world.connect()
    single = {"x-single-active-consumer": True}
    classic = world.queue(connection.channel(), durable=True, arguments=single)
    with channel_closed(403, f"ACCESS_REFUSED - queue '{classic}' in vhost '/' in exclusive use"):
        Inbox(connection.channel(), classic, exclusive=True)
    assert connection.channel().basic_get(classic) == (None, None, None)
    quorum = world.queue(connection.channel(), durable=True, arguments={**single, "x-queue-type": "quorum"})
    text = (f"RESOURCE_LOCKED - cannot obtain access to locked queue '{quorum}' in vhost '/'. "
            "basic.get operations are not supported by quorum queues with single active consumer")
    with channel_closed(405, text):
        connection.channel().basic_get(quorum)


@case("queue.rules/max-length-none")
def max_length_none(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    keeps, refuses = (world.queue(channel, arguments=dead_letters_to(dead, **{"x-max-length": 0, "x-overflow": overflow}))
                      for overflow in ["drop-head", "reject-publish"])
    publish(channel, keeps, b"nobody waits")
    assert wait_for(channel, dead)[2] == b"nobody waits"
    inboxes = [Inbox(world.channel(), queue, auto_ack=True) for queue in [keeps, refuses]]
    publish(channel, keeps, b"somebody waits")
    assert inboxes[0].wait_for(1) == [b"somebody waits"]
    # Who waits for it makes no room.
    try:
        publish(channel, refuses, b"refused")
    except errors.NackError:
        pass
    else:
        raise AssertionError("a queue that may hold nothing took a message")
