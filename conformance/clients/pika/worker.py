"""A worker of the image story, a process of its own: `worker.py URL TASKS RESULTS [hold]`.

It does one task at a time and publishes NAME@WORKER when done. With `hold` it says which task it has
taken and then works on it for ever, until somebody kills it.
"""

import os
import sys
import threading

import pika

url, tasks, results, *mood = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=1)


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
