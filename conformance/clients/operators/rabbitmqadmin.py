"""Debian's rabbitmqadmin, the Python tool of RabbitMQ's management plugin."""

import csv
import io
import json
import tempfile
from pathlib import Path

from node import run


def case(node):
    """Declares, lists, publishes, gets, purges, exports, imports, deletes."""
    host, port = node.address.hostname, str(node.address.port)
    vhost, user, queue, exchange = (f"{node.name}-{kind}" for kind in ["vhost", "user", "queue", "exchange"])

    def admin(*words, inside=True):
        return run(["rabbitmqadmin", "-H", host, "-P", port, "-u", "guest", "-p", "guest", *(["-V", vhost] if inside else []), *words])

    def listed(what, *columns):
        text = admin("-f", "tsv", "list", what, *columns)
        return [tuple(row) for row in csv.reader(io.StringIO(text), delimiter="\t")][1:]

    node.made += [f"vhosts/{vhost}", f"users/{user}"]
    assert "vhost declared" in admin("declare", "vhost", f"name={vhost}", inside=False)
    assert "user declared" in admin("declare", "user", f"name={user}", "password=secret", "tags=monitoring", inside=False)
    for who in ["guest", user]:
        allowed = ["configure=.*", "write=.*", "read=.*"]
        assert "permission declared" in admin("declare", "permission", f"vhost={vhost}", f"user={who}", *allowed, inside=False)
    assert "queue declared" in admin("declare", "queue", f"name={queue}", "durable=true", 'arguments={"x-max-length": 100}')
    assert "exchange declared" in admin("declare", "exchange", f"name={exchange}", "type=topic")
    assert "binding declared" in admin("declare", "binding", f"source={exchange}", f"destination={queue}", "routing_key=a.#")
    assert "policy declared" in admin("declare", "policy", "name=limit", "pattern=.*", 'definition={"message-ttl":60000}', "apply-to=queues")
    assert (queue,) in listed("queues", "name") and (exchange, "topic") in listed("exchanges", "name", "type")
    assert (exchange, queue, "a.#") in listed("bindings", "source", "destination", "routing_key")
    assert ("limit", ".*") in listed("policies", "name", "pattern")
    assert (vhost,) in listed("vhosts", "name") and user in [name for name, *_ in listed("users", "name")]
    assert "Message published" in admin("publish", f"exchange={exchange}", "routing_key=a.b", "payload=hello")
    assert "NOT routed" in admin("publish", f"exchange={exchange}", "routing_key=b", "payload=lost")
    got = json.loads(admin("-f", "raw_json", "get", f"queue={queue}", "count=5"))
    assert [(one["payload"], one["routing_key"], one["redelivered"]) for one in got] == [("hello", "a.b", False)], got
    assert "queue purged" in admin("purge", "queue", f"name={queue}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.json"
        admin("export", str(file))
        defined = json.loads(file.read_text())
        assert [one["name"] for one in defined["queues"]] == [queue] and defined["policies"][0]["definition"] == {"message-ttl": 60000}
        assert "queue deleted" in admin("delete", "queue", f"name={queue}")
        assert "Uploaded definitions" in admin("import", str(file))
    assert (queue,) in listed("queues", "name") and (exchange, queue, "a.#") in listed("bindings", "source", "destination", "routing_key")
    assert "rabbitmq_version" in admin("show", "overview", inside=False) or "RabbitMQ" in admin("show", "overview", inside=False)
