"""Which queues a message reaches."""

from setting import case, channel_closed, drain, still_usable

import pika


def publish(channel, exchange, key, body, **properties):
    """Publish confirmed: the broker has routed when this returns."""
    channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties))


@case("route/default")
def default(world):
    channel = world.channel(confirms=True)
    one, other = world.queue(channel), world.queue(channel)
    publish(channel, "", one, b"by name")
    assert (drain(channel, one), drain(channel, other)) == ([b"by name"], [])


@case("route/direct")
def direct(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "direct")
    red, both = world.queue(channel, bind_to=exchange, key="red"), world.queue(channel, bind_to=exchange, key="red")
    channel.queue_bind(both, exchange, "blue")
    for key in ["red", "blue", "Red", "red.", ""]:
        publish(channel, exchange, key, key.encode())
    assert (drain(channel, red), drain(channel, both)) == ([b"red"], [b"red", b"blue"])


@case("route/fanout")
def fanout(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "fanout")
    queues = [world.queue(channel, bind_to=exchange, key=key) for key in ["", "ignored", "too"]]
    publish(channel, exchange, "any key", b"to all")
    assert [drain(channel, queue) for queue in queues] == [[b"to all"]] * 3


@case("route/topic")
def topic(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "topic")
    expected = {
        "order.*": ["order.new", "order."],
        "order.#": ["order", "order.new", "order.", "order.new.eu", "order..eu"],
        "#": ["", "order", "order.new", "order.", "order.new.eu", "order..eu", "invoice.new"],
        "*": ["order"],  # The empty key has no words at all; "order." has two.
        "*.new.#": ["order.new", "order.new.eu", "invoice.new"],
        "#.eu": ["order.new.eu", "order..eu"],
        "order.*.eu": ["order.new.eu", "order..eu"],
        "#.#": ["", "order", "order.new", "order.", "order.new.eu", "order..eu", "invoice.new"],
        "order.new": ["order.new"],
    }
    queues = {pattern: world.queue(channel, bind_to=exchange, key=pattern) for pattern in expected}
    for key in expected["#"]:
        publish(channel, exchange, key, key.encode())
    for pattern, keys in expected.items():
        seen = [body.decode() for body in drain(channel, queues[pattern])]
        assert seen == keys, f"{pattern!r} took {seen}, expected {keys}"


def headers_queue(world, channel, exchange, **binding):
    """A queue bound by header values; x_match stands for x-match."""
    queue = world.queue(channel)
    arguments = {key.replace("x_", "x-"): value for key, value in binding.items()}
    channel.queue_bind(queue, exchange, "", arguments)
    return queue


@case("route/headers-all")
def headers_all(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "headers")
    both = headers_queue(world, channel, exchange, x_match="all", shape="round", size=3)
    unsaid = headers_queue(world, channel, exchange, shape="round", size=3)
    publish(channel, exchange, "", b"both", headers={"shape": "round", "size": 3, "more": True})
    publish(channel, exchange, "", b"one", headers={"shape": "round"})
    publish(channel, exchange, "", b"other value", headers={"shape": "round", "size": 4})
    publish(channel, exchange, "", b"none")
    assert (drain(channel, both), drain(channel, unsaid)) == ([b"both"], [b"both"])


@case("route/headers-any")
def headers_any(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "headers")
    queue = headers_queue(world, channel, exchange, x_match="any", shape="round", size=3)
    publish(channel, exchange, "", b"both", headers={"shape": "round", "size": 3})
    publish(channel, exchange, "", b"one", headers={"size": 3})
    publish(channel, exchange, "", b"wrong", headers={"shape": "square", "size": "3"})
    publish(channel, exchange, "", b"none")
    assert drain(channel, queue) == [b"both", b"one"]


@case("route/headers-x-match-invalid")
def x_match_invalid(world):
    channel = world.channel()
    exchange = world.exchange(channel, "headers")
    queue = world.queue(channel)
    start = "PRECONDITION_FAILED - Invalid x-match field value <<\"most\">>; expected "
    with channel_closed(406, start + "all or any", start + "all, any, all-with-x, or any-with-x"):
        channel.queue_bind(queue, exchange, "", {"x-match": "most"})
    still_usable(channel.connection)


