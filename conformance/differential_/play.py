"""A play: both brokers do each step, and the next one begins when both show the same and nothing is under way.

    do the step at both -> what was told at once is the same
    look at both        -> until both show the same counts and deliveries, again and again, as often as dead letters may
                           have hops to go; what does not become the same is a difference
    what was delivered  -> the same, message by message

Nothing waits for a time to pass. What must be too old has been outlived by a message that was published later with the
same TTL, whose dead letter is there.
"""

import itertools
import time

from .chains import Chains
from .side import Side
from .steps import do

# A TTL that has passed before a step is over, and one that never passes.
SHORT_MS, LONG_MS = 20, 60000
# Both must show the same this long after the last change, or it is a difference.
PATIENCE_SECONDS = 2.0
# What has not come to rest by then never will.
RESTLESS_SECONDS = 20.0
QUORUM = {"x-queue-type": "quorum"}


class Table:
    """The two sides and what they need for every play."""

    def __init__(self, brokers):
        self.sides = [Side(*broker) for broker in brokers]
        self.patience_seconds = PATIENCE_SECONDS
        self.numbers = itertools.count()
        self.run = f"{time.time_ns() // 1000:x}"

    def play(self, script):
        """None, or the first difference."""
        for side in self.sides:
            side.begin(f"d{self.run}-{next(self.numbers) // 2}-")
        try:
            return Play(self.sides, script, self.patience_seconds).run()
        finally:
            for side in self.sides:
                side.end()


