"""What a quorum queue does otherwise than a classic one."""

from case_rules import publish
from setting import Inbox, case, drain, until_ready

QUORUM = {"x-queue-type": "quorum"}


@case("queue.rules/quorum-return-order")
def return_order(world):
    channel = world.channel(confirms=True)
    for limit, order in [({}, [b"3", b"4", b"2", b"0", b"1"]), ({"x-delivery-limit": 9}, [b"2", b"0", b"1", b"3", b"4"])]:
        queue = world.queue(channel, durable=True, arguments={**QUORUM, **limit})
        for number in range(5):
            publish(channel, queue, b"%d" % number)
        tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(3)]
        for index in [2, 0, 1]:
            channel.basic_nack(tags[index], requeue=True)
        until_ready(channel, queue, 5)
        left = drain(channel, queue)
        assert left == order, (limit, left)


@case("queue.rules/quorum-exclusive")
def exclusive_consumer(world):
    channel, other = world.channel(), world.channel()
    queue = world.queue(channel, durable=True, arguments=QUORUM)
    Inbox(channel, queue, exclusive=True)
    Inbox(other, queue)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 2
