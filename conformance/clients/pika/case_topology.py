"""Exchanges and queues: declared, found, bound, unbound, deleted."""

from setting import Inbox, barrier, case, channel_closed, drain, get, ready, still_usable
from setting import errors

KINDS = ["direct", "fanout", "topic", "headers"]


@case("exchange.declare/kinds")
def declare_kinds(world):
    channel = world.channel()
    for kind in KINDS:
        name = world.exchange(channel, kind, durable=True)
        channel.exchange_declare(name, kind, durable=True)


@case("exchange.declare/passive")
def passive_exchange(world):
    channel = world.channel()
    for name in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"]:
        channel.exchange_declare(name, passive=True)
    channel.exchange_declare(world.exchange(channel, "topic"), passive=True)


@case("exchange.declare/passive-missing")
def passive_missing_exchange(world):
    channel, name = world.channel(), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'"):
        channel.exchange_declare(name, passive=True)
    still_usable(channel.connection)


@case("exchange.declare/inequivalent")
def inequivalent_exchange(world):
    connection = world.connect()
    name = world.exchange(connection.channel(), "direct")
    prefix = "PRECONDITION_FAILED - inequivalent arg"
    where = f"for exchange '{name}' in vhost '/': received"
    with channel_closed(406, f"{prefix} 'type' {where} 'fanout' but current is 'direct'"):
        connection.channel().exchange_declare(name, "fanout")
    with channel_closed(406, f"{prefix} 'durable' {where} 'true' but current is 'false'"):
        connection.channel().exchange_declare(name, "direct", durable=True)
    with channel_closed(406, f"{prefix} 'auto_delete' {where} 'true' but current is 'false'"):
        connection.channel().exchange_declare(name, "direct", auto_delete=True)
    with channel_closed(406, f"{prefix} 'internal' {where} 'true' but current is 'false'"):
        connection.channel().exchange_declare(name, "direct", internal=True)
    still_usable(connection)


@case("exchange.declare/inequivalent-argument")
def inequivalent_exchange_argument(world):
    connection = world.connect()
    name = world.exchange(connection.channel(), "direct", arguments={"alternate-exchange": "one"})
    prefix = f"PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{name}' in vhost '/': received"
    with channel_closed(406, f"{prefix} 'two' but current is 'one'"):
        connection.channel().exchange_declare(name, "direct", arguments={"alternate-exchange": "two"})
    with channel_closed(406, f"{prefix} none but current is the value 'one' of type 'longstr'"):
        connection.channel().exchange_declare(name, "direct")
    still_usable(connection)


@case("exchange.declare/unknown-type")
def unknown_type(world):
    channel = world.channel()
    try:
        channel.exchange_declare(world.name(), "no-such-type")
    except errors.ConnectionClosedByBroker as closed:
        assert (closed.reply_code, closed.reply_text) == (503, "COMMAND_INVALID - unknown exchange type 'no-such-type'")
    except errors.ChannelClosedByBroker as closed:
        text = "PRECONDITION_FAILED - unknown exchange type 'no-such-type'"
        assert (closed.reply_code, closed.reply_text) == (406, text)
        still_usable(channel.connection)
    else:
        raise AssertionError("declared an exchange of an unknown type")


@case("exchange.declare/reserved-name")
def reserved_exchange(world):
    channel = world.channel()
    with channel_closed(403, "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'"):
        channel.exchange_declare("amq.conformance", "direct")
    still_usable(channel.connection)


@case("exchange.declare/default")
def declare_default(world):
    connection = world.connect()
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    with channel_closed(403, text):
        connection.channel().exchange_delete("")
    channel = connection.channel()
    queue = world.queue(channel)
    with channel_closed(403, text):
        channel.queue_bind(queue, "", "key")
    still_usable(connection)


