"""Which queues a step can change: where it acts, and where dead letters go from there."""


class Chains:
    """The ways of dead letters in a script."""

    def __init__(self, steps):
        self.arguments = {}
        self.bound = {}
        for step in steps:
            if step["do"] == "declare":
                # What is declared otherwise later is refused.
                self.arguments.setdefault(step["queue"], step["arguments"])
            elif step["do"] == "bind":
                self.bound.setdefault(step["exchange"], set()).add(step["queue"])

    def reach(self, step, worker_queues):
        """The queues that a step can change; `worker_queues` says what each worker has taken from."""
        reached, front = set(), self._acts_on(step, worker_queues)
        while front:
            queue = front.pop()
            if queue in self.arguments and queue not in reached:
                reached.add(queue)
                front |= self._dead_letters(self.arguments[queue])
        return reached

    def _acts_on(self, step, worker_queues):
        if step["do"] == "commit":
            return set(self.arguments)
        queues = {step[name] for name in ["queue", "key"] if name in step} | set(step.get("queues", []))
        queues |= {key for name in ["CC", "BCC"] for key in step.get("headers", {}).get(name, [])}
        queues |= self.bound.get(step.get("exchange"), set())
        return queues | worker_queues.get(step.get("worker"), set())

    def _dead_letters(self, arguments):
        exchange = arguments.get("x-dead-letter-exchange")
        if exchange == "":
            return {arguments.get("x-dead-letter-routing-key")}
        return self.bound.get(exchange, set())
