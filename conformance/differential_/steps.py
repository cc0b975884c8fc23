"""The steps of a script: each does one thing at one side and returns what its client was told at once."""

import pika
import pika.exceptions as errors

from . import departures

STEPS = {}


def step(function):
    """Register a step under its name."""
    STEPS[function.__name__] = function
    return function


def do(side, one):
    """One step; an error of the channel or the connection is what was seen of it."""
    options = dict(one)
    try:
        return STEPS[options.pop("do")](side, **options)
    except (errors.ChannelClosedByBroker, errors.ConnectionClosedByBroker) as closed:
        return side.shown(f"{type(closed).__name__} {closed.reply_code} {closed.reply_text}")
    except errors.AMQPError as unexpected:
        return side.shown(f"{unexpected!r}")


@step
def declare(side, queue, arguments=None, **flags):
    """A queue, or the same once more, or otherwise."""
    if queue not in side.queues:
        side.queues.append(queue)
    side.missing.discard(queue)
    if (arguments or {}).get("x-queue-type") == "quorum":
        side.quorum.add(queue)
        if arguments.get("x-single-active-consumer"):
            side.uncounted.add(queue)
    if {"x-dead-letter-exchange", "x-max-length", "x-max-length-bytes"} & set(arguments or {}):
        side.telling.add(queue)
    method = side.channels()[0].queue_declare(queue, arguments=arguments or {}, **flags).method
    return [method.message_count, departures.consumers(method.consumer_count, queue in side.uncounted)]


@step
def exchange(side, exchange, kind):
    """An exchange."""
    side.exchanges.append(exchange)
    side.channels()[0].exchange_declare(exchange, kind)


@step
def bind(side, queue, exchange, key):
    """A binding."""
    side.channels()[0].queue_bind(queue, exchange, key)


@step
def policy(side, name, queues, definition, author, priority=0):
    """A policy for these queues, set or changed."""
    side.telling.update(queues)
    path = f"{author}/%2F/{name}"
    side.policies.add(path)
    pattern = f"^({'|'.join(queues)})$"
    return side.ask("PUT", path, {"pattern": pattern, "definition": definition, "priority": priority, "apply-to": "queues"})


@step
def clear_policy(side, name, author):
    """It applies no more."""
    path = f"{author}/%2F/{name}"
    side.policies.discard(path)
    return side.ask("DELETE", path)


@step
def purge(side, queue):
    """How many are purged."""
    return side.channels()[0].queue_purge(queue).method.message_count


@step
def delete(side, queue):
    """How many are deleted with the queue."""
    side.missing.discard(queue)
    return side.channels()[0].queue_delete(queue).method.message_count


@step
def publish(side, key, bodies, exchange="", mandatory=False, **properties):
    """How each is confirmed before the next one goes."""
    told = []
    for body in bodies:
        try:
            channel = side.channels()[1]
            channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(**properties), mandatory=mandatory)
            told.append("ack")
        except errors.NackError:
            told.append("nack")
        except errors.UnroutableError as returned:
            told.append([f"returned {one.method.reply_code} {one.method.reply_text}" for one in returned.messages])
    return told


@step
def get(side, worker, queue, count=1, auto_ack=False, alone=False):
    """So many messages, one after the other; with `alone` only who holds none takes one."""
    worker = side.worker(worker)
    if alone and worker.held or departures.mixes(worker, queue, consumes=False):
        return None
    worker.fed = worker.tag is not None or worker.fed and bool(worker.held or worker.unsure)
    if queue in side.quorum and not auto_ack:
        side.uncounted.add(queue)
    return [worker.take(queue, auto_ack) for _ in range(count)]


@step
def consume(side, worker, queue, prefetch=0, **options):
    """A consumer, unless it is one already."""
    worker = side.worker(worker)
    channel = worker.open()
    if worker.tag is None and not departures.mixes(worker, queue, consumes=True):
        channel.basic_qos(prefetch_count=prefetch)
        worker.queues.add(queue)
        worker.fed = True
        worker.consume(queue, **options)


@step
def cancel(side, worker):
    """No consumer any more; what it holds it keeps."""
    worker = side.worker(worker)
    if worker.tag is not None and worker.channel.is_open:
        side.uncounted |= worker.queues & side.quorum
        worker.channel.basic_cancel(worker.tag)
        worker.tag = None


@step
def settle(side, worker, how, at=0.0, multiple=False, requeue=False):
    """One of the messages held, or all up to it."""
    worker = side.worker(worker)
    if not worker.held:
        return "nothing held"
    worker.held.sort()
    tag = worker.held[min(int(at * len(worker.held)), len(worker.held) - 1)]
    settled = [one for one in worker.held if one <= tag] if multiple else [tag]
    worker.held = [one for one in worker.held if one not in settled]
    worker.unsure += settled
    channel = worker.channel
    if how == "ack":
        channel.basic_ack(tag, multiple)
    elif how == "nack":
        channel.basic_nack(tag, multiple, requeue)
    else:
        channel.basic_reject(tag, requeue)
    return tag


@step
def settle_unknown(side, worker):
    """A tag that never was: the channel is closed."""
    worker = side.worker(worker)
    worker.open().basic_ack(4711)
    # The close is seen where the worker is looked at next.


@step
def recover(side, worker):
    """All that is held goes back."""
    worker = side.worker(worker)
    channel = worker.open()
    # What is given again meanwhile is held anew.
    worker.held = []
    channel.basic_recover(requeue=True)


@step
def close(side, worker, connection):
    """Kill a worker's channel or connection."""
    side.worker(worker).close(connection)


@step
def publish_tx(side, worker, key, bodies, exchange="", **properties):
    """Publish within a worker's transaction."""
    channel = side.worker(worker).open()
    for body in bodies:
        channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(**properties))


@step
def commit(side, worker):
    """End a transaction."""
    worker = side.worker(worker)
    worker.open().tx_commit()
    worker.unsure = []


@step
def rollback(side, worker):
    """Undo a transaction: what it settled is held again."""
    worker = side.worker(worker)
    worker.open().tx_rollback()
    worker.held += worker.unsure
    worker.unsure = []


@step
def drain(side, worker, queue):
    """All that is left, in order."""
    return list(iter(lambda: side.worker(worker).take(queue, auto_ack=True), None))
