# Celery, with its settings as they come: prefork workers, events, remote control, results by rpc.
#
# needs:    python3
# apt:      python3-venv
# install:  python3 -m venv "$WORK/venv"
# install:  "$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check "celery>=5.5,<6"
# run:      "$WORK/venv/bin/python" -B "$FILE"
# seconds:  90
"""The two verbs of a driver, and the cases."""

import os
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
from contextlib import contextmanager
from pathlib import Path

DEADLINE_SECONDS = 30


@contextmanager
def worker(log):
    """A worker in a process group of its own; what it says is shown when the case fails."""
    command = [sys.executable, "-B", "-m", "celery", "-A", "tasks", "worker", "--concurrency", "1", "--loglevel", "info"]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdin=subprocess.DEVNULL, stdout=log,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def kill(process):
    """End the worker and the children that run its tasks, as a machine that fails would."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def end(process):
    """Ask the worker to end, and wait until it did."""
    process.terminate()
    assert process.wait(DEADLINE_SECONDS) == 0, f"the worker ended with {process.returncode}"


def task_queue(tasks, log):
    """Tasks that wait for a worker are done by priority; one is retried, one outlives its worker."""
    wanted = [tasks.report.apply_async([name], priority=priority)
              for name, priority in [("low", 1), ("high", 9), ("middle", 5), ("high too", 9)]]
    with worker(log) as first:
        results = [result.get(timeout=DEADLINE_SECONDS) for result in wanted]
        assert max(results, key=len) == ["high", "high too", "middle", "low"], results
        assert tasks.unsteady.delay(2, countdown=0.2).get(timeout=DEADLINE_SECONDS) == 2
        assert tasks.app.control.broadcast("ping", reply=True, limit=1, timeout=DEADLINE_SECONDS)
        held = tasks.killed_once.delay()
        wait_until_started(held)
        kill(first)
    with worker(log) as second:
        assert held.get(timeout=DEADLINE_SECONDS) == "redelivered"
        end(second)
    assert left(tasks) == 0


def wait_until_started(result):
    """Wait for the message that says a worker has begun; such are shown and not kept."""
    consumer, states = result.backend.result_consumer, []
    consumer.on_message = lambda meta: states.append(meta["status"])
    while "STARTED" not in states:
        consumer.drain_events(timeout=DEADLINE_SECONDS)
    consumer.on_message = None


def quorum_task_queue(tasks, log):
    """In a quorum queue what is to come later waits in the broker: Celery's exchanges and queues of delays."""
    with worker(log) as only:
        assert tasks.report.delay("now").get(timeout=DEADLINE_SECONDS) == ["now"]
        later = tasks.way.apply_async(countdown=3)
        assert tasks.report.delay("soon").get(timeout=DEADLINE_SECONDS) == ["now", "soon"]
        # Each queue of delays is for one bit of the seconds.
        assert later.get(timeout=DEADLINE_SECONDS) == [["celery_delayed_0", "expired", 1], ["celery_delayed_1", "expired", 1]]
        end(only)
    assert left(tasks) == 0


def left(tasks):
    """How many tasks wait in the queue."""
    with tasks.app.connection_for_write() as connection:
        return connection.default_channel.queue_declare(tasks.NAME, passive=True).message_count


def clean_up(tasks):
    """Delete what would stay, but for the exchanges and queues of delays: they belong to every Celery of the broker."""
    with tasks.app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_delete(tasks.NAME)
        for exchange in [tasks.NAME, f"{tasks.NAME}.control.pidbox", f"reply.{tasks.NAME}.control.pidbox", f"{tasks.NAME}.events"]:
            channel.exchange_delete(exchange)


CASES = {"story/task-queue": ("priorities", task_queue), "story/quorum-task-queue": ("quorum", quorum_task_queue)}


def run(name, url):
    """Run a case with an application of its own."""
    queues, case = CASES[name]
    os.environ |= {"CONFORMANCE_URL": url, "CONFORMANCE_NAME": f"celery-{uuid.uuid4().hex[:12]}", "CONFORMANCE_QUEUES": queues}
    import tasks
    with tempfile.TemporaryFile("w+") as log:
        try:
            case(tasks, log)
            clean_up(tasks)
        except Exception:
            log.seek(0)
            print(log.read())
            raise


def main():
    """`cases` or `run CASE URL`."""
    if sys.argv[1] == "cases":
        for name in CASES:
            print("case", name)
    else:
        run(*sys.argv[2:])


try:
    main()
except Exception as problem:
    traceback.print_exc()
    # An assertion without words is best explained by itself.
    words = str(problem) or traceback.extract_tb(problem.__traceback__)[-1].line
    print(f"{type(problem).__name__}: {words}".replace("\n", " "), file=sys.stderr)
    sys.exit(1)
