"""What travels: bodies, properties, headers."""

import datetime
import decimal
import hashlib

import pika
from setting import Inbox, case


def through(world, body, properties=None, **changes):
    """(properties, body) as a consumer gets what was published."""
    channel = world.channel(confirms=True, **changes)
    queue = world.queue(channel)
    channel.basic_publish("", queue, body, properties or pika.BasicProperties())
    inbox = Inbox(channel, queue)
    inbox.wait_for(1)
    _, properties, body = inbox.messages[0]
    return properties, body


def bytes_of(size):
    """Bytes that differ from place to place, so that a lost or swapped frame shows."""
    block = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(2048))
    return (block * (size // len(block) + 1))[:size]


@case("body/empty")
def empty_body(world):
    assert through(world, b"")[1] == b""


@case("body/frame-edges")
def frame_edges(world):
    for frame_max in [4096, 131072]:
        payload = frame_max - 8
        for size in [1, payload - 1, payload, payload + 1, 2 * payload, 2 * payload + 1]:
            body = bytes_of(size)
            assert through(world, body, frame_max=frame_max)[1] == body, f"{size} bytes in frames of {frame_max}"


@case("body/16MiB")
def large_body(world):
    body = bytes_of(16 * 1024 * 1024)
    assert through(world, body)[1] == body


@case("properties/all")
def all_properties(world):
    sent = {
        "content_type": "application/json", "content_encoding": "gzip", "headers": {"one": 1}, "delivery_mode": 2,
        "priority": 9, "correlation_id": "correlation ü", "reply_to": "reply", "expiration": "60000",
        "message_id": "message", "timestamp": 1_700_000_000, "type": "type", "user_id": "guest", "app_id": "app",
        "cluster_id": "cluster",
    }
    properties, _ = through(world, b"", pika.BasicProperties(**sent))
    received = {name: getattr(properties, name) for name in sent}
    assert received == sent, {name: (sent[name], received[name]) for name in sent if sent[name] != received[name]}


@case("properties/none")
def no_properties(world):
    properties, _ = through(world, b"bare")
    present = {name: value for name, value in vars(properties).items() if value is not None}
    assert not present, present


@case("headers/every-type")
def header_types(world):
    # pika writes neither floats nor the short integers; other clients do.
    sent = {
        "bool": True, "int": -7, "int 32": 2**31 - 1, "long": -(2**40), "longest": 2**63 - 1,
        "decimal": decimal.Decimal("3.14"), "text": "grün ✓", "empty text": "", "bytes": b"\x00\xff",
        "timestamp": datetime.datetime(2024, 2, 29, 12, 0, 0), "void": None, "array": [1, "two", [True, {"deep": []}]],
        "table": {"nested": {"deeper": {"empty": {}}}}, "long text": "x" * 100_000, "": "empty key", "k" * 255: 1,
    }
    properties, _ = through(world, b"", pika.BasicProperties(headers=sent))
    received = properties.headers
    timestamp = received["timestamp"]
    received["timestamp"] = timestamp.replace(tzinfo=None) if timestamp.tzinfo else timestamp
    assert received == sent, {key: (sent[key], received.get(key)) for key in sent if sent[key] != received.get(key)}
    assert list(received) == list(sent), "the order of the keys changed"
    assert received["bool"] is True
