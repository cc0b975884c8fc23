"""Requests and their answers."""

import pika
from setting import Inbox, case, channel_closed, still_usable


@case("rpc/direct-reply-to")
def direct_reply_to(world):
    client, server = world.channel(), world.channel()
    requests = world.queue(server)
    work = Inbox(server, requests, auto_ack=True)
    answers = Inbox(client, "amq.rabbitmq.reply-to", auto_ack=True)
    for number in range(3):
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(number))
        client.basic_publish("", requests, b"question %d" % number, properties)
    work.wait_for(3)
    for _, properties, body in work.messages:
        assert properties.reply_to.startswith("amq.rabbitmq.reply-to."), properties.reply_to
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        server.basic_publish("", properties.reply_to, b"answer to " + body, reply)
    assert answers.wait_for(3) == [b"answer to question %d" % number for number in range(3)]
    assert [properties.correlation_id for _, properties, _ in answers.messages] == ["0", "1", "2"]


@case("rpc/large-direct-replies")
def large_direct_replies(world):
    client, server = world.channel(), world.channel(confirms=True)
    requests = world.queue(server)
    work = Inbox(server, requests, auto_ack=True)
    answers = Inbox(client, "amq.rabbitmq.reply-to", auto_ack=True)
    client.basic_publish("", requests, b"all of it", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    work.wait_for(1)
    address = work.messages[0][1].reply_to
    parts = [b"%d" % number * 2_000_000 for number in range(10)]
    for part in parts:
        server.basic_publish("", address, part)
    assert answers.wait_for(10) == parts


@case("rpc/reply-queue")
def reply_queue(world):
    client, server = world.channel(), world.channel()
    requests = world.queue(server)
    work = Inbox(server, requests)
    own = client.queue_declare("", exclusive=True).method.queue
    answers = Inbox(client, own, auto_ack=True)
    client.basic_publish("", requests, b"2 + 2", pika.BasicProperties(reply_to=own, correlation_id="sum"))
    work.wait_for(1)
    method, properties, _ = work.messages[0]
    server.basic_publish("", properties.reply_to, b"4", pika.BasicProperties(correlation_id=properties.correlation_id))
    server.basic_ack(method.delivery_tag)
    assert answers.wait_for(1) == [b"4"]
    assert answers.messages[0][1].correlation_id == "sum"


@case("rpc/reply-to-needs-no-ack")
def reply_to_needs_no_ack(world):
    connection = world.connect()
    with channel_closed(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        Inbox(connection.channel(), "amq.rabbitmq.reply-to")
    channel = connection.channel()
    Inbox(channel, "amq.rabbitmq.reply-to", auto_ack=True)
    with channel_closed(406, "PRECONDITION_FAILED - reply consumer already set"):
        Inbox(channel, "amq.rabbitmq.reply-to", auto_ack=True)
    channel, request = connection.channel(), pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    queue = world.queue(channel)
    channel.confirm_delivery()
    with channel_closed(406, "PRECONDITION_FAILED - fast reply consumer does not exist"):
        channel.basic_publish("", queue, b"", request)
    still_usable(connection)
