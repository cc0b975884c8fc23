"""Drawing: the same seed gives the same script."""

import random

from .play import LONG_MS, SHORT_MS
from .script import Script

STEPS_MAX = 30
# Of deliveries, since scripts are shorter.
NEVER_REACHED = 99
# How often each kind of step is drawn.
WEIGHTS = {"publish": 30, "settle": 26, "get": 14, "consume": 9, "end": 6, "close": 5, "publish_tx": 3, "recover": 3,
           "purge": 2, "cancel": 2, "again": 2, "policy": 2, "unknown": 1.5, "clear_policy": 1, "odd": 1, "delete": 0.7}


# Few, so that they are changed as often as they come and go; each with its priorities, which avoids equal-policies.
POLICIES = {"@one": [0, 0, 2, 5], "@other": [1, 1, 3]}
AUTHORS = ["policies", "policies", "operator-policies"]


def draw(seed):
    """The script of a seed."""
    return Script(seed, list(Draw(random.Random(seed)).steps()))


class Draw:
    """What has been drawn so far."""

    def __init__(self, r):
        self.r = r
        self.bodies = self.odd = 0
        self.queues = [f"@q{number}" for number in range(r.randint(1, 4))]
        self.arguments, self.flags = {}, {}
        self.setup, self.chains = [], {queue: {queue} for queue in self.queues}
        # Avoids races: each of these has no dead letters of another queue yet.
        self.heads = list(self.queues)
        self.gets_only, self.circles, self.deleted = set(), set(), set()
        self.one_consumer = {queue for queue in self.queues if self.chance(0.4)}

    def chance(self, share):
        """True in this share of cases."""
        return self.r.random() < share

    def steps(self):
        """All steps."""
        for queue in self.queues:
            self.arguments[queue] = self.queue_arguments()
            self.flags[queue] = {"durable": self.is_quorum(queue) or self.chance(0.5)}
            if not self.is_quorum(queue) and self.chance(0.05):
                self.flags[queue]["auto_delete"] = True
        for queue in self.queues:
            # Avoids last-held.
            if self.chance(0.75) and "auto_delete" not in self.flags[queue]:
                self.dead_letters(queue)
        for queue in self.queues:
            yield {"do": "declare", "queue": queue, "arguments": self.arguments[queue], **self.flags[queue]}
        yield from self.setup
        # One of each chain: what a publish may reach together.
        self.fan = sorted({min(chain) for chain in self.chains.values()})
        self.fanout = len(self.fan) > 1
        if self.fanout:
            yield {"do": "exchange", "exchange": "@fan", "kind": "fanout"}
            for queue in self.fan:
                yield {"do": "bind", "queue": queue, "exchange": "@fan", "key": ""}
        busy = self.r.choice(self.queues)
        for _ in range(self.r.randint(6, STEPS_MAX)):
            yield self.step(busy if self.chance(0.6) else self.r.choice(self.queues))

    def is_quorum(self, queue):
        """Whether the queue is a quorum queue."""
        return self.arguments[queue].get("x-queue-type") == "quorum"

    def queue_arguments(self):
        """Arguments but those of dead letters."""
        r, arguments = self.r, {}
        quorum = self.chance(0.35)
        if quorum:
            arguments["x-queue-type"] = "quorum"
            if self.chance(0.5):
                arguments["x-delivery-limit"] = r.choice([0, 1, 1, 2, 3, NEVER_REACHED, NEVER_REACHED])
        elif self.chance(0.35):
            arguments["x-max-priority"] = r.choice([0, 1, 2, 5, 10, 255])
        if self.chance(0.4):
            arguments["x-max-length"] = r.choice([0, 1, 1, 2, 3, 5])
        if self.chance(0.2):
            arguments["x-max-length-bytes"] = r.choice([0, 1, 5, 10, 20])
        if self.chance(0.5):
            arguments["x-overflow"] = r.choice(["drop-head", "reject-publish", "reject-publish-dlx"])
        if quorum and arguments.get("x-overflow", "drop-head") != "drop-head":
            if arguments["x-overflow"] == "reject-publish-dlx":
                del arguments["x-overflow"]
            else:
                # Avoids reject-overshoot.
                arguments.pop("x-max-length", None)
                arguments.pop("x-max-length-bytes", None)
        if self.chance(0.35):
            arguments["x-message-ttl"] = r.choice([SHORT_MS, SHORT_MS, LONG_MS, 0])
        if self.chance(0.2):
            arguments["x-single-active-consumer"] = True
        return arguments

    def dead_letters(self, queue):
        """Where a queue's dead letters go: to one key, by the letter's own key, to several queues, or nowhere."""
        arguments, way = self.arguments[queue], self.r.choice(["key", "key", "key", "exchange", "exchange", "nowhere"])
        if way == "nowhere":
            arguments["x-dead-letter-exchange"] = "@missing"
            return
        if self.is_quorum(queue):
            # Avoids reversed-drops.
            arguments.pop("x-max-length-bytes", None)
            if arguments.get("x-overflow") == "reject-publish" and self.chance(0.6):
                arguments["x-dead-letter-strategy"] = "at-least-once"
        targets = [self.take_head(queue) for _ in range(2 if way == "exchange" and self.chance(0.4) else 1)]
        targets = [target for target in targets if target]
        if any(self.arguments[target].get("x-overflow") == "reject-publish-dlx" for target in targets):
            # Avoids refused-twice.
            arguments.pop("x-dead-letter-strategy", None)
        if way == "key" and targets:
            arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": targets[0]}
        elif targets:
            exchange = f"@x{queue[2:]}"
            kind = self.r.choice(["direct", "fanout", "topic"])
            self.setup.append({"do": "exchange", "exchange": exchange, "kind": kind})
            key = self.r.choice([None, "own"])
            for target in targets:
                self.setup.append({"do": "bind", "queue": target, "exchange": exchange, "key": key or queue})
            arguments["x-dead-letter-exchange"] = exchange
            if key:
                arguments["x-dead-letter-routing-key"] = key

    def take_head(self, queue):
        """A queue that may have dead letters of this one, which may be itself or close a circle."""
        if not self.heads:
            return None
        target = self.heads.pop(self.r.randrange(len(self.heads)))
        if "x-max-priority" in self.arguments[target]:
            # Avoids at-once.
            self.gets_only.add(target)
            if self.arguments[target].get("x-message-ttl", LONG_MS) != LONG_MS:
                del self.arguments[target]["x-message-ttl"]
        if target in self.chains[queue]:
            self.circles |= self.chains[queue]
        both = self.chains[queue] | self.chains[target]
        for one in both:
            self.chains[one] = both
        return target

    def brings_back_one(self, queue):
        """Avoids reversed-drops."""
        arguments = self.arguments[queue]
        return self.is_quorum(queue) and "x-max-length" in arguments and "x-dead-letter-exchange" in arguments

    def step(self, queue):
        """One step, most likely with this queue."""
        alone = self.brings_back_one(queue)
        name = "a" if alone else self.r.choice(["a", "a", "a", "b", "b", "tx"])
        worker, tx = name + queue[2:], f"tx{queue[2:]}"
        match self.r.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]:
            case "get" if alone:
                return {"do": "get", "worker": worker, "queue": queue, "alone": True}
            case "get":
                return {"do": "get", "worker": worker, "queue": queue,
                        "count": self.r.randint(1, 3), "auto_ack": self.chance(0.1)}
            case "consume" if not alone and queue not in self.gets_only:
                return self.consume(queue, worker)
            case "settle":
                return self.settle(queue, worker)
            case "close":
                return {"do": "close", "worker": worker, "connection": self.chance(0.4)}
            case "purge":
                return {"do": "purge", "queue": queue}
            case "recover" if worker != tx:
                return {"do": "recover", "worker": worker}
            case "cancel" if self.is_quorum(queue) or "x-single-active-consumer" not in self.arguments[queue]:
                # Avoids stalled-handover.
                return {"do": "cancel", "worker": worker}
            case "end" if not alone:
                return {"do": self.r.choice(["commit", "commit", "rollback"]), "worker": tx}
            case "publish_tx" if not alone:
                return self.publish(queue, worker=tx)
            case "again":
                return self.declare_again(queue)
            case "unknown":
                return {"do": "settle_unknown", "worker": worker}
            case "delete":
                self.deleted.add(queue)
                return {"do": "delete", "queue": queue}
            case "odd":
                return self.declare_odd()
            case "policy" if self.ruled():
                return self.policy()
            case "clear_policy":
                return {"do": "clear_policy", "name": self.r.choice(list(POLICIES)), "author": self.r.choice(AUTHORS)}
        return self.publish(queue)

    def consume(self, queue, worker):
        """A consumer of some kind."""
        options = {}
        if self.chance(0.3):
            options["priority"] = self.r.randint(-1, 3)
        if self.chance(0.05):
            options["exclusive"] = True
        if self.chance(0.15):
            options["auto_ack"] = True
        # Avoids credit-twice.
        bounded = self.arguments[queue].get("x-delivery-limit", NEVER_REACHED) == NEVER_REACHED
        if not self.is_quorum(queue):
            # Avoids kept-turn.
            bounded = queue in self.one_consumer
            worker = f"a{queue[2:]}" if bounded else worker
        if options.get("auto_ack") and self.is_quorum(queue):
            # Avoids paced-auto-ack.
            bounded = False
        return {"do": "consume", "worker": worker, "queue": queue,
                "prefetch": self.r.choice([0, 1, 1, 2, 3]) if bounded else 0, **options}

    def may_reject(self, queue):
        """Avoids deaths-order: a circle with rejections has two queues that lose messages in one other way at most."""
        circle = self.chains[queue] if queue in self.circles else {queue}
        if len(circle) < 3:
            return len(circle) == 1 or self.ways_out(queue) == 0 and self.ways_out(*(circle - {queue})) < 2
        return False

    def ways_out(self, queue):
        """For how many reasons messages leave a queue without a client."""
        arguments = self.arguments[queue]
        return (("x-max-length" in arguments or "x-max-length-bytes" in arguments)
                + (arguments.get("x-message-ttl", LONG_MS) != LONG_MS)
                + (arguments.get("x-delivery-limit", NEVER_REACHED) != NEVER_REACHED))

    def settle(self, queue, worker):
        """Some way to settle."""
        how = self.r.choice(["ack", "nack", "nack", "nack", "reject", "reject"])
        step = {"do": "settle", "worker": worker, "how": how, "at": round(self.r.random(), 2)}
        if how != "reject" and self.chance(0.3):
            step["multiple"] = True
        if how != "ack" and (self.chance(0.5) or not self.may_reject(queue)):
            step["requeue"] = True
        return step

    def declare_odd(self):
        """A queue with an argument that may be refused."""
        self.odd += 1
        name, value = self.r.choice(ODD)
        kind = {"x-queue-type": "quorum"} if self.chance(0.4) else {}
        return {"do": "declare", "queue": f"@odd{self.odd}", "durable": True, "arguments": kind | {name: value}}

    def ruled(self):
        """Queues that a policy may limit: `deaths-order`, `reject-overshoot` and `reversed-drops` are avoided so."""
        return [queue for queue in self.queues if not self.is_quorum(queue) and queue not in self.circles]

    def policy(self):
        """A limit for some queues, now and then with what is to be done about it."""
        ruled = self.ruled()
        queues = self.r.sample(ruled, self.r.randint(1, len(ruled)))
        author = self.r.choice(AUTHORS)
        definition = {}
        if self.chance(0.7):
            definition["max-length"] = self.r.choice([0, 1, 2, 3, 8])
        if self.chance(0.3):
            definition["max-length-bytes"] = self.r.choice([1, 5, 20])
        if self.chance(0.3):
            definition["message-ttl"] = LONG_MS
        if self.chance(0.3) and author == "policies":
            definition["overflow"] = self.r.choice(["drop-head", "reject-publish", "reject-publish-dlx"])
            if definition["overflow"] != "drop-head":
                # Avoids dropped-first.
                definition = {"overflow": definition["overflow"]}
        name = self.r.choice(list(POLICIES))
        return {"do": "policy", "name": name, "queues": sorted(queues), "author": author,
                "priority": self.r.choice(POLICIES[name]), "definition": definition or {"max-length": 4}}

    def publish(self, queue, worker=None):
        """Some messages for a queue, or for one of each chain."""
        r = self.r
        step = {"do": "publish_tx", "worker": worker} if worker else {"do": "publish"}
        step |= {"key": queue, "bodies": [self.body() for _ in range(r.choice([1, 1, 1, 2, 3, 5]))]}
        if queue in self.circles:
            # Avoids races.
            step["bodies"] = step["bodies"][:1]
        # Avoids at-once.
        alike = worker and "x-max-priority" in self.arguments[queue]
        if self.chance(0.5) and not alike:
            step["priority"] = r.choice([0, 1, 1, 2, 3, 7, 200])
        if self.chance(0.4):
            step["delivery_mode"] = 2
        if self.chance(0.15):
            step["headers"] = {"mine": 1}
        if self.chance(0.1):
            step["message_id"] = "id"
        if self.fanout and not worker and self.chance(0.12):
            step["exchange"] = "@fan"
        elif self.fanout and self.chance(0.1):
            others = [other for other in self.fan if other not in self.chains[queue]]
            step["headers"] = {r.choice(["CC", "BCC"]): others}
        elif not worker and queue not in self.circles and self.chance(0.12):
            step["expiration"] = "short"
        elif self.chance(0.15):
            step["expiration"] = str(LONG_MS)
        elif not worker and self.chance(0.04):
            step |= {"key": "@nobody", "mandatory": True}
        elif not worker and self.chance(0.02):
            step["exchange"] = "@nowhere"
        return step

    def body(self):
        """A body nobody else has."""
        self.bodies += 1
        return f"{self.bodies}.".ljust(self.r.choice([0, 0, 2, 5, 12]), "x")

    def declare_again(self, queue):
        """The same once more, or with one argument less, more or otherwise."""
        arguments = dict(self.arguments[queue])
        way = self.r.choice(["same", "less", "more", "kind"])
        if queue in self.deleted:
            # Avoids other-kind.
            way = "same"
        if way == "less" and arguments:
            del arguments[self.r.choice(sorted(arguments))]
        elif way == "more":
            name, value = self.r.choice([("x-max-length", 7), ("x-message-ttl", 12345), ("x-expires", 3600000),
                                         ("x-dead-letter-exchange", "else"), ("x-overflow", "reject-publish")])
            arguments[name] = value
        elif way == "kind":
            arguments["x-queue-type"] = "classic" if self.is_quorum(queue) else "quorum"
        return {"do": "declare", "queue": queue, "arguments": arguments, **self.flags[queue]}


# Arguments that are refused, or not, and with which words.
ODD = [
    ("x-message-ttl", "60000"), ("x-message-ttl", 400_000_000_000), ("x-message-ttl", -1), ("x-message-ttl", True),
    ("x-expires", 0), ("x-expires", "1"), ("x-max-length", -1), ("x-max-length-bytes", "many"), ("x-max-priority", 256),
    ("x-max-priority", -1), ("x-max-priority", 5), ("x-overflow", "spill"), ("x-overflow", 1),
    ("x-dead-letter-routing-key", "k"), ("x-dead-letter-exchange", 5), ("x-single-active-consumer", "yes"),
    ("x-queue-type", "heap"), ("x-queue-type", 5), ("x-queue-mode", "fast"), 
    ("x-delivery-limit", -1), ("x-dead-letter-strategy", "often"), ("x-overflow", "reject-publish-dlx"),
    ("x-quorum-initial-group-size", 0), ("x-dead-letter-strategy", "at-least-once"), ("x-max-in-memory-length", 1),
]
