"""The application: its queue and its tasks, as the driver and its workers know them."""

import os
import threading

from celery import Celery
from kombu import Exchange, Queue

NAME = os.environ["CONFORMANCE_NAME"]

app = Celery("conformance", broker=os.environ["CONFORMANCE_URL"], backend="rpc://")
# Names of our own, so that nothing meets another Celery of this broker; all else is as Celery has it.
app.conf.update(
    task_default_queue=NAME,
    control_exchange=f"{NAME}.control",
    event_exchange=f"{NAME}.events",
)
app.conf.update(
    {
        # Celery's guide for priorities: the broker orders what no worker has taken yet.
        "priorities": {
            "task_queues": [Queue(NAME, Exchange(NAME), routing_key=NAME, queue_arguments={"x-max-priority": 10})],
            "task_acks_late": True,
            "worker_prefetch_multiplier": 1,
        },
        "quorum": {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"},
    }[os.environ["CONFORMANCE_QUEUES"]]
)

finished = []


@app.task
def report(name):
    """Which tasks this worker has finished before, and this one."""
    finished.append(name)
    return finished


@app.task(bind=True)
def way(self):
    """The queues in which it waited, the last one first."""
    return [(death["queue"], death["reason"], death["count"]) for death in self.request.headers["x-death"]]


@app.task(bind=True, max_retries=3)
def unsteady(self, fails, countdown):
    """Fails so many times, then tells how often it was tried."""
    if self.request.retries < fails:
        raise self.retry(countdown=countdown)
    return self.request.retries


@app.task(bind=True, acks_late=True, track_started=True)
def killed_once(self):
    """Never ends, unless it is delivered again."""
    if not self.request.delivery_info["redelivered"]:
        threading.Event().wait()
    return "redelivered"
