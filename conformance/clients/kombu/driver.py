# kombu, the messaging library below Celery, with its own words for what a queue is told.
#
# needs:    python3
# apt:      python3-venv
# install:  python3 -m venv "$WORK/venv"
# install:  "$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check "kombu>=5.4,<6"
# run:      "$WORK/venv/bin/python" -B "$FILE"
"""The two verbs of a driver, and the cases."""

import sys
import time
import traceback
import uuid

from amqp.exceptions import ChannelError
from kombu import Connection, Consumer, Exchange, Producer, Queue

DEADLINE_SECONDS = 20


class Setting:
    """One case's view of the broker; everything it declared is deleted at the end."""

    def __init__(self, url):
        self.connection = Connection(url, heartbeat=30, transport_options={"confirm_publish": True})
        self.channel = self.connection.channel()
        self.producer = Producer(self.channel, serializer="json")
        self.declared = []

    def end(self):
        channel = self.connection.channel()
        for entity in reversed(self.declared):
            entity(channel).delete()
        self.connection.close()

    def queue(self, name=None, **rules):
        """Declare a queue that is named uniquely, with kombu's words for its rules."""
        queue = Queue(name or self.name("queue"), **rules)
        self.declared.append(queue)
        queue(self.channel).declare()
        return queue

    def exchange(self, name, kind):
        exchange = Exchange(name, kind)
        self.declared.append(exchange)
        exchange(self.channel).declare()
        return exchange

    @staticmethod
    def name(hint):
        """A name nobody else uses."""
        return f"{hint}-{uuid.uuid4().hex[:12]}"

    def put(self, queue, body, **properties):
        """Publish to the queue, confirmed."""
        self.producer.publish(body, routing_key=queue.name, **properties)

    def drain(self, queue):
        """The bodies of all ready messages, in order."""
        bodies = []
        while message := queue(self.channel).get(no_ack=True):
            bodies.append(message.payload)
        return bodies

    def until(self, condition, what):
        """Serve the connection until the condition is true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
            try:
                self.connection.drain_events(timeout=0.1)
            except TimeoutError:
                pass

    def consume(self, queue, on_message, **options):
        """Start a consumer that is given each message."""
        consumer = Consumer(self.channel, [queue], on_message=on_message, accept=["json"], **options)
        consumer.consume()
        return consumer

    def arrivals(self, queue, count):
        """The next messages of the queue."""
        arrived = []
        consumer = self.consume(queue, arrived.append, no_ack=True)
        self.until(lambda: len(arrived) >= count, f"{count} deliveries")
        consumer.cancel()
        return arrived


def dead_letters_to(queue, **more):
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name, **more}


def story(message):
    """Queue, reason and count of each death, the newest first."""
    return [(death["queue"], death["reason"], death["count"]) for death in message.headers["x-death"]]


def message_ttl(world):
    dead = world.queue()
    queue = world.queue(message_ttl=0.1, queue_arguments=dead_letters_to(dead))
    world.put(queue, "too late")
    [message] = world.arrivals(dead, 1)
    assert (message.payload, story(message)) == ("too late", [(queue.name, "expired", 1)])


def expiration(world):
    dead = world.queue()
    queue = world.queue(message_ttl=600, queue_arguments=dead_letters_to(dead))
    world.put(queue, "short", expiration=0.05)
    [message] = world.arrivals(dead, 1)
    assert "expiration" not in message.properties and message.headers["x-death"][0]["original-expiration"] == "50"


def expires(world):
    queue = world.queue(expires=0.2)

    def is_gone():
        # Anything else that asks for it would be use.
        try:
            world.put(queue, "", mandatory=True)
        except ChannelError as returned:
            assert "(312) NO_ROUTE" in str(returned), returned
            return True
        return False

    world.until(is_gone, "the queue goes when nobody uses it")


def max_length(world):
    dead = world.queue()
    queue = world.queue(max_length=3, queue_arguments=dead_letters_to(dead))
    for number in range(10):
        world.put(queue, number)
    letters = world.arrivals(dead, 7)
    assert [letter.payload for letter in letters] == list(range(7))
    assert story(letters[0]) == [(queue.name, "maxlen", 1)]
    assert world.drain(queue) == [7, 8, 9]


def priorities(world):
    queue = world.queue(max_priority=5)
    for number, priority in enumerate([0, 3, None, 9, 1, 5, 3]):
        world.put(queue, number, priority=priority)
    assert world.drain(queue) == [3, 5, 1, 6, 4, 0, 2]


def retry(world):
    """What a worker gives up goes through an exchange of retries, and waits in the queue of its attempt."""
    work_exchange, retries = world.exchange(world.name("work"), "direct"), world.exchange(world.name("retry"), "topic")
    work = world.queue(exchange=work_exchange, routing_key="task", durable=True,
                       queue_arguments={"x-dead-letter-exchange": retries.name})
    later = world.queue(exchange=retries, routing_key="#", durable=True, message_ttl=0.05,
                        queue_arguments={"x-dead-letter-exchange": work_exchange.name})
    tasks = [f"task {number}" for number in range(20)]
    for task in tasks:
        world.producer.publish(task, exchange=work_exchange, routing_key="task", delivery_mode=2)
    attempts, done = [], {}

    def attempt(message):
        deaths = {death["queue"]: death["count"] for death in message.headers.get("x-death", [])}
        attempts.append(message.payload)
        if deaths.get(work.name, 0) < 2:
            message.reject()
        else:
            done[message.payload] = message
            message.ack()

    consumer = world.consume(work, attempt, prefetch_count=4)
    world.until(lambda: len(done) == len(tasks), "every task is done")
    consumer.cancel()
    assert sorted(attempts) == sorted(3 * tasks)
    for message in done.values():
        assert story(message) == [(later.name, "expired", 2), (work.name, "rejected", 2)], story(message)
        assert message.delivery_info["routing_key"] == "task"
    assert [queue(world.channel).queue_declare(passive=True).message_count for queue in [work, later]] == [0, 0]


def inequivalent(world):
    queue = world.queue(max_length=5)
    try:
        Queue(queue.name, max_length=6)(world.connection.channel()).declare()
    except ChannelError as refused:
        text = (f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{queue.name}' in vhost '/': "
                "received '6' but current is '5'")
        assert (refused.code, refused.reply_text) == (406, text), refused
    else:
        raise AssertionError("declared with another limit")


CASES = {
    "queue.declare/inequivalent-argument": inequivalent,
    "queue.rules/message-ttl": message_ttl,
    "queue.rules/expiration": expiration,
    "queue.rules/expires": expires,
    "queue.rules/max-length": max_length,
    "queue.rules/priorities": priorities,
    "story/retry": retry,
}


def main():
    """`cases` or `run CASE URL`."""
    if sys.argv[1] == "cases":
        for name in CASES:
            print("case", name)
        return
    world = Setting(sys.argv[3])
    CASES[sys.argv[2]](world)
    world.end()


try:
    main()
except Exception as problem:
    traceback.print_exc()
    # An assertion without words is best explained by itself.
    words = str(problem) or traceback.extract_tb(problem.__traceback__)[-1].line
    print(f"{type(problem).__name__}: {words}".replace("\n", " "), file=sys.stderr)
    sys.exit(1)
