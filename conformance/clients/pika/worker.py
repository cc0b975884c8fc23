"""A worker in a process of its own, so that it can be killed: `worker.py URL TASKS RESULTS [hold|flood]`.

It does one task at a time and publishes it to RESULTS when done. With `hold` it says which task it has
taken and works on it for ever, reading its socket no more; with `flood` it also takes all it is sent.
"""

import os
import sys
import threading

import pika

url, tasks, results, *mood = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=0 if mood == ["flood"] else 1)


def on_task(_channel, method, _properties, body):
    """Scale one image."""
    if mood:
        print(body.decode(), flush=True)
        threading.Event().wait()
    properties = pika.BasicProperties(headers={"worker": os.getpid(), "redelivered": method.redelivered})
    channel.basic_publish("", results, body, properties)
    channel.basic_ack(method.delivery_tag)


channel.basic_consume(tasks, on_task)
channel.start_consuming()
