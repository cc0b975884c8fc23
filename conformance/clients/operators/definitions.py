"""Definitions that a RabbitMQ exported, with all kinds of them, and what an import makes of them."""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import amqp

from node import DEADLINE_SECONDS

FILES = ["rabbitmq-3.10.json"]
# What tells one object of a kind from the others.
NAMES = {
    "users": ["name"],
    "vhosts": ["name"],
    "permissions": ["user", "vhost"],
    "topic_permissions": ["user", "vhost", "exchange"],
    "parameters": ["vhost", "component", "name"],
    "global_parameters": ["name"],
    "policies": ["vhost", "name"],
    "queues": ["vhost", "name"],
    "exchanges": ["vhost", "name"],
    "bindings": ["vhost", "source", "destination_type", "destination", "routing_key", "arguments"],
}
# Every cluster has its own.
OWN = {"internal_cluster_id"}


def case(node):
    """Each file is imported, exported with all that it says, and imported again without a change."""
    before = node.get("definitions")
    for file in FILES:
        wanted = json.loads(Path(__file__).with_name(file).read_text())
        node.made += ["vhosts/shop", "queues/%2F/plain"]
        node.made += [f"users/{user['name']}" for user in wanted["users"] if user["name"] != "guest"]
        node.made += ["global-parameters/mqtt_port_to_vhost_mapping"]
        try:
            bring(node, wanted)
            first = node.get("definitions")
            compare(wanted, first, before)
            log_in(node)
            bring(node, first)
            assert by_name(node.get("definitions")) == by_name(first), "the second import changed something"
        finally:
            node.ask("POST", "definitions", {"global_parameters": before["global_parameters"]})


def bring(node, definitions):
    """Import."""
    status, value = node.ask("POST", "definitions", definitions)
    assert status == 204, f"{status} {value}"


def by_name(definitions):
    """Every object under its kind and what names it."""
    found = {}
    for kind, names in NAMES.items():
        for one in definitions[kind]:
            found[kind, json.dumps([one[name] for name in names], sort_keys=True)] = one
    return found


def compare(wanted, exported, before):
    """What was wanted is there as it was said, and nothing else came with it."""
    wanted, exported, before = by_name(wanted), by_name(exported), by_name(before)
    for name, one in wanted.items():
        assert name in exported, f"lost: {name}"
        if one.get("name") not in OWN:
            shown = {key: exported[name].get(key) for key in one}
            assert shown == one, f"{name}: {shown} instead of {one}"
    more = exported.keys() - wanted.keys() - before.keys()
    assert not more, f"from nowhere: {more}"


def log_in(node):
    """Users have the passwords and rights that they had: over AMQP and HTTP, of either hash."""
    address = node.amqp.rpartition("@")[2]
    for user, password in [("alice", "correct horse"), ("mallory", "old one")]:
        with amqp.Connection(address, user, password, virtual_host="shop", connect_timeout=DEADLINE_SECONDS) as connection:
            connection.channel().queue_declare("orders", passive=True)
        assert whoami(node, user, password)["name"] == user
    assert whoami(node, "bob", "battery staple")["tags"] == ["monitoring", "policymaker"]
    assert whoami(node, "bob", "correct horse") is None and whoami(node, "worker", "") is None


def whoami(node, user, password):
    """Who the API takes somebody for; None when it lets nobody in."""
    token = b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(f"{node.http}/api/whoami", headers={"authorization": f"Basic {token}"})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        assert refused.code == 401, refused.code
        return None
