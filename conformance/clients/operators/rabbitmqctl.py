"""rabbitmqctl as Puppet's module rabbitmq and Ansible's community.rabbitmq run it, and what they read of its answers."""

import json
import os
import re
import shlex

from node import run

# Arguments in Erlang's terms, as a table has them: {"name",value}.
ARGUMENT = re.compile(r'\{("(?:[^"\\]|\\.)*"),([^{}]*)\}')


def case(node):
    """What a run of either makes, finds as it was wanted in the next run, and takes away."""
    vhost, user = f"{node.name}-vhost", f"{node.name}-user"
    node.made += [f"vhosts/{vhost}", f"users/{user}"]
    by_puppet(node, vhost, user)
    by_ansible(node, vhost, user)


def by_puppet(node, vhost, user):
    """Lists without headers; each line is matched as a whole, or the run fails."""
    version = re.search(r"RabbitMQ version: ([\d.]+)", node.ctl("-q", "status"))
    assert version and tuple(map(int, version[1].split(".")[:3])) >= (3, 7, 9), version

    def listed(what, form, *options):
        # An empty list is an empty line, which Ruby's split leaves out.
        lines = node.ctl(f"list_{what}", "-q", "--no-table-headers", *options).rstrip("\n").splitlines()
        found = [re.fullmatch(form, line) for line in lines]
        assert all(found), f"list_{what}: {lines}"
        return [match.groups() for match in found]

    node.ctl("add_vhost", vhost)
    assert (vhost,) in listed("vhosts", r"(\S+)")

    node.ctl("add_user", user, "first")
    node.ctl("set_user_tags", user, "monitoring", "policymaker")
    tags = dict(listed("users", r"(\S+)\s+\[(.*?)\]"))
    assert re.split(r",\s*", tags[user]) == ["monitoring", "policymaker"] and tags["guest"] == "administrator", tags
    assert "refused" not in node.ctl("eval", password_check(user, "first"))
    assert "refused" in node.ctl("eval", password_check(user, "second"))
    node.ctl("change_password", user, "second")
    assert "refused" not in node.ctl("eval", password_check(user, "second"))

    node.ctl("set_permissions", "-p", vhost, user, "^a.*", "", ".*")
    permissions = listed("user_permissions", r"(\S+)\s+(\S*)\s+(\S*)\s+(\S*)", user)
    assert permissions == [(vhost, "^a.*", "", ".*")], permissions

    limit = '{"max-length":100,"dead-letter-exchange":"amq.fanout"}'
    node.ctl("set_policy", "-p", vhost, "--priority", "3", "--apply-to", "queues", "limit", r"^a\.b$", limit)
    form = r"(\S+)\s+(\S+)\s+(\S+)\s+(all|exchanges|queues)?\s+(\S+)\s+(\d+)"
    [(where, name, pattern, kind, definition, priority)] = listed("policies", form, "-p", vhost)
    # Where a release writes a backslash twice, it is read as one.
    shown = (where, name, pattern.replace("\\\\", "\\"), kind, json.loads(definition), priority)
    assert shown == (vhost, "limit", r"^a\.b$", "queues", json.loads(limit), "3"), shown
    node.ctl("clear_policy", "-p", vhost, "limit")
    assert listed("policies", form, "-p", vhost) == []

    shovel = {"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b", "reconnect-delay": 0}
    node.ctl("set_parameter", "-p", vhost, "shovel", "move", json.dumps(shovel))
    [(component, name, value)] = listed("parameters", r"(\S+)\s+(\S+)\s+(\S+)", "-p", vhost)
    assert (component, name, json.loads(value)) == ("shovel", "move", shovel), value
    node.ctl("clear_parameter", "-p", vhost, "shovel", "move")

    node.ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    node.make(f"queues/{vhost}/jobs", {"durable": True, "arguments": {"x-max-length": 7, "x-overflow": "reject-publish"}})
    node.make(f"exchanges/{vhost}/events", {"type": "topic", "durable": True, "internal": True})
    bound, _ = node.ask("POST", f"bindings/{vhost}/e/events/q/jobs", {"routing_key": "a.#"})
    assert bound == 201, bound
    [(name, durable, auto_delete, arguments)] = listed(
        "queues", r"([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)", "-p", vhost, "name", "durable", "auto_delete", "arguments")
    assert (name, durable, auto_delete) == ("jobs", "true", "false"), (name, durable, auto_delete)
    assert values(arguments) == {"x-max-length": 7, "x-overflow": "reject-publish"}, arguments
    exchanges = listed("exchanges", r"(\S*)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)", "-p", vhost,
                       "name", "type", "internal", "durable", "auto_delete", "arguments")
    assert ("events", "topic", "true", "true", "false", "[]") in exchanges, exchanges
    assert ("", "direct", "false", "true", "false", "[]") in exchanges, exchanges
    bindings = listed("bindings", r"([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)", "-p", vhost,
                      "source_name", "destination_name", "destination_kind", "routing_key", "arguments")
    assert ("events", "jobs", "queue", "a.#", "[]") in bindings and ("", "jobs", "queue", "jobs", "[]") in bindings, bindings

    plugins = run([*shlex.split(os.environ["CONFORMANCE_PLUGINS"]), "list", "-E", "-m"]).splitlines()
    # What is said above the names has spaces, by which both know it.
    assert "rabbitmq_management" in plugins, plugins

    node.ctl("clear_permissions", "-p", vhost, user)
    assert listed("user_permissions", r"(\S+)\s+(\S*)\s+(\S*)\s+(\S*)", user) == []
    node.ctl("delete_user", user)
    node.ctl("delete_vhost", vhost)
    assert (vhost,) not in listed("vhosts", r"(\S+)") and user not in dict(listed("users", r"(\S+)\s+\[(.*?)\]"))


