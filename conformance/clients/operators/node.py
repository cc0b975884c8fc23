"""The broker as an operator has it: its API, its command line, and what a case has made and takes away."""

import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from base64 import b64encode

DEADLINE_SECONDS = 60


class Node:
    """Told by the runner: $CONFORMANCE_HTTP, $CONFORMANCE_METRICS and $CONFORMANCE_CTL."""

    def __init__(self, url):
        self.amqp = url
        self.http = os.environ["CONFORMANCE_HTTP"]
        self.metrics = os.environ["CONFORMANCE_METRICS"]
        self.control = shlex.split(os.environ["CONFORMANCE_CTL"])
        self.address = urllib.parse.urlsplit(self.http)
        self.name = f"operate-{uuid.uuid4().hex[:12]}"
        self.made = []

    def ask(self, verb, path, body=None):
        """(status, value) of a request to the API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Basic {b64encode(b'guest:guest').decode()}"}
        request = urllib.request.Request(f"{self.http}/api/{path}", data, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def get(self, path):
        """What a GET tells."""
        status, value = self.ask("GET", path)
        assert status == 200, f"GET {path}: {status} {value}"
        return value

    def make(self, path, body):
        """Something that goes when the case ends."""
        status, value = self.ask("PUT", path, body)
        assert status in [201, 204], f"PUT {path}: {status} {value}"
        self.made.append(path)

    def publish(self, count):
        """So many messages for the queue of the case's name, which then tells of them."""
        for _ in range(count):
            status, value = self.ask("POST", "exchanges/%2F/amq.default/publish",
                                     {"properties": {}, "routing_key": self.name, "payload": "x", "payload_encoding": "string"})
            assert (status, value) == (200, {"routed": True}), f"{status} {value}"
        until(lambda: self.get(f"queues/%2F/{self.name}"), lambda queue: queue.get("messages") == count)

    def ctl(self, *words, code=0):
        """What rabbitmqctl says."""
        return run([*self.control, *words], code)

    def clean_up(self):
        """Nothing of the case is left."""
        for path in reversed(self.made):
            self.ask("DELETE", path)


def run(command, code=0):
    """What a command prints; it must end with this code."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == code, f"{shlex.join(command)} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


def until(what, holds):
    """Ask again until it holds; what it then was."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        seen = what()
        if holds(seen):
            return seen
        assert time.monotonic() < deadline, f"never came: {seen}"
