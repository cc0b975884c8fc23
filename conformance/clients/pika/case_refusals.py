"""Queues that cannot be: arguments of a wrong value, of another kind of queue, or not those the queue has."""

from setting import case, channel_closed, still_usable

QUORUM = {"x-queue-type": "quorum"}


def resource(name):
    return f"queue '{name}' in vhost '/'"


@case("queue.declare/inequivalent-argument")
def inequivalent_argument(world):
    connection = world.connect()
    current = {"x-message-ttl": 60_000, "x-max-length": 5, "x-overflow": "drop-head", "x-dead-letter-exchange": "one",
               "x-dead-letter-routing-key": "key", "x-expires": 600_000, "x-max-priority": 3,
               "x-single-active-consumer": True, "x-max-length-bytes": 1 << 40}
    queue = world.queue(connection.channel(), arguments=current)
    others = {
        "x-message-ttl": (50_000, "received '50000' but current is '60000'"),
        "x-max-length": (6, "received '6' but current is '5'"),
        "x-overflow": ("reject-publish", "received 'reject-publish' but current is 'drop-head'"),
        "x-dead-letter-exchange": ("two", "received 'two' but current is 'one'"),
        "x-dead-letter-routing-key": ("other", "received 'other' but current is 'key'"),
        "x-expires": (600_001, "received '600001' but current is '600000'"),
        "x-max-priority": (4, "received '4' but current is '3'"),
        "x-single-active-consumer": (False, "received 'false' but current is 'true'"),
        "x-max-length-bytes": (5, "received '5' but current is '1099511627776'"),
    }
    for name, (value, words) in others.items():
        text = f"PRECONDITION_FAILED - inequivalent arg '{name}' for {resource(queue)}: {words}"
        with channel_closed(406, text):
            connection.channel().queue_declare(queue, arguments={**current, name: value})
    # One that is missing, and one that is new.
    where = f"PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for {resource(queue)}"
    without = {name: value for name, value in current.items() if name != "x-message-ttl"}
    with channel_closed(406, f"{where}: received none but current is the value '60000' of type 'signedint'"):
        connection.channel().queue_declare(queue, arguments=without)
    plain = world.queue(connection.channel())
    where = f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for {resource(plain)}"
    with channel_closed(406, f"{where}: received the value '5' of type 'signedint' but current is none"):
        connection.channel().queue_declare(plain, arguments={"x-max-length": 5})
    with channel_closed(406, f"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for {resource(plain)}: "
                             "received 'quorum' but current is 'classic'",
                        f"PRECONDITION_FAILED - inequivalent arg 'durable' for {resource(plain)}: "
                        "received 'true' but current is 'false'"):
        connection.channel().queue_declare(plain, durable=True, arguments=QUORUM)
    still_usable(connection)


@case("queue.declare/equivalent-argument")
def equivalent_argument(world):
    channel = world.channel()
    # pika writes a number as 32 bits where it fits, and as 64 where it does not; a missing type is classic.
    queue = world.queue(channel, arguments={"x-message-ttl": 60_000, "x-unknown": 1})
    channel.queue_declare(queue, arguments={"x-message-ttl": Long(60_000), "x-queue-type": "classic"})


class Long(int):
    """A number that pika writes as 64 bits."""

    def bit_length(self):
        return 64


@case("queue.declare/invalid-rule")
def invalid_rule(world):
    connection = world.connect()
    name = world.name()
    wrong = [
        ({"x-message-ttl": "60000"}, "x-message-ttl", '"expected integer, got longstr"'),
        ({"x-message-ttl": 400_000_000_000}, "x-message-ttl", "{value_too_large,400000000000}"),
        ({"x-expires": 0}, "x-expires", "{value_zero,0}"),
        ({"x-expires": -1}, "x-expires", "{value_negative,-1}"),
        ({"x-max-length": -1}, "x-max-length", "{value_negative,-1}"),
        ({"x-max-length-bytes": "many"}, "x-max-length-bytes", '"expected integer, got longstr"'),
        ({"x-max-priority": 256}, "x-max-priority", "{max_value_exceeded,256}"),
        ({"x-max-priority": -1}, "x-max-priority", "{value_negative,-1}"),
        ({"x-overflow": "spill"}, "x-overflow", "invalid_overflow"),
        ({"x-dead-letter-routing-key": "key"}, "x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"),
        ({"x-single-active-consumer": "yes"}, "x-single-active-consumer", "{unacceptable_type,longstr}"),
        ({"x-queue-type": "heap"}, "x-queue-type", "\"unsupported queue type 'heap'\""),
        ({"x-dead-letter-strategy": "often", **QUORUM}, "x-dead-letter-strategy", "invalid_dlx_strategy"),
    ]
    for arguments, argument, reason in wrong:
        text = f"PRECONDITION_FAILED - invalid arg '{argument}' for {resource(name)}: {reason}"
        with channel_closed(406, text):
            connection.channel().queue_declare(name, durable=True, arguments=arguments)
    text = f"PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in {resource(name)}"
    with channel_closed(406, text):
        connection.channel().queue_declare(name, arguments={"x-dead-letter-exchange": 5})
    still_usable(connection)


@case("queue.declare/quorum-refusals")
def quorum_refusals(world):
    connection = world.connect()
    name = world.name()
    refusals = [
        (dict(durable=False), f"invalid property 'non-durable' for {resource(name)}"),
        (dict(durable=True, exclusive=True), f"invalid property 'exclusive-owner' for {resource(name)}"),
        (dict(durable=True, auto_delete=True), f"invalid property 'auto-delete' for {resource(name)}"),
    ]
    for flags, text in refusals:
        with channel_closed(406, f"PRECONDITION_FAILED - {text}"):
            connection.channel().queue_declare(name, arguments=QUORUM, **flags)
    text = f"PRECONDITION_FAILED - invalid arg 'x-max-priority' for {resource(name)} of queue type rabbit_quorum_queue"
    with channel_closed(406, text):
        connection.channel().queue_declare(name, durable=True, arguments={**QUORUM, "x-max-priority": 5})
    text = f"PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for {resource(name)} of queue type rabbit_classic_queue"
    with channel_closed(406, text):
        connection.channel().queue_declare(name, durable=True, arguments={"x-delivery-limit": 5})
    still_usable(connection)