@case("route/alternate-exchange")
def alternate_exchange(world):
    channel = world.channel(confirms=True)
    spare = world.exchange(channel, "fanout")
    main = world.exchange(channel, "direct", arguments={"alternate-exchange": spare})
    wanted, rest = world.queue(channel, bind_to=main, key="known"), world.queue(channel, bind_to=spare)
    publish(channel, main, "known", b"taken")
    publish(channel, main, "unknown", b"left")
    assert (drain(channel, wanted), drain(channel, rest)) == ([b"taken"], [b"left"])


@case("route/one-copy")
def one_copy(world):
    channel = world.channel(confirms=True)
    exchange, behind = world.exchange(channel, "topic"), world.exchange(channel, "fanout")
    queue = world.queue(channel, bind_to=exchange, key="a.#")
    channel.queue_bind(queue, exchange, "#.b")
    channel.queue_bind(queue, behind, "")
    channel.exchange_bind(behind, exchange, "a.b")
    publish(channel, exchange, "a.b", b"four ways")
    assert drain(channel, queue) == [b"four ways"]


@case("route/cc-bcc")
def cc_bcc(world):
    channel = world.channel(confirms=True)
    to, copy, blind = (world.queue(channel) for _ in range(3))
    publish(channel, "", to, b"letter", headers={"CC": [copy, to], "BCC": [blind]})
    for queue in [to, copy, blind]:
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        assert (body, properties.headers) == (b"letter", {"CC": [copy, to]}), properties.headers
        assert drain(channel, queue) == [], "a second copy"


@case("route/cc-invalid")
def cc_invalid(world):
    channel = world.channel(confirms=True)
    text = 'PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}'
    with channel_closed(406, text, text.replace("invalid message: ", "")):
        publish(channel, "", world.queue(channel), b"", headers={"CC": "not an array"})
    still_usable(channel.connection)


@case("route/bad-exchange")
def bad_exchange(world):
    channel, missing = world.channel(confirms=True), world.name("missing")
    with channel_closed(404, f"NOT_FOUND - no exchange '{missing}' in vhost '/'"):
        publish(channel, missing, "", b"")
    still_usable(channel.connection)


def where(channel, queues):
    """Body -> the queue it is in, for everything in these queues."""
    return {body: queue for queue in queues for body in drain(channel, queue)}


@case("route/consistent-hash")
def consistent_hash(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "x-consistent-hash")
    queues = [world.queue(channel, bind_to=exchange, key=weight) for weight in ["1", "1", "8"]]
    keys = [f"customer {number}" for number in range(300)]
    for key in keys:
        publish(channel, exchange, key, key.encode())
    first = where(channel, queues)
    for key in reversed(keys):
        publish(channel, exchange, key, key.encode())
    assert len(first) == 300 and where(channel, queues) == first, "a key changed its way"
    counts = [list(first.values()).count(queue) for queue in queues]
    assert 0 < counts[0] < counts[2] > counts[1] > 0, f"weights 1, 1 and 8 took {counts}"
    channel.queue_delete(queues.pop())
    for key in keys:
        publish(channel, exchange, key, key.encode())
    left = where(channel, queues)
    assert len(left) == 300, "a key was lost with its queue"
    moved = [body for body, queue in first.items() if queue in queues and left[body] != queue]
    assert not moved, f"{len(moved)} keys of other queues moved"


