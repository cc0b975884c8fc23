"""Connections and channels: opening, heartbeats, errors that close them."""

import time

import pika
from case_consume import fill
from setting import DEADLINE_SECONDS, Inbox, case, connection_closed, errors, get, still_usable, until

CAPABILITIES = ["publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
                "connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
                "direct_reply_to"]


@case("connection.open/capabilities")
def capabilities(world):
    properties = world.connect()._impl.server_properties
    missing = [name for name in CAPABILITIES if properties["capabilities"].get(name) is not True]
    assert not missing, missing
    assert properties["product"] == "RabbitMQ", properties["product"]  # kombu and others look for exactly this.
    version = tuple(int(part) for part in properties["version"].split(".")[:2])
    assert version >= (3, 10), properties["version"]


@case("connection.open/vhost-not-found")
def vhost_not_found(world):
    try:
        world.connect(virtual_host="nowhere")
    except (errors.ConnectionClosedByBroker, errors.ProbableAccessDeniedError) as closed:
        # Older releases of pika fold a close during opening into an error of their own, with the broker's inside.
        text = str(closed)
        assert "530" in text and "NOT_ALLOWED - vhost nowhere not found" in text, text
    else:
        raise AssertionError("opened a vhost that is not there")


@case("connection.open/bad-password")
def bad_password(world):
    try:
        world.connect(credentials=pika.PlainCredentials("guest", "wrong"))
    except errors.ProbableAuthenticationError as refused:
        text = str(refused)
        assert ("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
                "For details see the broker logfile.") in text and "403" in text, text
    else:
        raise AssertionError("a wrong password was let in")


@case("connection.update-secret/accepted")
def update_secret(world):
    connection = world.connect()
    answers = []
    method = pika.spec.Connection.UpdateSecret(new_secret="guest", reason="conformance")
    connection._impl._rpc(0, method, answers.append, [pika.spec.Connection.UpdateSecretOk])
    until(connection, lambda: answers, "update-secret-ok")
    still_usable(connection)


@case("heartbeat/negotiated")
def heartbeat_negotiated(world):
    # The client's word is the last one: higher than the server's 60, lower, and none at all.
    for asked in [120, 1, 0]:
        connection = world.connect(heartbeat=asked)
        assert connection._impl.params.heartbeat == asked, connection._impl.params.heartbeat
        still_usable(connection)


@case("heartbeat/idle-survives")
def heartbeat_idle(world):
    connection = world.connect(heartbeat=2)
    idle_until = time.monotonic() + 6
    while (left := idle_until - time.monotonic()) > 0:
        connection.process_data_events(time_limit=left)
    # pika closes a connection that heard nothing for an interval and a half, so the server's beats came too.
    still_usable(connection)


@case("heartbeat/silent-dropped")
def heartbeat_silent(world):
    silent = world.channel(heartbeat=1)
    queue = world.queue(silent)
    fill(world, queue, 1)
    Inbox(silent, queue).wait_for(1)
    # From here nobody serves that connection: no beats, though its socket stays open.
    other = world.channel()
    inbox = Inbox(other, queue)
    inbox.wait_for(1, seconds=15)
    assert inbox.messages[0][0].redelivered


@case("channel.open/many")
def many_channels(world):
    connection = world.connect()
    channels = [connection.channel() for _ in range(100)]
    queues = [channel.queue_declare("", exclusive=True).method.queue for channel in channels]
    for channel, queue in zip(channels, queues):
        channel.confirm_delivery()
        channel.basic_publish("", queue, queue.encode())
    for channel, queue in zip(reversed(channels), reversed(queues)):
        assert get(channel, queue) == queue.encode()


@case("channel.open/number-reused")
def channel_number_reused(world):
    connection = world.connect()
    for _ in range(50):
        channel = connection.channel(7)
        channel.queue_declare("", exclusive=True)
        channel.close()
    still_usable(connection)


@case("channel.open/twice")
def channel_opened_twice(world):
    channel = world.channel()
    with connection_closed(504, "CHANNEL_ERROR - second 'channel.open' seen"):
        channel._impl._send_method(pika.spec.Channel.Open())
        channel.connection.process_data_events(time_limit=DEADLINE_SECONDS)


@case("channel.flow/inactive")
def flow_inactive(world):
    channel = world.channel()
    with connection_closed(540, "NOT_IMPLEMENTED - active=false"):
        channel.flow(False)
