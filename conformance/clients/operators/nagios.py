"""Debian's nagios-plugins-rabbitmq: each check tells OK, and WARNING or CRITICAL where it is to."""

from functools import partial

import amqp

from node import DEADLINE_SECONDS, run, until

TOLD = {0: "OK", 1: "WARNING", 2: "CRITICAL"}


def case(node):
    """Every check of the package, as a monitoring server runs it: of a broker that has a client."""
    node.make(f"queues/%2F/{node.name}", {"durable": True})
    address = node.amqp.rpartition("@")[2]
    with amqp.Connection(address, "guest", "guest", connect_timeout=DEADLINE_SECONDS):
        of_the_broker(node)
    of_a_queue(node)
    of_shovels(node)


def check(node, name, *more, code=0):
    """One check, which must end with this code and say so."""
    place = ["-H", node.address.hostname, "--port", str(node.address.port), "-u", "guest", "-p", "guest"]
    said = run([f"check_rabbitmq_{name}", *place, *more], code)
    assert said.upper().startswith(f"RABBITMQ_{name.upper()} {TOLD[code]}"), said


def of_the_broker(node):
    """What is looked at of a broker and of its node."""
    own = node.get("overview")["node"]
    # No socket in use is a failure to the check of the server.
    until(lambda: node.get(f"nodes/{own}"), lambda shown: shown["sockets_used"] > 0)
    until(lambda: node.get("connections"), lambda shown: shown and "recv_oct" in shown[0])
    for name in ["aliveness", "connections", "objects", "overview"]:
        check(node, name)
    check(node, "overview", "-c", "-1,-1,-1")
    # These make the node's name of the host's.
    for name in ["server", "watermark", "partition"]:
        check(node, name, "--node", own.removeprefix("rabbit@"))


def of_a_queue(node):
    """Messages that wait are counted, and compared with what is given."""
    of_queue = partial(check, node, "queue", "--queue", node.name)
    of_queue()
    node.publish(3)
    of_queue("-w", "1", "-c", "2", code=2)
    of_queue("-w", "1", "-c", "5", code=1)


def of_shovels(node):
    """None is a failure, one that runs is not."""
    check(node, "shovels", code=2)
    value = {"src-uri": "amqp://", "src-queue": node.name, "dest-uri": "amqp://", "dest-queue": f"{node.name}-other"}
    node.make(f"queues/%2F/{node.name}-other", {"durable": True})
    node.make(f"parameters/shovel/%2F/{node.name}", {"value": value})
    until(lambda: node.get("shovels"), lambda shown: [one["state"] for one in shown] == ["running"])
    check(node, "shovels")
