"""One of the two brokers: the connections to it that outlive scripts, and what can be seen of it from outside."""

import json
import urllib.error
import urllib.request
from base64 import b64encode

import pika
import pika.exceptions as errors

from . import departures
from .counter import Counter
from .script import replace

SECONDS = 20


class Side:
    """A broker during one play after the other. `workers` hold messages, each on a connection of its own."""

    def __init__(self, name, url, http):
        self.name = name
        self.url = url
        self.http = http
        self.idle = []
        self.connection = self.counter = None
        self.begin("")

    def begin(self, prefix):
        """A new play, whose own names begin with `prefix`."""
        self.prefix = prefix
        self.workers, self.queues, self.exchanges, self.missing = {}, [], [], set()
        self.policies = set()
        # Quorum queues, those that tell by dead letters or a limit what came back first, and those whose consumers 3.10
        # counts otherwise.
        self.quorum, self.telling, self.uncounted = set(), set(), set()

    def connect(self):
        """A connection that nobody uses."""
        if self.idle:
            return self.idle.pop()
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 0
        parameters.socket_timeout = parameters.blocked_connection_timeout = SECONDS
        return pika.BlockingConnection(parameters)

    def channels(self):
        """(for declarations and counts, for publishes with confirms), both open."""
        if not self.connection or not self.connection.is_open:
            self.connection = self.connect()
            self.control = self.publisher = None
        if not self.control or not self.control.is_open:
            self.control = self.connection.channel()
        if not self.publisher or not self.publisher.is_open:
            self.publisher = self.connection.channel()
            self.publisher.confirm_delivery()
        return self.control, self.publisher

    def worker(self, name):
        """The worker of this name."""
        return self.workers.setdefault(name, Worker(self, name.startswith("tx")))

    def look(self, queues, workers, pass_log):
        """What waits where and how much each worker was given. After it, what was under way at its begin is there.

        `pass_log`: a get that finds nothing passes through the log that all quorum queues write to, behind what they
        were told before.
        """
        self.counter = self.counter or Counter(self.url)
        there = [queue for queue in queues if self.own(queue) not in self.missing]
        told = self.counter.ask([self.own(queue) for queue in there], self.prefix + "log" if pass_log else None)
        counts = dict.fromkeys(queues, "missing")
        for queue, count in zip(there, list(told)):
            if isinstance(count, str):
                self.missing.add(self.own(queue))
                counts[queue] = f"missing: {self.shown(count)}"
            else:
                counts[queue] = [count[0], departures.consumers(count[1], self.own(queue) in self.uncounted)]
        return counts, {name: self.worker(name).look() for name in workers}

    def ask(self, verb, path, body=None):
        """What the management API answers to a change: its status."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Basic {b64encode(b'guest:guest').decode()}"}
        request = urllib.request.Request(f"{self.http}/api/{path}", data, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code

    def own(self, value):
        """A value with the names of this play."""
        return replace(value, "@", self.prefix)

    def shown(self, value):
        """A value without the prefix of this play."""
        return replace(value, self.prefix, "@")

    def end(self):
        """Nothing of the play is left."""
        for worker in self.workers.values():
            worker.end()
        for path in self.policies:
            self.ask("DELETE", path)
        control = self.channels()[0]
        for queue in [*self.queues, *(self.prefix + own for own in ["log", "clock", "late"])]:
            control.queue_delete(queue)
        for exchange in self.exchanges:
            control.exchange_delete(exchange)


class Worker:
    """Takes messages, holds them and settles them, on one channel that may be transactional."""

    def __init__(self, side, tx):
        self.side = side
        self.tx = tx
        self.connection = self.channel = None
        self.consumers, self.seen, self.queues = 0, [], set()
        self.forget()

    def forget(self):
        """The channel is gone, and with it what it held."""
        # Settled ones that a rollback gives back are told apart.
        self.held, self.unsure, self.tag, self.fed = [], [], None, False

    def open(self):
        """Its channel."""
        if not self.connection or not self.connection.is_open:
            self.connection, self.channel = self.side.connect(), None
        if not self.channel or not self.channel.is_open:
            self.forget()
            self.channel = self.connection.channel()
            self.channel.add_on_cancel_callback(lambda _: self.seen.append("cancelled"))
            if self.tx:
                self.channel.tx_select()
        return self.channel

    def consume(self, queue, auto_ack=False, exclusive=False, priority=None):
        """Begin to consume."""
        channel = self.open()
        self.consumers += 1
        arguments = {} if priority is None else {"x-priority": priority}

        def on_message(_channel, method, properties, body):
            if not auto_ack:
                self.held.append(method.delivery_tag)
            self.seen.append(message(self.side, method, properties, body))

        self.tag = channel.basic_consume(queue, on_message, auto_ack=auto_ack, exclusive=exclusive,
                                         arguments=arguments, consumer_tag=f"{self.side.prefix}c{self.consumers}")

    def take(self, queue, auto_ack=False):
        """One message by basic.get, as it looks."""
        method, properties, body = self.open().basic_get(queue, auto_ack=auto_ack)
        if not method:
            return None
        if not auto_ack:
            self.held.append(method.delivery_tag)
        return message(self.side, method, properties, body)

    def look(self):
        """How much it was given so far; what was sent to it at the begin has arrived after it."""
        if self.channel and not self.channel.is_open:
            self.forget()
        elif self.channel:
            try:
                self.channel.exchange_declare("amq.direct", passive=True)
                self.connection.process_data_events(0)
            except (errors.ChannelClosedByBroker, errors.ConnectionClosedByBroker) as closed:
                self.seen.append(self.side.shown(f"closed: {closed.reply_code} {closed.reply_text}"))
                self.forget()
        return len(self.seen)

    def close(self, connection):
        """Close its channel or its whole connection, with what it holds."""
        if self.connection and self.connection.is_open:
            if self.channel and self.channel.is_open:
                # Avoids stalled-handover: pika would cancel what it knows of.
                self.channel._consumer_infos.clear()
                self.channel._pending_events.clear()
            if connection:
                self.connection.close()
            elif self.channel and self.channel.is_open:
                self.channel.close()
        self.forget()

    def end(self):
        """Leave a connection without channels for the next play."""
        self.close(connection=False)
        if self.connection and self.connection.is_open:
            self.side.idle.append(self.connection)


def message(side, method, properties, body):
    """All that a client sees of a message."""
    shown = {name: value for name, value in vars(properties).items() if value is not None}
    if properties.headers is not None:
        shown["headers"] = departures.headers(typed(properties.headers))
    seen = {"body": body.decode(), "exchange": method.exchange, "key": method.routing_key,
            "redelivered": method.redelivered, "tag": method.delivery_tag, "properties": shown}
    seen |= {name: getattr(method, name) for name in ["consumer_tag", "message_count"] if hasattr(method, name)}
    return side.shown(seen)


def typed(value):
    """A field's value, 64-bit numbers told from 32-bit ones."""
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [typed(one) for one in value]
    return value if type(value) in [int, str, bool, float] or value is None else repr(value)
