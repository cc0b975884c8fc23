"""Counts of many queues in one round trip, for looks are most of what a play does: pika alone waits for each reply."""

import socket

import pika
from pika import frame, spec

CHANNEL = 1
READ_BYTES = 65536


class Counter:
    """A connection that asks for counts and nothing else, its requests sent together."""

    def __init__(self, url):
        parameters = pika.URLParameters(url)
        self.socket = socket.create_connection((parameters.host, parameters.port), parameters.socket_timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.socket.sendall(frame.ProtocolHeader().marshal())
        self._take(spec.Connection.Start)
        credentials = parameters.credentials
        response = f"\0{credentials.username}\0{credentials.password}"
        self._send(0, spec.Connection.StartOk({}, "PLAIN", response, "en_US"))
        tune = self._take(spec.Connection.Tune)
        self._send(0, spec.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), spec.Connection.Open("/"))
        self._take(spec.Connection.OpenOk)
        self._open()

    def _open(self):
        self._send(CHANNEL, spec.Channel.Open())
        self._take(spec.Channel.OpenOk)

    def ask(self, queues, log=None):
        """(ready messages, consumers) of each queue, or why there is none; first a get of `log`, which is empty."""
        first = [spec.Basic.Get(queue=log)] if log else []
        self._send(CHANNEL, *first, *(spec.Queue.Declare(queue=queue, passive=True) for queue in queues))
        if log:
            self._take(spec.Basic.GetEmpty)
        for at, _ in enumerate(queues):
            told = self._take(spec.Queue.DeclareOk, spec.Channel.Close)
            if isinstance(told, spec.Channel.Close):
                # The requests behind it were for a channel that is no more.
                self._send(CHANNEL, spec.Channel.CloseOk())
                self._open()
                yield told.reply_text
                yield from self.ask(queues[at + 1:])
                return
            yield told.message_count, told.consumer_count

    def _send(self, channel, *methods):
        self.socket.sendall(b"".join(frame.Method(channel, method).marshal() for method in methods))

    def _take(self, *kinds):
        while True:
            size, got = frame.decode_frame(self.received)
            if got is None:
                more = self.socket.recv(READ_BYTES)
                if not more:
                    raise ConnectionError("the broker has closed the connection that counts")
                self.received += more
                continue
            self.received = self.received[size:]
            if not isinstance(got, frame.Method) or not isinstance(got.method, kinds):
                raise ConnectionError(f"unexpected {got}")
            return got.method
