"""What the headers of a dead letter say, and where it goes when it has died before."""

import pika
from case_rules import dead_letters_to, publish, story, wait_for
from setting import case, drain, until_ready


def reject_next(channel, queue):
    """Give up the next message of the queue, once it is there; its properties."""
    until_ready(channel, queue, 1)
    method, properties, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=False)
    return properties


@case("queue.rules/x-death-counted")
def x_death_counted(world):
    channel = world.channel(confirms=True)
    work, later = world.name("work"), world.name("later")
    world.queue(channel, work, arguments=dead_letters_to(later))
    # Longer than the second in which the time of a death is told.
    world.queue(channel, later, arguments=dead_letters_to(work, **{"x-message-ttl": 1100}))
    publish(channel, work, b"", expiration="60000")
    assert reject_next(channel, work).headers is None
    first = reject_next(channel, work)
    assert story(first) == [(later, "expired", 1), (work, "rejected", 1)]
    second = reject_next(channel, work)
    assert story(second) == [(later, "expired", 2), (work, "rejected", 2)]
    for before, after in zip(first.headers["x-death"], second.headers["x-death"]):
        assert before == {**after, "count": 1}, "more than the count has changed"
    expired, rejected = second.headers["x-death"]
    assert rejected["original-expiration"] == "60000" and "original-expiration" not in expired
    assert second.expiration is None
    assert (expired["exchange"], expired["routing-keys"]) == ("", [later])
    assert (rejected["exchange"], rejected["routing-keys"]) == ("", [work])
    assert [second.headers[f"x-first-death-{what}"] for what in ["queue", "reason", "exchange"]] == [work, "rejected", ""]


@case("queue.rules/dead-letter-chain")
def chain(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "direct")
    last = world.queue(channel, bind_to=exchange, key="3")
    passed = []
    for number in [2, 1, 0]:
        to = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": f"{number + 1}", "x-message-ttl": 20}
        passed.append(world.queue(channel, bind_to=exchange, key=f"{number}", arguments=to))
    channel.basic_publish(exchange, "0", b"", pika.BasicProperties(headers={"mine": 1}))
    method, properties, _ = wait_for(channel, last)
    assert (method.exchange, method.routing_key, properties.headers["mine"]) == (exchange, "3", 1)
    # RabbitMQ 3.10 has only the newest at its place, where there are more than two.
    third, second, first = passed
    told = story(properties)
    assert told in [[(queue, "expired", 1) for queue in order] for order in [passed, [third, first, second]]], told
    keys = {death["queue"]: death["routing-keys"] for death in properties.headers["x-death"]}
    assert keys == {first: ["0"], second: ["1"], third: ["2"]}
    assert properties.headers["x-first-death-queue"] == first


@case("queue.rules/dead-letter-cycle")
def cycle(world):
    channel = world.channel(confirms=True)
    one, other, seen = world.name("one"), world.name("other"), world.name("seen")
    exchange = world.exchange(channel, "fanout")
    around = {"x-dead-letter-exchange": exchange, "x-message-ttl": 20}
    world.queue(channel, one, arguments=around)
    world.queue(channel, other, bind_to=exchange, arguments=dead_letters_to(one, **{"x-message-ttl": 20}))
    world.queue(channel, seen, bind_to=exchange)
    # One that went round would be seen again, before those that come after it.
    for body in [b"0", b"1", b"2", b"3"]:
        publish(channel, one, body)
        _, properties, told = wait_for(channel, seen)
        assert (told, story(properties)) == (body, [(one, "expired", 1)])


@case("queue.rules/dead-letter-keys")
def keys(world):
    channel = world.channel(confirms=True)
    exchange, source = world.exchange(channel, "direct"), world.exchange(channel, "fanout")
    to, copy, own = (world.queue(channel, bind_to=exchange, key=key) for key in ["to", "copy", "own"])
    letter = pika.BasicProperties(headers={"CC": ["copy"]})
    # Without a key of the queue's own it goes by those it came with.
    queue = world.queue(channel, bind_to=source, arguments={"x-dead-letter-exchange": exchange})
    channel.basic_publish(source, "to", b"letter", letter)
    reject_next(channel, queue)
    for target in [to, copy]:
        method, properties, _ = wait_for(channel, target)
        assert (method.exchange, method.routing_key, properties.headers["CC"]) == (exchange, "to", ["copy"])
        assert properties.headers["x-death"][0]["routing-keys"] == ["to", "copy"]
    # With one it goes by that alone, and CC is gone.
    channel.queue_unbind(queue, source, "")
    queue = world.queue(channel, bind_to=source,
                        arguments={"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "own"})
    channel.basic_publish(source, "to", b"letter", letter)
    reject_next(channel, queue)
    method, properties, _ = wait_for(channel, own)
    assert method.routing_key == "own" and "CC" not in properties.headers, properties.headers
    assert properties.headers["x-death"][0]["routing-keys"] == ["to", "copy"]
    assert (drain(channel, to), drain(channel, copy)) == ([], [])


@case("queue.rules/dead-letter-nowhere")
def nowhere(world):
    channel = world.channel(confirms=True)
    missing = world.name("missing")
    queue = world.queue(channel, arguments={"x-dead-letter-exchange": missing})
    publish(channel, queue, b"lost")
    reject_next(channel, queue)
    # The exchange is looked for when a message dies, so one that is made later serves the next.
    world.exchanges.append(missing)
    channel.exchange_declare(missing, "fanout")
    dead = world.queue(channel, bind_to=missing)
    publish(channel, queue, b"found")
    reject_next(channel, queue)
    assert wait_for(channel, dead)[2] == b"found"


@case("queue.rules/at-least-once")
def at_least_once(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    strategy = {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    queue = world.queue(channel, durable=True, arguments=dead_letters_to(dead, **strategy))
    for body, reason, expiration in [(b"unwanted", "rejected", None), (b"too late", "expired", "20")]:
        publish(channel, queue, body, delivery_mode=2, expiration=expiration)
        if reason == "rejected":
            reject_next(channel, queue)
        _, properties, dead_body = wait_for(channel, dead)
        assert (dead_body, story(properties)) == (body, [(queue, reason, 1)])


@case("queue.rules/dead-letter-order")
def letters_in_order(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead))
    for number in range(20):
        publish(channel, queue, b"%d" % number)
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(20)]
    for tag in reversed(tags):
        channel.basic_reject(tag, requeue=False)
    until_ready(channel, dead, 20)
    assert drain(channel, dead) == [b"%d" % number for number in reversed(range(20))]


@case("queue.rules/first-death-is-written")
def first_death(world):
    channel = world.channel(confirms=True)
    dead = world.queue(channel)
    queue = world.queue(channel, arguments=dead_letters_to(dead))
    publish(channel, queue, b"", headers={"x-first-death-reason": "mine", "x-first-death-queue": "mine"})
    reject_next(channel, queue)
    _, properties, _ = wait_for(channel, dead)
    assert properties.headers["x-first-death-reason"] == "rejected", properties.headers
    assert properties.headers["x-first-death-queue"] == queue
