"""What a case works with: connections, names of its own, cleaning up, and waiting with a deadline."""

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable

import pika
import pika.exceptions as errors

CASES = {}
DEADLINE_SECONDS = 20


@dataclass
class Case:
    """A named case and what it needs of the broker beyond being there."""

    run: Callable
    need: str = None


def case(name, need=None):
    """Register a function that takes a Setting and raises unless the broker behaves."""
    def register(function):
        CASES[name] = Case(function, need)
        return function
    return register


class Setting:
    """One case's view of the broker; everything it declared is deleted at the end."""

    def __init__(self, url):
        self.url = url
        self.connections, self.queues, self.exchanges = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, problem, *_):
        try:
            self._clean_up()
        except errors.AMQPError as untidy:
            # After a failure the failure is what counts.
            if not problem:
                raise
            print(f"could not clean up: {untidy!r}")

    def _clean_up(self):
        for connection in self.connections:
            if connection.is_open:
                try:
                    connection.close()
                except errors.AMQPError:
                    pass  # The case killed it on purpose and has said what it expects of that.
        if self.queues or self.exchanges:
            with pika.BlockingConnection(self.parameters()) as connection:
                channel = connection.channel()
                for queue in self.queues:
                    channel.queue_delete(queue)
                for exchange in self.exchanges:
                    channel.exchange_delete(exchange)

    def parameters(self, **changes):
        """Connection parameters of the URL, with changes."""
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 30
        parameters.blocked_connection_timeout = 60
        parameters.socket_timeout = DEADLINE_SECONDS
        for key, value in changes.items():
            setattr(parameters, key, value)
        return parameters

    def connect(self, **changes):
        """A new connection that the case need not close."""
        connection = pika.BlockingConnection(self.parameters(**changes))
        self.connections.append(connection)
        return connection

    def channel(self, confirms=False, **changes):
        """A channel on a new connection."""
        channel = self.connect(**changes).channel()
        if confirms:
            channel.confirm_delivery()
        return channel

    def name(self, hint="conformance"):
        """A name nobody else uses."""
        return f"{hint}-{uuid.uuid4().hex[:12]}"

    def queue(self, channel, name=None, bind_to=None, key="", **arguments):
        """Declare a queue of our own, bound if asked for; returns its name."""
        name = name or self.name("queue")
        self.queues.append(name)
        channel.queue_declare(name, **arguments)
        for exchange in [bind_to] if bind_to else []:
            channel.queue_bind(name, exchange, key)
        return name

    def exchange(self, channel, kind, **arguments):
        """Declare an exchange of our own; returns its name."""
        name = self.name(kind)
        self.exchanges.append(name)
        channel.exchange_declare(name, kind, **arguments)
        return name

    def forget(self, name):
        """The case has deleted this itself."""
        if name in self.queues:
            self.queues.remove(name)
        else:
            self.exchanges.remove(name)


def until(connection, condition, what, seconds=DEADLINE_SECONDS):
    """Serve the connection until `condition` is true; each round waits for the socket, at most briefly."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        connection.process_data_events(time_limit=0.05)


def barrier(channel, queue):
    """A round trip on the channel: what the broker sent before it has arrived after it."""
    channel.queue_declare(queue, passive=True)
    channel.connection.process_data_events(time_limit=0)


def ready(channel, queue):
    """How many messages wait in the queue."""
    return channel.queue_declare(queue, passive=True).method.message_count


def until_ready(channel, queue, count):
    """Wait until the queue holds `count` ready messages (a close elsewhere is seen here a moment later)."""
    until(channel.connection, lambda: ready(channel, queue) == count, f"{queue} holds {count} ready messages")


def get(channel, queue, auto_ack=True):
    """The body of the next message, or None."""
    method, _, body = channel.basic_get(queue, auto_ack=auto_ack)
    return body if method else None


def drain(channel, queue):
    """The bodies of all ready messages, in order."""
    return list(iter(lambda: get(channel, queue), None))


class Inbox:
    """A consumer that keeps what it is given."""

    def __init__(self, channel, queue, auto_ack=False, **options):
        self.channel = channel
        self.messages = []
        self.tag = channel.basic_consume(queue, self._on_message, auto_ack=auto_ack, **options)

    def _on_message(self, _channel, method, properties, body):
        self.messages.append((method, properties, body))

    def __len__(self):
        return len(self.messages)

    @property
    def bodies(self):
        """The bodies so far, in order."""
        return [body for _, _, body in self.messages]

    @property
    def tags(self):
        """The delivery tags so far, in order."""
        return [method.delivery_tag for method, _, _ in self.messages]

    def wait_for(self, count, seconds=DEADLINE_SECONDS):
        """Serve the connection until `count` messages are here; returns their bodies."""
        until(self.channel.connection, lambda: len(self) >= count, f"{count} deliveries, {len(self)} so far", seconds)
        assert len(self) == count, f"{len(self)} deliveries, expected {count}"
        return self.bodies


@contextmanager
def channel_closed(code, *texts):
    """The block must close its channel with this code and one of these texts, and leave the connection open."""
    yield from _closed(errors.ChannelClosedByBroker, code, texts)


@contextmanager
def connection_closed(code, *texts):
    """The block must close the connection with this code and one of these texts."""
    yield from _closed(errors.ConnectionClosedByBroker, code, texts)


def _closed(kind, code, texts):
    try:
        yield
    except kind as closed:
        assert closed.reply_code == code, f"expected {code}, got {closed.reply_code} {closed.reply_text}"
        assert closed.reply_text in texts, f"expected {' or '.join(texts)}, got {closed.reply_text}"
    else:
        raise AssertionError(f"expected {code} {texts[0]}, nothing was closed")


def still_usable(connection):
    """A channel error leaves the connection fit for work: a new channel publishes and gets."""
    assert connection.is_open, "the connection is closed too"
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"still here")
    assert get(channel, queue) == b"still here"
    channel.close()
