"""A publisher that sends as fast as it may and obeys connection.blocked, on a thread of its own."""

import threading

import pika

IN_FLIGHT = 64
BODY = bytes(64 * 1024)
# Four times the low watermark of the runner's broker: a broker that never blocks fails instead of filling the machine.
MOST = 4096


class Spike:
    """Publishes `first` confirmed messages to a queue, then waits to be told to go on, and in the end to finish."""

    def __init__(self, world, queue, first):
        self.queue = queue
        self.sent = self.confirmed = 0
        self.limit, self.last = first, MOST
        self.reason = self.problem = None
        self.paused = False
        self.blocked, self.unblocked, self.done = threading.Event(), threading.Event(), threading.Event()
        self.connection = pika.SelectConnection(
            world.parameters(), on_open_callback=self._on_open, on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed)
        self.thread = threading.Thread(target=self.connection.ioloop.start, daemon=True)
        self.thread.start()

    def go_on(self):
        """Send until the broker says connection.blocked, or until MOST."""
        self.connection.ioloop.add_callback_threadsafe(self._go_on)

    def _go_on(self):
        self.limit = MOST
        self._send()

    def finish(self, more, seconds):
        """Send `more` further messages, wait for all confirms, close; returns how many were sent in all."""
        self.connection.ioloop.add_callback_threadsafe(lambda: self._end_after(more))
        assert self.done.wait(seconds), f"{self.confirmed} of {self.sent} confirmed"
        self.thread.join(seconds)
        assert not self.problem, self.problem
        return self.sent

    def _end_after(self, more):
        self.limit = self.last = self.sent + more
        self._send()

    def _on_open(self, connection):
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel):
        self.channel = channel
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._send())

    def _send(self):
        while not self.paused and self.sent < min(self.limit, self.confirmed + IN_FLIGHT):
            self.channel.basic_publish("", self.queue, BODY)
            self.sent += 1
        if self.confirmed == self.last and self.connection.is_open:
            self.connection.close()

    def _on_confirm(self, frame):
        if frame.method.NAME != "Basic.Ack":
            self.problem = f"{frame.method.NAME} for {frame.method.delivery_tag}"
        # Acks come in order for one queue, so the highest tells how many.
        self.confirmed = max(self.confirmed, frame.method.delivery_tag)
        self._send()

    def _on_blocked(self, _connection, frame):
        self.paused, self.reason = True, frame.method.reason
        self.blocked.set()

    def _on_unblocked(self, _connection, _frame):
        self.paused = False
        self.unblocked.set()
        self._send()

    def _on_closed(self, _connection, reason):
        if self.confirmed != self.last:
            self.problem = f"closed with {self.confirmed} of {self.sent} confirmed: {reason}"
        self.connection.ioloop.stop()
        self.done.set()
