"""Orders in a quorum queue: what fails is tried again at once, what is given up waits in a retry queue and comes back,
and what fails too often is parked for a person. One dead-letter exchange tells the last two apart by the reason.
"""

from collections import Counter

from case_rules import publish, story
from setting import Inbox, case, ready

LIMIT = 2
ATTEMPTS = {b"good": 1, b"flaky": LIMIT + 1, b"busy": 2, b"poison": LIMIT + 1}


def quorum(world, channel, **rules):
    arguments = {f"x-{name.replace('_', '-')}": value for name, value in {"queue_type": "quorum", **rules}.items()}
    return world.queue(channel, durable=True, arguments=arguments)


@case("story/quorum-retry")
def quorum_retry(world):
    channel = world.channel(confirms=True)
    dead = world.exchange(channel, "headers")
    work = quorum(world, channel, delivery_limit=LIMIT, dead_letter_exchange=dead, dead_letter_routing_key="given-up")
    later = quorum(world, channel, message_ttl=50, dead_letter_exchange="", dead_letter_routing_key=work)
    parked = quorum(world, channel)
    for queue, reason in [(later, "rejected"), (parked, "delivery_limit")]:
        channel.queue_bind(queue, dead, "", {"x-match": "all-with-x", "x-first-death-reason": reason})
    for order in ATTEMPTS:
        publish(channel, work, order, delivery_mode=2)

    working = world.channel()
    working.basic_qos(prefetch_count=1)
    worker, attempts, done = Inbox(working, work), Counter(), {}
    for taken in range(sum(ATTEMPTS.values())):
        worker.wait_for(taken + 1)
        method, properties, order = worker.messages[-1]
        attempts[order] += 1
        # Nothing is said of it the first time.
        count = (properties.headers or {}).get("x-delivery-count", 0)
        if order == b"busy" and attempts[order] == 1:
            working.basic_reject(method.delivery_tag, requeue=False)
        elif order == b"poison" or order == b"flaky" and attempts[order] <= LIMIT:
            assert count == attempts[order] - 1, (order, count)
            working.basic_nack(method.delivery_tag, requeue=True)
        else:
            assert count == (LIMIT if order == b"flaky" else 0), (order, count)
            done[order] = properties
            working.basic_ack(method.delivery_tag)
    assert attempts == ATTEMPTS
    assert story(done[b"busy"]) == [(later, "expired", 1), (work, "rejected", 1)]

    parking = Inbox(channel, parked)
    assert parking.wait_for(1) == [b"poison"]
    method, properties, _ = parking.messages[0]
    assert (method.exchange, method.routing_key, story(properties)) == (dead, "given-up", [(work, "delivery_limit", 1)])
    assert properties.headers["x-first-death-reason"] == "delivery_limit"
    working.connection.close()
    assert (ready(channel, work), ready(channel, later)) == (0, 0)