@case("route/consistent-hash-property")
def consistent_hash_property(world):
    channel = world.channel(confirms=True)
    for arguments, properties in [
        ({"hash-header": "customer"}, lambda value: {"headers": {"customer": value}}),
        ({"hash-property": "message_id"}, lambda value: {"message_id": value}),
        ({"hash-property": "correlation_id"}, lambda value: {"correlation_id": value}),
        ({"hash-property": "timestamp"}, lambda value: {"timestamp": int(value)}),
    ]:
        exchange = world.exchange(channel, "x-consistent-hash", arguments=arguments)
        queues = [world.queue(channel, bind_to=exchange, key="1") for _ in range(3)]
        ways = []
        for key in ["one", "another"]:
            for value in map(str, range(50)):
                publish(channel, exchange, key, value.encode(), **properties(value))
            ways.append(where(channel, queues))
        assert len(ways[0]) == 50 and ways[0] == ways[1], f"{arguments}: a value changed its way"
        assert len(set(ways[0].values())) == 3, f"{arguments}: a queue has no share"


@case("route/consistent-hash-invalid")
def consistent_hash_invalid(world):
    connection = world.connect()
    channel = connection.channel()
    exchange = world.exchange(channel, "x-consistent-hash")
    queue = world.queue(channel)
    for key, text in [("0", "greater than 0"), ("heavy", 'an integer: <<"heavy">>')]:
        with channel_closed(406, f"PRECONDITION_FAILED - The binding key must be {text}"):
            connection.channel().queue_bind(queue, exchange, key)
    both = {"hash-header": "h", "hash-property": "message_id"}
    with channel_closed(406, "PRECONDITION_FAILED - hash-header and hash-property are mutually exclusive"):
        connection.channel().exchange_declare(world.name(), "x-consistent-hash", arguments=both)
    still_usable(connection)


@case("route/modulus-hash")
def modulus_hash(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "x-modulus-hash")
    queues = [world.queue(channel, bind_to=exchange, key=key) for key in ["", "", "any"]]
    ways = []
    for _ in range(2):
        for number in range(100):
            publish(channel, exchange, f"customer {number}", str(number).encode())
        ways.append(where(channel, queues))
    assert len(ways[0]) == 100 and ways[0] == ways[1], "a key changed its way"
    assert set(ways[0].values()) == set(queues), "a queue has no share"


@case("route/random")
def random(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "x-random")
    queues = [world.queue(channel, bind_to=exchange) for _ in range(3)]
    for number in range(150):
        publish(channel, exchange, "the same", str(number).encode())
    shares = [drain(channel, queue) for queue in queues]
    assert sorted(map(int, sum(shares, []))) == list(range(150)), "not every message is there once"
    assert all(shares), "a queue has no share"


@case("route/recent-history")
def recent_history(world):
    channel = world.channel(confirms=True)
    default = world.exchange(channel, "x-recent-history")
    short = world.exchange(channel, "x-recent-history", arguments={"x-recent-history-length": 3})
    bodies = [str(number).encode() for number in range(30)]
    for body in bodies:
        publish(channel, default, "", body, delivery_mode=2, headers={"number": int(body)})
        publish(channel, short, "", body)
    queues = [world.queue(channel, bind_to=exchange) for exchange in [default, short]]
    for exchange in [default, short]:
        publish(channel, exchange, "", b"more")
    _, properties, body = channel.basic_get(queues[0], auto_ack=True)
    assert (body, properties.delivery_mode, properties.headers) == (b"10", 2, {"number": 10})
    assert drain(channel, queues[0]) == bodies[11:] + [b"more"]
    assert drain(channel, queues[1]) == bodies[-3:] + [b"more"]


@case("route/recent-history-no-store")
def recent_history_no_store(world):
    channel = world.channel(confirms=True)
    exchange = world.exchange(channel, "x-recent-history")
    early = world.queue(channel, bind_to=exchange)
    publish(channel, exchange, "", b"secret", headers={"x-recent-history-no-store": True})
    publish(channel, exchange, "", b"open")
    late = world.queue(channel, bind_to=exchange)
    assert (drain(channel, early), drain(channel, late)) == ([b"secret", b"open"], [b"open"])
    text = "PRECONDITION_FAILED - Invalid argument 0, 'x-recent-history-length' must be a positive integer"
    with channel_closed(406, text):
        arguments = {"x-recent-history-length": 0}
        channel.connection.channel().exchange_declare(world.name(), "x-recent-history", arguments=arguments)
