"""What a user would do with a broker, from end to end."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pika
from case_publish import Publisher
from setting import Inbox, barrier, case, ready, until, until_ready
from spike import Spike

WORKER = Path(__file__).parent / "worker.py"


class Service(threading.Thread):
    """A service of the shop: consumes its queue until it has seen every order, on a connection of its own."""

    def __init__(self, world, queue, orders):
        super().__init__(daemon=True)
        self.channel, self.queue, self.orders = world.channel(), queue, orders
        self.seen, self.problem = [], None

    def run(self):
        try:
            self.channel.basic_qos(prefetch_count=50)
            self.channel.basic_consume(self.queue, self._on_order)
            until(self.channel.connection, lambda: len(self.seen) >= self.orders, f"{self.orders} orders", 40)
            self.channel.connection.close()
        except Exception as problem:  # Told to the case by `finish`, which runs on another thread.
            self.problem = problem

    def _on_order(self, channel, method, _properties, body):
        self.seen.append(body[:8])
        channel.basic_ack(method.delivery_tag)

    def finish(self):
        """Wait until it has seen every order; returns them."""
        self.join(45)
        if self.problem:
            raise self.problem
        return self.seen


@case("story/checkout")
def checkout(world):
    orders = [b"%08d" % number for number in range(1000)]
    setup = world.channel()
    exchange = world.exchange(setup, "topic", durable=True)
    mail, analytics, warehouse = (world.queue(setup, bind_to=exchange, key="order.#", durable=True) for _ in range(3))
    # Analytics subscribes without a limit, and hangs with the first order: it reads its socket no more.
    hanging = start_worker(world, analytics, "", "flood")
    until_consumers(setup, analytics, 1)
    services = [Service(world, queue, len(orders)) for queue in [mail, warehouse]]
    for service in services:
        service.start()
    details = bytes(16 * 1024)
    try:
        Publisher(world, [(exchange, "order.placed", order + details) for order in orders]).run()
        for service in services:
            assert service.finish() == orders
        assert hanging.stdout.readline()[:8] == orders[0], "analytics was not hanging on the first order"
    finally:
        end(hanging)
    # Nothing is lost for analytics: its successor gets every order, in order once what the first had in hand is back.
    until_consumers(setup, analytics, 0)
    successor = Service(world, analytics, len(orders))
    successor.start()
    assert successor.finish() == orders
    assert [ready(setup, queue) for queue in [mail, analytics, warehouse]] == [0, 0, 0]


def start_worker(world, *arguments):
    """A worker process; its standard output is ours to read."""
    return subprocess.Popen([sys.executable, "-B", str(WORKER), world.url, *arguments], stdout=subprocess.PIPE)


def end(worker):
    """Kill a worker process, if it lives still."""
    worker.kill()
    worker.wait()
    worker.stdout.close()


def until_consumers(channel, queue, count):
    """Wait until the queue has so many consumers."""
    until(channel.connection, lambda: channel.queue_declare(queue, passive=True).method.consumer_count == count,
          f"{queue} has {count} consumers")


@case("story/image-work-queue")
def image_work_queue(world):
    channel = world.channel(confirms=True)
    tasks, results = world.queue(channel, durable=True), world.queue(channel)
    images = [b"image-%02d.png" % number for number in range(30)]
    done = Inbox(channel, results, auto_ack=True)
    workers = [start_worker(world, tasks, results, "hold")]
    try:
        until_consumers(channel, tasks, 1)
        workers += [start_worker(world, tasks, results) for _ in range(2)]
        until_consumers(channel, tasks, 3)
        for image in images:
            channel.basic_publish("", tasks, image, pika.BasicProperties(delivery_mode=2))
        held = workers[0].stdout.readline().strip()
        done.wait_for(len(images) - 1)
        assert held in images and held not in done.bodies
        os.kill(workers[0].pid, signal.SIGKILL)
        done.wait_for(len(images))
    finally:
        for worker in workers:
            end(worker)
    assert sorted(done.bodies) == images
    redone = {body: properties.headers for _, properties, body in done.messages}
    assert redone[held]["redelivered"] and redone[held]["worker"] in [worker.pid for worker in workers[1:]]
    assert {headers["worker"] for headers in redone.values()} == {worker.pid for worker in workers[1:]}


def shell(command):
    """What the runner gave to put its broker under pressure; nothing when a spike is enough."""
    if command:
        subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


def wait_on_thread(channel, event, what, seconds=60):
    """Wait for the spike's thread while this connection stays served."""
    until(channel.connection, event.is_set, what, seconds)


@case("connection.blocked/low-memory", need="short-of-memory")
def blocked(world):
    channel = world.channel()
    queue = world.queue(channel)
    spike = Spike(world, queue, first=100)
    until(channel.connection, lambda: spike.confirmed == 100, "100 confirms")
    shell(os.environ["CONFORMANCE_PRESS"])
    spike.go_on()
    wait_on_thread(channel, spike.blocked, "connection.blocked")
    assert spike.reason == "low on memory", spike.reason
    assert not spike.unblocked.is_set()
    shell(os.environ["CONFORMANCE_RELIEVE"])
    channel.queue_purge(queue)
    # What crossed the block is in the queue again, but far below any watermark.
    wait_on_thread(channel, spike.unblocked, "connection.unblocked")
    spike.finish(more=10, seconds=60)


@case("story/slow-consumer", need="short-of-memory")
def slow_consumer(world):
    setup = world.channel()
    queue = world.queue(setup)
    spike = Spike(world, queue, first=200)
    until(setup.connection, lambda: spike.confirmed == 200, "the spike is buffered")
    shell(os.environ["CONFORMANCE_PRESS"])
    spike.go_on()
    wait_on_thread(setup, spike.blocked, "the publisher is told to wait")

    # Two slow workers come: each holds five and no more, and the rest waits for them.
    connection = world.connect()
    channels = [connection.channel() for _ in range(2)]
    workers = []
    for channel in channels:
        channel.basic_qos(prefetch_count=5)
        workers.append(Inbox(channel, queue))
    until(connection, lambda: [len(worker) for worker in workers] == [5, 5], "each worker holds five")
    for channel in channels:
        barrier(channel, queue)
    assert [len(worker) for worker in workers] == [5, 5]
    assert ready(setup, queue) >= 190, "the spike is not in the queue"

    # They work it off while the publisher still waits.
    acked = [0, 0]

    def work():
        for number, (channel, worker) in enumerate(zip(channels, workers)):
            assert len(worker) - acked[number] <= 5, "a worker holds more than its prefetch"
            if len(worker) > acked[number]:
                channel.basic_ack(worker.tags[acked[number]])
                acked[number] += 1
        connection.process_data_events(time_limit=0)
        return sum(acked)

    while work() < 190:
        connection.process_data_events(time_limit=0.01)
    shell(os.environ["CONFORMANCE_RELIEVE"])
    until(connection, lambda: work() and spike.unblocked.is_set(), "the publisher may go on", 60)
    sent = finish_while(spike, work)
    until(connection, lambda: work() == sent, "all of it is worked off", 60)
    until_ready(setup, queue, 0)


def finish_while(spike, work):
    """Let the spike send its last hundred while the workers go on."""
    finished = threading.Event()
    total = []

    def finish():
        try:
            total.append(spike.finish(more=100, seconds=60))
        finally:
            finished.set()

    threading.Thread(target=finish, daemon=True).start()
    while not finished.is_set():
        work()
    assert total, f"the publisher could not finish: {spike.problem}"
    return total[0]
