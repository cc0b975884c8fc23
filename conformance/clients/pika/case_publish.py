"""What a publisher is told: returns, confirms, refusals."""

import pika
from setting import DEADLINE_SECONDS, Inbox, case, channel_closed, connection_closed, drain, errors, get, ready
from setting import still_usable


class Publisher:
    """pika's asynchronous client: publishes without waiting, and keeps what comes back in the order it came."""

    def __init__(self, world, publishes, mandatory=False):
        self.publishes, self.mandatory = publishes, mandatory
        self.events, self.unsettled, self.problem = [], set(range(1, len(publishes) + 1)), None
        self.connection = pika.SelectConnection(
            world.parameters(), on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_closed, on_close_callback=self._on_closed)

    def run(self):
        """Publish everything and wait for the last confirm; returns the events."""
        self.connection.ioloop.call_later(3 * DEADLINE_SECONDS, self._too_late)
        self.connection.ioloop.start()
        assert not self.problem, self.problem
        return self.events

    def _on_channel(self, channel):
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_closed)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._publish(channel))

    def _publish(self, channel):
        for exchange, key, body in self.publishes:
            channel.basic_publish(exchange, key, body, mandatory=self.mandatory)

    def _on_return(self, _channel, method, _properties, body):
        self.events.append(("return", method.reply_code, body))

    def _on_confirm(self, frame):
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        covered = {number for number in self.unsettled if number <= tag} if multiple else {tag}
        if not covered <= self.unsettled or not covered:
            self.problem = f"{frame.method.NAME} {tag} settles what was settled already"
        self.unsettled -= covered
        self.events.append((frame.method.NAME, sorted(covered)))
        if not self.unsettled or self.problem:
            self._stop()

    def _on_closed(self, _who, reason):
        if self.unsettled:
            self.problem = f"closed with {len(self.unsettled)} unsettled: {reason}"
            self._stop()

    def _too_late(self):
        self.problem = f"{len(self.unsettled)} publishes still unsettled"
        self._stop()

    def _stop(self):
        if self.connection.is_open:
            self.connection.close()
        self.connection.ioloop.stop()


@case("basic.publish/immediate")
def immediate(world):
    channel = world.channel()
    with connection_closed(540, "NOT_IMPLEMENTED - immediate=true"):
        # pika's own publish has no such flag any more; its method does.
        publish = pika.spec.Basic.Publish(exchange="", routing_key="somewhere", immediate=True)
        channel._impl._send_method(publish, (pika.BasicProperties(), b""))
        channel.connection.process_data_events(time_limit=DEADLINE_SECONDS)


@case("basic.publish/user-id")
def user_id(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel)
    channel.basic_publish("", queue, b"", pika.BasicProperties(user_id="guest"))
    _, properties, _ = channel.basic_get(queue, auto_ack=True)
    assert properties.user_id == "guest"
    text = "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'"
    with channel_closed(406, text):
        channel.basic_publish("", queue, b"", pika.BasicProperties(user_id="root"))
    still_usable(channel.connection)


@case("basic.publish/expiration-invalid")
def expiration_invalid(world):
    connection = world.connect()
    queue = world.queue(connection.channel())
    for value, reason in [("soon", "no_integer"), ("1s", '{leftover_string,"s"}'), ("-1", "{value_negative,-1}")]:
        channel = connection.channel()
        channel.confirm_delivery()
        with channel_closed(406, f"PRECONDITION_FAILED - invalid expiration '{value}': {reason}"):
            channel.basic_publish("", queue, b"", pika.BasicProperties(expiration=value))
    still_usable(connection)


@case("basic.return/unroutable")
def unroutable(world):
    channel, key = world.channel(confirms=True), world.name("nowhere")
    try:
        channel.basic_publish("amq.direct", key, b"come back", pika.BasicProperties(message_id="7"), mandatory=True)
    except errors.UnroutableError as returned:
        [message] = returned.messages
        method = message.method
        assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE"), method
        assert (method.exchange, method.routing_key) == ("amq.direct", key), method
        assert (message.properties.message_id, message.body) == ("7", b"come back")
    else:
        raise AssertionError("an unroutable mandatory message was not returned")
    still_usable(channel.connection)


@case("basic.return/before-ack")
def return_before_ack(world):
    events = Publisher(world, [("", world.name("nowhere"), b"%d" % number) for number in range(3)], mandatory=True).run()
    returned, acked = [], []
    for event in events:
        if event[0] == "return":
            assert event[1] == 312, event
            returned.append(int(event[2]) + 1)
        else:
            assert event[0] == "Basic.Ack", event
            acked += event[1]
            assert set(event[1]) <= set(returned), f"acked before returned: {events}"
    assert (returned, sorted(acked)) == ([1, 2, 3], [1, 2, 3])


@case("basic.return/alternate-exchange")
def not_returned_with_alternate(world):
    channel = world.channel(confirms=True)
    spare = world.exchange(channel, "fanout")
    queue = world.queue(channel, bind_to=spare)
    main = world.exchange(channel, "direct", arguments={"alternate-exchange": spare})
    channel.basic_publish(main, "unknown", b"taken", mandatory=True)
    assert drain(channel, queue) == [b"taken"]


@case("basic.return/none")
def routed_not_returned(world):
    channel = world.channel(confirms=True)
    queue = world.queue(channel)
    channel.basic_publish("", queue, b"routed", mandatory=True)
    assert get(channel, queue) == b"routed"


@case("confirm/single")
def confirm_single(world):
    queue = world.queue(world.channel())
    assert Publisher(world, [("", queue, b"one")]).run() == [("Basic.Ack", [1])]


@case("confirm/batch")
def confirm_batch(world):
    channel = world.channel()
    queue = world.queue(channel)
    events = Publisher(world, [("", queue, b"%d" % number) for number in range(100)]).run()
    assert {name for name, _ in events} == {"Basic.Ack"}
    assert drain(channel, queue) == [b"%d" % number for number in range(100)]


@case("confirm/multiple")
def confirm_multiple(world):
    # Whether acks are coalesced is the broker's choice; that each number is settled once is not (Publisher sees to it).
    channel = world.channel()
    first, second = world.queue(channel), world.queue(channel, durable=True)
    events = Publisher(world, [("", first if number % 3 else second, b"") for number in range(1000)]).run()
    covered = sorted(number for name, numbers in events for number in numbers if name == "Basic.Ack")
    assert covered == list(range(1, 1001))


@case("confirm/unroutable")
def confirm_unroutable(world):
    assert Publisher(world, [("", world.name("nowhere"), b"lost")]).run() == [("Basic.Ack", [1])]


@case("confirm/ten-thousand")
def confirm_ten_thousand(world):
    channel = world.channel()
    queue = world.queue(channel)
    Publisher(world, [("", queue, b"%d" % number) for number in range(10_000)]).run()
    assert ready(channel, queue) == 10_000
    bodies = Inbox(channel, queue, auto_ack=True).wait_for(10_000, seconds=60)
    assert bodies == [b"%d" % number for number in range(10_000)]


@case("confirm/tx-channel")
def confirm_on_tx(world):
    channel = world.channel()
    channel.tx_select()
    with channel_closed(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        channel.confirm_delivery()
    still_usable(channel.connection)
