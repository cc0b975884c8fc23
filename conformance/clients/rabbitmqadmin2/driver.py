# rabbitmqadmin 2 from crates.io, the HTTP API's command line by RabbitMQ's own team: made for the releases after 3.13, and
# strict about what it reads.
#
# needs:    python3 cargo
# apt:      python3-venv cargo
# install:  cargo install --quiet --locked --debug --no-default-features --root "$WORK" rabbitmqadmin@2.35.0
# run:      RABBITMQADMIN="$WORK/bin/rabbitmqadmin" python3 -B "$FILE"
# seconds:  300
"""What is read, and what comes and goes."""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "operators"))

from node import run, until
from play import play

# What there is to read that 3.10 has too.
READ = """
connections list
exchanges list
feature_flags list
global_parameters list
health_check local_alarms
health_check cluster_wide_alarms
health_check node_is_quorum_critical
list bindings
list connections
list exchanges
list feature_flags
list operator_policies
list parameters
list permissions
list policies
list queues
list user_connections --username guest
list user_limits
list users
list vhost_limits
list vhosts
policies list_conflicting
queues list
show endpoint
users connections --username guest
"""
# What its own team made it for. (Of 3.10's nodes, and of its channels and consumers that are a
# shovel's, it misses what it wants.)
READ_SINCE_3_13 = """
deprecated_features list
deprecated_features list_used
feature_flags enable_all
federation list_all_links
federation list_all_upstreams
list channels
list consumers
list deprecated_features
list deprecated_features_in_use
list nodes
nodes memory_breakdown_in_bytes --node {node}
nodes memory_breakdown_in_percent --node {node}
plugins list_all
queues rebalance
show churn
show overview
shovels list_all
"""


def admin(node, *words, vhost=None, code=0):
    """What the tool prints; it must end with this code."""
    host, port = node.address.hostname, str(node.address.port)
    inside = ["-V", vhost] if vhost else []
    return run([os.environ["RABBITMQADMIN"], "-H", host, "-P", port, "-u", "guest", "-p", "guest", *inside, *words], code)


def everything_is_read(node):
    """Each list and each page is understood, while a queue has a consumer that the broker itself is."""
    overview = node.get("overview")
    is_new = tuple(map(int, overview["rabbitmq_version"].split(".")[:2])) >= (3, 13)
    node.make(f"queues/%2F/{node.name}", {"durable": True})
    node.make(f"queues/%2F/{node.name}-to", {"durable": True})
    node.make(f"parameters/shovel/%2F/{node.name}", {"value": {
        "src-uri": "amqp://", "src-queue": node.name, "dest-uri": "amqp://", "dest-queue": f"{node.name}-to"}})
    until(lambda: node.get(f"queues/%2F/{node.name}"), lambda queue: queue.get("consumers") == 1)
    for line in READ.split("\n") + (READ_SINCE_3_13.format(node=overview["node"]).split("\n") if is_new else []):
        if line:
            admin(node, *line.split())
    assert node.name in admin(node, "list", "queues") and node.name in admin(node, "queues", "show", "--name", node.name)


def things_come_and_go(node):
    """Declares, binds, publishes, gets, limits, exports, imports, deletes."""
    vhost, user, queue, exchange = (f"{node.name}-{kind}" for kind in ["vhost", "user", "queue", "exchange"])

    def here(*words, code=0):
        return admin(node, *words, vhost=vhost, code=code)

    node.made += [f"vhosts/{vhost}", f"users/{user}"]
    here("declare", "vhost", "--name", vhost)
    here("declare", "user", "--name", user, "--password", "secret", "--tags", "monitoring")
    for who in ["guest", user]:
        here("declare", "permissions", "--user", who, "--configure", ".*", "--write", ".*", "--read", ".*")
    here("declare", "queue", "--name", queue, "--type", "quorum", "--durable", "true")
    here("declare", "exchange", "--name", exchange, "--type", "topic", "--durable", "true")
    here("declare", "binding", "--source", exchange, "--destination-type", "queue", "--destination", queue, "--routing-key", "a.#")
    here("declare", "policy", "--name", "limit", "--pattern", "^x", "--apply-to", "queues", "--priority", "1",
         "--definition", '{"max-length": 20}')
    here("policies", "patch", "--name", "limit", "--definition", '{"max-length": 21}')
    here("declare", "vhost_limit", "--name", "max-queues", "--value", "5")
    here("declare", "user_limit", "--user", user, "--name", "max-channels", "--value", "5")
    assert "routed" in here("publish", "message", "--exchange", exchange, "--routing-key", "a.b", "--payload", "hello")
    assert "hello" in here("get", "messages", "--queue", queue, "--count", "2", "--ack-mode", "ack_requeue_false")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.json"
        here("definitions", "export_from_vhost", "--file", str(file))
        defined = json.loads(file.read_text())
        assert [one["name"] for one in defined["queues"]] == [queue], defined
        assert [one["definition"] for one in defined["policies"]] == [{"max-length": 21}], defined
        here("delete", "queue", "--name", queue)
        here("definitions", "import_into_vhost", "--file", str(file))
    assert queue in here("list", "queues") and "a.#" in here("list", "bindings")
    here("purge", "queue", "--name", queue)
    here("delete", "binding", "--source", exchange, "--destination-type", "queue", "--destination", queue, "--routing-key", "a.#")
    here("delete", "policy", "--name", "limit")
    here("delete", "exchange", "--name", exchange)
    here("delete", "user", "--name", user)
    here("delete", "vhost", "--name", vhost)
    here("delete", "vhost", "--name", vhost, "--idempotently")
    assert node.ask("GET", f"vhosts/{vhost}")[0] == 404


play({"operate/rabbitmqadmin-2/reads": everything_is_read, "operate/rabbitmqadmin-2/changes": things_come_and_go})
