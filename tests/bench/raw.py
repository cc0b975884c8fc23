"""A client of AMQP 0-9-1 that does what no library would: it sends frames that were made before, as fast as they go,
reads as slowly as it is told, and takes little of a processor. Answers are waited for, not looked at."""

import socket
import struct
import time

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
DELIVERY = (60, 60)


def short_string(text):
    raw = text.encode()
    return bytes([len(raw)]) + raw


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


def method(channel, class_id, method_id, arguments=b""):
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + arguments)


def publish(channel, exchange, key, body, persistent=False):
    """The frames of a publish."""
    arguments = b"\0\0" + short_string(exchange) + short_string(key) + b"\0"
    properties = struct.pack(">HB", 0x1000, 2) if persistent else b"\0\0"
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties
    return method(channel, 60, 40, arguments) + frame(HEADER, channel, header) + frame(BODY, channel, body)


class Client:
    """A connection with so many channels."""

    def __init__(self, port, channels=1):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.settimeout(60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = bytearray()
        self.send(b"AMQP\0\0\x09\x01")
        self.answer((10, 10))
        login = b"\0guest\0guest"
        arguments = struct.pack(">I", 0) + short_string("PLAIN") + struct.pack(">I", len(login)) + login
        self.send(method(0, 10, 11, arguments + short_string("en_US")))
        self.answer((10, 30))
        # The largest numbers of channels and bytes of a frame that are always granted, and no heartbeats.
        self.send(method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0)))
        self.ask((10, 40), (10, 41), short_string("/") + b"\0\0", channel=0)
        for channel in range(1, channels + 1):
            self.ask((20, 10), (20, 11), b"\0", channel)

    def send(self, frames):
        self.socket.sendall(frames)

    def ask(self, question, answer, arguments, channel=1):
        """Sends a method and waits for the one that answers it."""
        self.send(method(channel, *question, arguments))
        return self.answer(answer)

    def answer(self, wanted):
        """Reads up to the method wanted; what else comes is dropped, except the end of it all."""
        while True:
            kind, _, payload = self.next_frame()
            if kind == METHOD:
                found = struct.unpack_from(">HH", payload)
                if found == wanted:
                    return payload
                if found in ((10, 50), (20, 40)):
                    raise RuntimeError(f"the broker closes: {payload[6:80]!r}")

    def next_frame(self):
        while len(self.input) < 7 or len(self.input) < 8 + struct.unpack_from(">I", self.input, 3)[0]:
            self.read()
        kind, channel, length = struct.unpack_from(">BHI", self.input)
        payload = bytes(self.input[7:7 + length])
        del self.input[:8 + length]
        return kind, channel, payload

    def read(self, most=1 << 16):
        part = self.socket.recv(most)
        if not part:
            raise RuntimeError("the broker has closed the connection")
        self.input += part

    def declare(self, queue, durable=False, channel=1):
        self.ask((50, 10), (50, 11), b"\0\0" + short_string(queue) + bytes([2 * durable]) + b"\0\0\0\0", channel)

    def bind(self, queue, exchange, key, channel=1):
        names = short_string(queue) + short_string(exchange) + short_string(key)
        self.ask((50, 20), (50, 21), b"\0\0" + names + b"\0\0\0\0\0", channel)

    def declare_exchange(self, name, kind):
        self.ask((40, 10), (40, 11), b"\0\0" + short_string(name) + short_string(kind) + b"\0\0\0\0\0")

    def delete_exchange(self, name):
        self.ask((40, 20), (40, 21), b"\0\0" + short_string(name) + b"\0")

    def purge(self, queue):
        self.ask((50, 30), (50, 31), b"\0\0" + short_string(queue) + b"\0")

    def delete(self, queue):
        self.ask((50, 40), (50, 41), b"\0\0" + short_string(queue) + b"\0")

    def prefetch(self, count, channel=1):
        self.ask((60, 10), (60, 11), struct.pack(">IHB", 0, count, 0), channel)

    def consume(self, queue, no_ack, channel=1):
        self.ask((60, 20), (60, 21), b"\0\0" + short_string(queue) + b"\0" + bytes([2 * no_ack]) + b"\0\0\0\0", channel)

    def ready(self, queue):
        """How many messages wait."""
        name = short_string(queue)
        answer = self.ask((50, 10), (50, 11), b"\0\0" + name + b"\1" + b"\0\0\0\0")
        return struct.unpack_from(">I", answer, 4 + len(name))[0]

    def deliveries(self):
        """The channel and tag of each delivery, for ever."""
        while True:
            kind, channel, payload = self.next_frame()
            if kind == METHOD and struct.unpack_from(">HH", payload) == DELIVERY:
                yield channel, struct.unpack_from(">Q", payload, 5 + payload[4])[0]

    def ack(self, tag, channel=1, multiple=False):
        self.send(method(channel, 60, 80, struct.pack(">QB", tag, multiple)))

    def give_back(self, channel=1):
        """All that the channel has in hand goes back to its queues."""
        self.send(method(channel, 60, 120, struct.pack(">QB", 0, 0b11)))


def paced(rate, until):
    """Numbers from 0 on, so many a second, up to a moment."""
    begun = time.monotonic()
    number = 0
    while (now := time.monotonic()) < until:
        if number < (now - begun) * rate:
            yield number
            number += 1
        else:
            time.sleep(0.001)
