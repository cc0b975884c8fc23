"""Celery's Flower shows the queues of its broker, which it asks over HTTP."""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from by_prometheus import free_port
from node import DEADLINE_SECONDS, until

TASKS = """
from celery import Celery
app = Celery("shop", broker="{url}", broker_connection_retry_on_startup=True)
app.conf.task_default_queue = "{queue}"
"""


def case(node):
    """The page of the broker names the queue, with what waits in it."""
    node.make(f"queues/%2F/{node.name}", {"durable": True})
    node.publish(7)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        (Path(folder) / "shop.py").write_text(TASKS.format(url=node.amqp, queue=node.name))
        api = node.http.replace("http://", "http://guest:guest@") + "/api/"
        command = [sys.executable, "-B", "-m", "celery", "-A", "shop", "flower", "--address=127.0.0.1", f"--port={port}",
                   f"--broker-api={api}", "--persistent=False"]
        environment = os.environ | {"FLOWER_UNAUTHENTICATED_API": "true"}
        flower = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                  env=environment)
        try:
            shown = re.compile(rf">\s*{re.escape(node.name)}\s*<.*?>\s*7\s*<", re.S)
            until(lambda: page(f"http://127.0.0.1:{port}/broker"), lambda text: shown.search(text))
        except AssertionError:
            log.seek(0)
            print(log.read())
            raise
        finally:
            flower.terminate()
            flower.wait(DEADLINE_SECONDS)


def page(url):
    """A page, or nothing while there is none."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return ""
