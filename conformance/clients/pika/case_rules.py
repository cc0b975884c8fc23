"""Queues with rules: what expires, what is too much, what nobody wants, and who comes first."""

import pika
import pika.exceptions as errors
from setting import Inbox, case, channel_closed, drain, get, ready, still_usable, until, until_ready


def dead_letters_to(queue, **more):
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, **more}


def publish(channel, queue, body, **properties):
    channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


def told(channel, exchange, key, body):
    """How a publish is confirmed."""
    try:
        channel.basic_publish(exchange, key, body)
    except errors.NackError:
        return "nack"
    return "ack"


def wait_for(channel, queue):
    """The next message of a queue, once it is there."""
    until_ready(channel, queue, 1)
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    return method, properties, body


def story(properties):
    """Queue, reason and count of each death, the newest first."""
    return [(death["queue"], death["reason"], death["count"]) for death in properties.headers["x-death"]]


@case("queue.rules/rejected-dead-letter")
def rejected(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead))
    publish(channel, queue, b"unwanted", headers={"mine": 1}, message_id="7")
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, body = wait_for(channel, dead)
    assert (method.exchange, method.routing_key, body) == ("", dead, b"unwanted")
    assert (properties.headers["mine"], properties.message_id) == (1, "7")
    assert story(properties) == [(queue, "rejected", 1)]
    death = properties.headers["x-death"][0]
    assert (death["exchange"], death["routing-keys"]) == ("", [queue]) and death["time"]
    assert properties.headers["x-first-death-queue"] == queue
    assert properties.headers["x-first-death-reason"] == "rejected"