def password_check(user, password):
    """The one expression of Erlang that the module has evaluated."""
    return f'rabbit_access_control:check_user_pass_login(list_to_binary("{user}"), list_to_binary("{password}")).'


def values(arguments):
    """A table of arguments as it is shown."""
    return {json.loads(name): json.loads(value) for name, value in ARGUMENT.findall(arguments)}


def by_ansible(node, vhost, user):
    """JSON for users, tabs for most others; the first line of a table is its header."""
    own = node.get("overview")["node"]

    def said(*words, code=0):
        return node.ctl("-q", "-n", own, *words, code=code)

    def rows(*words):
        return [line.split("\t") for line in said(*words).splitlines() if "\t" in line]

    version = json.loads(said("status", "--formatter", "json"))["rabbitmq_version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), version

    said("add_vhost", vhost)
    assert [vhost, "false"] in rows("list_vhosts", "name", "tracing")

    said("add_user", user, "first")
    said("set_user_tags", user, "management")
    said(*f"set_permissions -p {vhost} {user} ^$ .* .*".split())
    users = {one["user"]: one["tags"] for one in json.loads(said("list_users", "--formatter", "json"))}
    assert users[user] == ["management"] and users["guest"] == ["administrator"], users
    permissions = json.loads(said("list_user_permissions", user, "--formatter", "json"))
    assert permissions == [{"vhost": vhost, "configure": "^$", "write": ".*", "read": ".*"}], permissions
    said("authenticate_user", user, "first")
    said("authenticate_user", user, "second", code=65)
    said("change_password", user, "second")
    said("authenticate_user", user, "second")
    said("clear_password", user)
    said("authenticate_user", user, "second", code=65)

    said("set_policy", "-p", vhost, "limit", "^a$", '{"max-length": 3}', "--priority", "1", "--apply-to", "queues")
    head, policy = rows("list_policies", "-p", vhost)
    assert head == ["vhost", "name", "pattern", "apply-to", "definition", "priority"], head
    assert policy == [vhost, "limit", "^a$", "queues", '{"max-length":3}', "1"], policy

    said("set_global_parameter", node.name, '{"a": 1}')
    node.made.append(f"global-parameters/{node.name}")
    found = dict(rows("list_global_parameters"))
    assert json.loads(found[node.name]) == {"a": 1}, found
    said("clear_global_parameter", node.name)
    assert node.name not in dict(rows("list_global_parameters"))

    limits = {"max-connections": 64, "max-queues": 256}
    assert node.ctl("-q", "-p", vhost, "-n", own, "list_vhost_limits").splitlines() == [""]
    node.ctl("-q", "-p", vhost, "-n", own, "set_vhost_limits", json.dumps(limits))
    assert json.loads(node.ctl("-q", "-p", vhost, "-n", own, "list_vhost_limits").splitlines()[0]) == limits
    node.ctl("-q", "-p", vhost, "-n", own, "clear_vhost_limits")
    said("set_user_limits", user, '{"max-connections": 5}')
    said("set_user_limits", user, '{"max-channels": 6}')
    assert json.loads(said("list_user_limits", "--user", user)) == {"max-connections": 5, "max-channels": 6}
    said("clear_user_limits", user, "all")
    assert json.loads(said("list_user_limits", "--user", user)) == {}

    assert dict(rows("list_feature_flags"))["quorum_queue"] == "enabled"
    said("enable_feature_flag", "quorum_queue")
    said("delete_user", user)
    said("delete_vhost", vhost)
