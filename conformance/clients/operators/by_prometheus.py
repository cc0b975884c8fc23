"""Debian's Prometheus scrapes the broker and answers what RabbitMQ's overview dashboard asks."""

import json
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

from node import DEADLINE_SECONDS, until

# Panels of the dashboard "RabbitMQ-Overview", for the cluster that is chosen in it.
OF_CLUSTER = 'on(instance) group_left(rabbitmq_cluster) rabbitmq_identity_info{{rabbitmq_cluster="{cluster}"}}'
QUERIES = {
    "ready messages": "sum(rabbitmq_queue_messages_ready * " + OF_CLUSTER + ")",
    "queues": "sum(rabbitmq_queues * " + OF_CLUSTER + ")",
    "published a second": "sum(rate(rabbitmq_global_messages_received_total[60s]) * " + OF_CLUSTER + ")",
    "memory left": "(rabbitmq_resident_memory_limit_bytes * " + OF_CLUSTER + ")"
                   " - (rabbitmq_process_resident_memory_bytes * " + OF_CLUSTER + ")",
}
CONFIGURATION = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: broker
    static_configs: [{{targets: ["{target}"]}}]
"""


def case(node):
    """A server of our own, with the configuration that RabbitMQ's guide shows."""
    node.make(f"queues/%2F/{node.name}", {"durable": True})
    node.publish(5)
    cluster = node.get("overview")["cluster_name"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prometheus.yml").write_text(CONFIGURATION.format(target=node.metrics.removeprefix("http://")))
        address = f"127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                   f"--web.listen-address={address}"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            def ask(name):
                return query(address, QUERIES[name].format(cluster=cluster))

            up = until(lambda: query(address, "up"), lambda value: value == 1)
            assert up == 1
            until(lambda: ask("ready messages"), lambda value: value is not None and value >= 5)
            until(lambda: ask("queues"), lambda value: value is not None and value >= 1)
            until(lambda: ask("published a second"), lambda value: value is not None)
            until(lambda: ask("memory left"), lambda value: value is not None and value > 0)
        finally:
            server.terminate()
            server.wait(DEADLINE_SECONDS)


def query(address, text):
    """The first value of an instant query; None where there is none yet."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
            result = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(result[0]["value"][1]) if result else None


def free_port():
    """One that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