class Play:
    """One script at the two sides."""

    def __init__(self, sides, script, patience_seconds):
        self.sides = sides
        self.script = script
        self.patience_seconds = patience_seconds
        self.chains = Chains(script.steps)
        kinds = self.chains.arguments
        self.quorum = {queue for queue, arguments in kinds.items() if arguments.get("x-queue-type") == "quorum"}
        self.short = {queue for queue, arguments in kinds.items() if arguments.get("x-message-ttl") in [0, SHORT_MS]}
        self.expires = bool(self.short) or any(step.get("expiration") == "short" for step in script.steps)
        # What was seen last, and which queues a worker has to do with.
        self.counts, self.worker_queues = {}, {}

    def run(self):
        """None, or the first difference."""
        self._prepare()
        for number, step in enumerate(itertools.chain(self.script.steps, self._end())):
            difference = self._step(step)
            if difference:
                return Difference(number, step, *difference)
        return None

    def _prepare(self):
        for side in self.sides:
            control = side.channels()[0]
            # Beside `queues`, since nobody counts them.
            if self.quorum:
                control.queue_declare(side.prefix + "log", durable=True, arguments=QUORUM)
            if self.expires:
                control.queue_declare(side.prefix + "late", arguments={"x-expires": LONG_MS})
                control.queue_declare(side.prefix + "clock", arguments={
                    "x-message-ttl": SHORT_MS, "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": side.prefix + "late", "x-expires": LONG_MS})

    def _end(self):
        """What is held goes back, and what is left is taken out in order."""
        for worker in list(self.worker_queues):
            yield {"do": "close", "worker": worker, "connection": True}
        for queue, arguments in self.chains.arguments.items():
            if queue in self.quorum and arguments.get("x-single-active-consumer"):
                # basic.get is refused.
                yield {"do": "consume", "queue": queue, "worker": f"drain{queue}", "auto_ack": True}
            else:
                yield {"do": "drain", "queue": queue, "worker": "drain"}

    def _step(self, step):
        step, lapsing = self._at_runtime(step)
        if "worker" in step:
            self.worker_queues.setdefault(step["worker"], set()).update({step["queue"]} if "queue" in step else [])
        told = [do(side, side.own(step)) for side in self.sides]
        if told[0] != told[1]:
            return "told", told
        reached = sorted(self.chains.reach(step, self.worker_queues))
        workers = sorted(worker for worker, queues in self.worker_queues.items() if worker == step.get("worker")
                         or queues & set(reached) and self.sides[0].worker(worker).tag is not None)
        # Each hop may take a look, and one more where the log of quorum queues may not have been through yet.
        hops = 1 if step["do"] in CALM else 1 + len(reached) + bool(self.quorum & set(reached))
        difference = self._rest(hops, reached, workers, lapsing)
        if not difference and step["do"] not in CALM and (lapsing or self.short & set(reached)):
            self._outlive()
            difference = self._rest(hops, reached, workers, lapsing)
        return difference or self._delivered()

    def _at_runtime(self, step):
        """Avoids head-only: a short expiration is for a message that waits alone (the same on both, as all before)."""
        if step.get("expiration") == "short":
            alone = self.counts.get(step["key"]) == [0, 0]
            step = {name: value for name, value in step.items() if name != "expiration"}
            if alone:
                return step | {"expiration": str(SHORT_MS)}, {step["key"]}
        return step, set()

    def _rest(self, looks, reached, workers, lapsing):
        """Look until both are the same and stay so."""
        same, before, changed, began = 0, None, time.monotonic(), time.monotonic()
        empty = (self.short | lapsing) & set(reached)
        while same < looks:
            shown = [side.look(reached, workers, self.quorum & set(reached)) for side in self.sides]
            counts = shown[0][0]
            if shown != before:
                same, before, changed = 0, shown, time.monotonic()
                if changed > began + RESTLESS_SECONDS:
                    return self._delivered() or ("never at rest", shown)
            elif time.monotonic() > changed + self.patience_seconds:
                return self._delivered() or ("counts and deliveries", shown)
            lapsed = all(counts[queue][0] in [0, "m"] for queue in empty)
            same = same + 1 if shown[0] == shown[1] and lapsed else 0
        self.counts |= counts
        return None

    def _outlive(self):
        """Whatever had a short TTL before is too old after this."""
        for side in self.sides:
            side.channels()[1].basic_publish("", side.prefix + "clock", b"")
        for side in self.sides:
            control, deadline = side.channels()[0], time.monotonic() + PATIENCE_SECONDS
            while not control.basic_get(side.prefix + "late", auto_ack=True)[0]:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{side.name}: a lone message with a TTL does not expire")
                side.connection.process_data_events(0.002)

    def _delivered(self):
        """What workers were given since the last step."""
        given = [{name: worker.seen for name, worker in side.workers.items() if worker.seen} for side in self.sides]
        if given[0] != given[1]:
            return "given", given
        for side in self.sides:
            for worker in side.workers.values():
                worker.seen = []
        return None


# After these nothing is under way between queues.
CALM = ["declare", "exchange", "bind", "get", "drain", "cancel", "publish_tx", "clear_policy"]


class Difference:
    """A step after which the brokers do not show the same."""

    def __init__(self, number, step, what, shown):
        self.number = number
        self.step = step
        self.what = what
        self.shown = shown
        self.kind = (what, step["do"], step.get("queue"), step.get("worker"))

    def __str__(self):
        names = ["rabbitmq", "sluicemq"]
        lines = [f"step {self.number}: {self.step}: {self.what}"]
        first = next(iter(first_difference(*self.shown)), "")
        lines += [f"  {name}: {one}" for name, one in zip(names, self.shown)]
        return "\n".join([*lines, f"  first at {first}"])


def first_difference(one, other, path="."):
    """Where two values differ, in words."""
    if type(one) is type(other) and isinstance(one, dict):
        for key in [*one, *(other.keys() - one.keys())]:
            yield from first_difference(one.get(key), other.get(key), f"{path}{key}.")
    elif type(one) is type(other) and isinstance(one, (list, tuple)) and len(one) == len(other):
        for index, (mine, its) in enumerate(zip(one, other)):
            yield from first_difference(mine, its, f"{path}{index}.")
    elif one != other:
        yield f"{path}: {one!r} / {other!r}"
