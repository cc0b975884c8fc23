"""Waiting for something to be true, with a deadline: the only pause in the runner."""

import threading
import time


class TimedOut(Exception):
    """What was waited for did not come true in time."""


def until(condition, seconds, what, every=0.05):
    """Ask `condition` until it answers with something true, and return that."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds} s")
        pause.wait(every)