@case("queue.rules/message-ttl")
def message_ttl(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-message-ttl": 100}))
    publish(channel, queue, b"too late")
    _, properties, body = wait_for(channel, dead)
    assert (body, story(properties), ready(channel, queue)) == (b"too late", [(queue, "expired", 1)], 0)


@case("queue.rules/message-ttl-zero")
def message_ttl_zero(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-message-ttl": 0}))
    publish(channel, queue, b"nobody waits")
    assert wait_for(channel, dead)[2] == b"nobody waits"
    inbox = Inbox(channel, queue, auto_ack=True)
    publish(channel, queue, b"somebody waits")
    assert inbox.wait_for(1) == [b"somebody waits"]
    assert ready(channel, dead) == 0


@case("queue.rules/expiration")
def expiration(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-message-ttl": 600_000}))
    publish(channel, queue, b"short", expiration="50")
    _, properties, _ = wait_for(channel, dead)
    assert properties.expiration is None
    assert properties.headers["x-death"][0]["original-expiration"] == "50"


@case("queue.rules/expires")
def expires(world):
    channel = world.channel()
    queue = world.queue(channel, arguments={"x-expires": 200})
    other = world.channel(confirms=True)

    def is_gone():
        # Anything else that asks for it would be use.
        try:
            other.basic_publish("", queue, b"", mandatory=True)
        except errors.UnroutableError:
            return True
        return False

    until(channel.connection, is_gone, "the queue goes when nobody uses it")


@case("queue.rules/max-length")
def max_length(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-max-length": 3}))
    for number in range(10):
        publish(channel, queue, b"%d" % number)
    until_ready(channel, dead, 7)
    assert drain(channel, queue) == [b"7", b"8", b"9"]
    assert drain(channel, dead) == [b"%d" % number for number in range(7)]


@case("queue.rules/max-length-bytes")
def max_length_bytes(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-max-length-bytes": 100}))
    bodies = [letter * size for letter, size in [(b"a", 60), (b"b", 30), (b"c", 10), (b"d", 1), (b"e", 101)]]
    for body in bodies:
        # Headers and keys are not counted.
        publish(channel, queue, body, headers={"long": "x" * 500})
    # `a` makes room for `d`, and one that alone is too much goes last, behind all that were before it.
    until_ready(channel, dead, 5)
    assert drain(channel, dead) == bodies


@case("queue.rules/max-length-ready")
def max_length_ready(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead, **{"x-max-length": 2}))
    publish(channel, queue, b"0")
    publish(channel, queue, b"1")
    held = [channel.basic_get(queue)[0].delivery_tag for _ in range(2)]
    publish(channel, queue, b"2")
    publish(channel, queue, b"3")
    assert (ready(channel, queue), ready(channel, dead)) == (2, 0)
    channel.basic_nack(held[1], multiple=True, requeue=True)
    until_ready(channel, dead, 2)
    assert (drain(channel, queue), drain(channel, dead)) == ([b"2", b"3"], [b"0", b"1"])


@case("queue.rules/reject-publish")
def reject_publish(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    answers = [told(channel, "", queue, b"%d" % number) for number in range(4)]
    assert answers == ["ack", "ack", "nack", "nack"]
    assert get(channel, queue) == b"0"
    publish(channel, queue, b"4")
    assert drain(channel, queue) == [b"1", b"4"]


@case("queue.rules/reject-publish-dlx")
def reject_publish_dlx(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    limit = {"x-max-length": 1, "x-overflow": "reject-publish-dlx"}
    queue = world.queue(channel, arguments=dead_letters_to(dead, **limit))
    assert told(channel, "", queue, b"0") == "ack"
    assert told(channel, "", queue, b"1") == "nack"
    _, properties, body = wait_for(channel, dead)
    assert (body, story(properties), drain(channel, queue)) == (b"1", [(queue, "maxlen", 1)], [b"0"])


@case("queue.rules/reject-publish-fan-out")
def reject_publish_fan_out(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "fanout")
    full = world.queue(channel, bind_to=exchange, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    others = [world.queue(channel, bind_to=exchange) for _ in range(2)]
    assert told(channel, exchange, "", b"0") == "ack"
    assert told(channel, exchange, "", b"1") == "nack"
    assert drain(channel, full) == [b"0"]
    for queue in others:
        until_ready(channel, queue, 2)
        assert drain(channel, queue) == [b"0", b"1"]


@case("queue.rules/priorities")
def priorities(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, durable=True, arguments={"x-max-priority": 5})
    for number, priority in enumerate([0, 3, None, 9, 1, 5, 3]):
        publish(channel, queue, b"%d" % number, priority=priority, delivery_mode=2)
    assert drain(channel, queue) == [b"3", b"5", b"1", b"6", b"4", b"0", b"2"]


@case("queue.rules/single-active-consumer")
def single_active(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel, arguments={"x-single-active-consumer": True})
    seen = []
    tags = {}
    for name in ["first", "second"]:
        consumer = world.channel()
        note = lambda channel, _method, _properties, body, name=name: seen.append((name, body))
        tags[name] = (consumer, consumer.basic_consume(queue, note, auto_ack=True))
    publish(channel, queue, b"a")
    publish(channel, queue, b"b")
    until(tags["first"][0].connection, lambda: len(seen) == 2, "the first consumer gets both")
    tags["first"][0].connection.close()
    publish(channel, queue, b"c")
    until(tags["second"][0].connection, lambda: len(seen) == 3, "the second consumer takes over")
    assert seen == [("first", b"a"), ("first", b"b"), ("second", b"c")]


@case("queue.rules/delivery-limit")
def delivery_limit(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    limits = {"x-queue-type": "quorum", "x-delivery-limit": 2}
    queue = world.queue(channel, durable=True, arguments=dead_letters_to(dead, **limits))
    publish(channel, queue, b"poison")
    counts = []

    def give_back(channel, method, properties, _body):
        counts.append((properties.headers or {}).get("x-delivery-count", 0))
        channel.basic_nack(method.delivery_tag, requeue=True)

    worker = world.channel()
    worker.basic_consume(queue, give_back)
    until(worker.connection, lambda: len(counts) == 3, "it is delivered three times")
    _, properties, body = wait_for(channel, dead)
    assert (counts, body, story(properties)) == ([0, 1, 2], b"poison", [(queue, "delivery_limit", 1)])


@case("queue.rules/consumer-timeout", need="short-consumer-timeout")
def consumer_timeout(world):
    channel = world.channel(confirms=True)
    # RabbitMQ knows the argument since 3.12 and no other way to say it for one queue.
    queue = world.queue(channel, durable=True, arguments={"x-consumer-timeout": 1000})
    publish(channel, queue, b"held too long")
    holder = world.connect()
    held = Inbox(holder.channel(), queue)
    held.wait_for(1)
    with channel_closed(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: "
                             "1000 ms. This timeout value can be configured, see consumers doc guide to learn more"):
        until(holder, lambda: held.channel.is_closed, "the channel is closed")
        raise held.channel._closing_reason
    still_usable(holder)
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (method.redelivered, body) == (True, b"held too long")


@case("story/retry")
def retry(world):
    """A worker gives a task up; it waits in a retry queue, comes back, and is done at the third attempt."""
    channel = world.channel(confirms=True)
    work, later = world.name("work"), world.name("later")
    world.queue(channel, work, durable=True, arguments=dead_letters_to(later))
    world.queue(channel, later, durable=True, arguments=dead_letters_to(work, **{"x-message-ttl": 50}))
    tasks = {b"task %d" % number for number in range(20)}
    for task in tasks:
        publish(channel, work, task, delivery_mode=2)
    attempts, done = [], {}

    def attempt(channel, method, properties, body):
        deaths = {death["queue"]: death["count"] for death in (properties.headers or {}).get("x-death", [])}
        attempts.append(body)
        if deaths.get(work, 0) < 2:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            done[body] = deaths
            channel.basic_ack(method.delivery_tag)

    worker = world.channel()
    worker.basic_qos(prefetch_count=4)
    worker.basic_consume(work, attempt)
    until(worker.connection, lambda: len(done) == len(tasks), "every task is done")
    assert set(done) == tasks and len(attempts) == 3 * len(tasks)
    assert all(deaths == {work: 2, later: 2} for deaths in done.values())
    worker.connection.close()
    assert (ready(channel, work), ready(channel, later)) == (0, 0)