@case("exchange.declare/internal")
def internal_exchange(world):
    connection = world.connect()
    channel = connection.channel()
    outer, inner = world.exchange(channel, "fanout"), world.exchange(channel, "fanout", internal=True)
    queue = world.queue(channel, bind_to=inner)
    channel.exchange_bind(inner, outer)
    channel.confirm_delivery()
    channel.basic_publish(outer, "", b"through the outer one")
    assert drain(channel, queue) == [b"through the outer one"]
    with channel_closed(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{inner}' in vhost '/'"):
        channel.basic_publish(inner, "", b"directly")
    still_usable(connection)


@case("exchange.declare/auto-delete")
def auto_delete_exchange(world):
    connection = world.connect()
    channel = connection.channel()
    name = world.exchange(channel, "fanout", auto_delete=True)
    queue = world.queue(channel, bind_to=name)
    channel.exchange_declare(name, passive=True)
    channel.queue_unbind(queue, name, "")
    world.forget(name)
    with channel_closed(404, f"NOT_FOUND - no exchange '{name}' in vhost '/'"):
        channel.exchange_declare(name, passive=True)


@case("exchange.delete/if-unused")
def exchange_if_unused(world):
    connection = world.connect()
    channel = connection.channel()
    name = world.exchange(channel, "fanout")
    queue = world.queue(channel, bind_to=name)
    with channel_closed(406, f"PRECONDITION_FAILED - exchange '{name}' in vhost '/' in use"):
        connection.channel().exchange_delete(name, if_unused=True)
    channel.queue_unbind(queue, name, "")
    channel.exchange_delete(name, if_unused=True)
    world.forget(name)


@case("exchange.delete/missing")
def delete_missing_exchange(world):
    world.channel().exchange_delete(world.name("missing"))


@case("exchange.delete/system")
def delete_system_exchange(world):
    channel = world.channel()
    with channel_closed(403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"):
        channel.exchange_delete("amq.direct")
    still_usable(channel.connection)


@case("exchange.bind/unbind")
def exchange_to_exchange(world):
    channel = world.channel(confirms=True)
    source, destination = world.exchange(channel, "direct"), world.exchange(channel, "fanout")
    queue = world.queue(channel, bind_to=destination)
    channel.exchange_bind(destination, source, "key")
    channel.basic_publish(source, "key", b"bound")
    channel.basic_publish(source, "other key", b"not for us")
    channel.exchange_unbind(destination, source, "key")
    channel.basic_publish(source, "key", b"unbound")
    assert drain(channel, queue) == [b"bound"]


@case("exchange.bind/missing")
def exchange_bind_missing(world):
    connection = world.connect()
    channel = connection.channel()
    here, missing = world.exchange(channel, "fanout"), world.name("missing")
    text = f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    with channel_closed(404, text):
        connection.channel().exchange_bind(here, missing)
    with channel_closed(404, text):
        connection.channel().exchange_bind(missing, here)
    still_usable(connection)


@case("exchange.bind/cycle")
def exchange_cycle(world):
    channel = world.channel(confirms=True)
    ring = [world.exchange(channel, "fanout") for _ in range(3)]
    for source, destination in zip(ring, ring[1:] + ring[:1]):
        channel.exchange_bind(destination, source)
    queues = [world.queue(channel, bind_to=exchange) for exchange in ring]
    channel.basic_publish(ring[0], "", b"once")
    assert [drain(channel, queue) for queue in queues] == [[b"once"]] * 3


@case("exchange.bind/many")
def exchange_to_many(world):
    channel = world.channel(confirms=True)
    source = world.exchange(channel, "fanout")
    exchanges = [world.exchange(channel, "fanout") for _ in range(150)]
    queues = [world.queue(channel, bind_to=exchange) for exchange in exchanges]
    for exchange in exchanges:
        channel.exchange_bind(exchange, source)
    channel.basic_publish(source, "", b"to all")
    assert [drain(channel, queue) for queue in queues] == [[b"to all"]] * 150


@case("queue.declare/counts")
def declare_counts(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel)
    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number)
    other = world.channel()
    declared = other.queue_declare(queue, passive=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (queue, 3, 0)
    channel.basic_qos(prefetch_count=1)
    Inbox(channel, queue).wait_for(1)
    declared = other.queue_declare(queue).method
    assert (declared.message_count, declared.consumer_count) == (2, 1)


@case("queue.declare/server-named")
def server_named(world):
    channel = world.channel()
    names = [channel.queue_declare("", exclusive=True).method.queue for _ in range(2)]
    assert all(name.startswith("amq.gen-") for name in names), names
    assert names[0] != names[1]


@case("queue.declare/last-declared")
def last_declared(world):
    channel = world.channel(confirms=True)
    first = world.queue(channel)
    queue = world.queue(channel)
    channel.basic_publish("", queue, b"to the last")
    assert get(channel, "") == b"to the last"
    channel.queue_bind("", "amq.direct", queue)
    channel.basic_publish("amq.direct", queue, b"bound by the empty name")
    assert channel.queue_purge("").method.message_count == 1
    channel.queue_declare(first, passive=True)
    channel.basic_publish("", first, b"passive counts too")
    assert get(channel, "") == b"passive counts too"
    fresh = channel.connection.channel()
    with channel_closed(404, "NOT_FOUND - no previously declared queue"):
        fresh.basic_get("")


@case("queue.declare/passive-missing")
def passive_missing_queue(world):
    channel, name = world.channel(), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{name}' in vhost '/'"):
        channel.queue_declare(name, passive=True)
    still_usable(channel.connection)


@case("queue.declare/inequivalent")
def inequivalent_queue(world):
    connection = world.connect()
    name = world.queue(connection.channel())
    where = f"for queue '{name}' in vhost '/': received 'true' but current is 'false'"
    with channel_closed(406, f"PRECONDITION_FAILED - inequivalent arg 'durable' {where}"):
        connection.channel().queue_declare(name, durable=True)
    with channel_closed(406, f"PRECONDITION_FAILED - inequivalent arg 'auto_delete' {where}"):
        connection.channel().queue_declare(name, auto_delete=True)
    still_usable(connection)


@case("queue.declare/invalid-argument")
def invalid_argument(world):
    channel, name = world.channel(), world.name()
    text = f"PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{name}' in vhost '/'"
    with channel_closed(406, f"{text}: {{value_negative,-1}}"):
        channel.queue_declare(name, arguments={"x-message-ttl": -1})
    still_usable(channel.connection)


@case("queue.declare/unknown-argument")
def unknown_argument(world):
    channel = world.channel()
    name = world.queue(channel, arguments={"x-conformance-unknown": "one"})
    channel.queue_declare(name, arguments={"x-conformance-unknown": "two"})
    channel.queue_declare(name)


@case("queue.declare/reserved-name")
def reserved_queue(world):
    connection = world.connect()
    with channel_closed(403, "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'"):
        connection.channel().queue_declare("amq.conformance")
    # The name is looked at before the queue is: even its owner cannot declare it by the name it was given.
    given = connection.channel().queue_declare("", exclusive=True).method.queue
    with channel_closed(403, f"ACCESS_REFUSED - queue name '{given}' contains reserved prefix 'amq.*'"):
        connection.channel().queue_declare(given, exclusive=True)
    connection.channel().queue_declare(given, passive=True)
    still_usable(connection)


@case("queue.declare/exclusive")
def exclusive_queue(world):
    mine, other = world.channel(), world.connect()
    queue = world.name("exclusive")
    mine.queue_declare(queue, exclusive=True)
    text = (f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be "
            "originally declared on another connection or the exclusive property value does not match that of the "
            "original declaration.")
    with channel_closed(405, text):
        other.channel().queue_declare(queue, passive=True)
    with channel_closed(405, text):
        other.channel().queue_declare(queue, durable=True)  # Exclusivity is checked before equivalence.
    with channel_closed(405, text):
        other.channel().basic_get(queue)
    with channel_closed(405, text):
        other.channel().queue_delete(queue)
    still_usable(other)
    mine.queue_declare(queue, exclusive=True)


@case("queue.declare/auto-delete")
def auto_delete_queue(world):
    channel = world.channel()
    queue = world.queue(channel, auto_delete=True)
    assert get(channel, queue) is None
    first, second = Inbox(channel, queue), Inbox(channel, queue)
    channel.basic_cancel(first.tag)
    barrier(channel, queue)
    channel.basic_cancel(second.tag)
    world.forget(queue)
    with channel_closed(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, passive=True)


@case("queue.bind/idempotent")
def bind_twice(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "direct")
    queue = world.queue(channel, bind_to=exchange, key="key")
    channel.queue_bind(queue, exchange, "key")
    channel.basic_publish(exchange, "key", b"once")
    channel.queue_unbind(queue, exchange, "key")
    channel.basic_publish(exchange, "key", b"gone with one unbind")
    assert drain(channel, queue) == [b"once"]


@case("queue.bind/missing-exchange")
def bind_missing_exchange(world):
    channel, missing = world.channel(), world.name("missing")
    queue = world.queue(channel)
    with channel_closed(404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'"):
        channel.queue_bind(queue, missing, "")
    still_usable(channel.connection)


@case("queue.bind/missing-queue")
def bind_missing_queue(world):
    channel, missing = world.channel(), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no queue '{missing}' in vhost '/'"):
        channel.queue_bind(missing, "amq.direct", "")
    still_usable(channel.connection)


@case("queue.unbind/missing")
def unbind_missing(world):
    channel = world.channel()
    queue = world.queue(channel)
    channel.queue_unbind(queue, "amq.direct", "never bound")
    channel.queue_unbind(queue, world.name("missing"), "")
    channel.queue_unbind(world.name("missing"), "amq.direct", "")


@case("queue.unbind/stops")
def unbind_stops(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "fanout")
    queue = world.queue(channel, bind_to=exchange)
    channel.basic_publish(exchange, "", b"before")
    channel.queue_unbind(queue, exchange, "")
    channel.basic_publish(exchange, "", b"after")
    assert drain(channel, queue) == [b"before"]


@case("queue.purge/ready-only")
def purge(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel)
    for number in range(5):
        channel.basic_publish("", queue, b"%d" % number)
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 4
    assert ready(channel, queue) == 0
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert drain(channel, queue) == [b"0"]


@case("queue.delete/count")
def delete_count(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel)
    for _ in range(3):
        channel.basic_publish("", queue, b"")
    assert channel.queue_delete(queue).method.message_count == 3
    world.forget(queue)


@case("queue.delete/missing")
def delete_missing_queue(world):
    assert world.channel().queue_delete(world.name("missing")).method.message_count == 0


@case("queue.delete/if-unused")
def queue_if_unused(world):
    connection = world.connect()
    channel = connection.channel()
    queue = world.queue(channel)
    inbox = Inbox(channel, queue)
    with channel_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"):
        connection.channel().queue_delete(queue, if_unused=True)
    channel.basic_cancel(inbox.tag)
    channel.queue_delete(queue, if_unused=True)
    world.forget(queue)


@case("queue.delete/if-empty")
def queue_if_empty(world):
    connection = world.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    queue = world.queue(channel)
    channel.basic_publish("", queue, b"something")
    with channel_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"):
        connection.channel().queue_delete(queue, if_empty=True)
    channel.queue_purge(queue)
    channel.queue_delete(queue, if_empty=True)
    world.forget(queue)


@case("queue.declare/inequivalent-type")
def inequivalent_type(world):
    connection = world.connect()
    for current, asked in [("quorum", "classic"), ("classic", "quorum")]:
        queue = world.queue(connection.channel(), durable=True, arguments={"x-queue-type": current})
        text = f"inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': received '{asked}' but current is '{current}'"
        with channel_closed(406, f"PRECONDITION_FAILED - {text}"):
            connection.channel().queue_declare(queue, durable=True, arguments={"x-queue-type": asked})
    still_usable(connection)
