"""One column of the table: every case of one client against one broker."""

import fnmatch
import time
from dataclasses import asdict, dataclass

from . import processes
from .drivers import Broken

PASS, FAIL, LEFT_OUT = "pass", "FAIL", "left out"
# What a case may need -> how a broker that was started here is brought there.
NEEDS = {"short-of-memory": "short_of_memory", "short-consumer-timeout": "short_consumer_timeout",
         "operating": "operating", "tls": "tls", "websocket": "websocket"}


@dataclass
class Result:
    """What one case of one client saw at one broker."""

    client: str
    broker: str
    case: str
    outcome: str
    seconds: float = 0.0
    detail: str = ""
    output: str = ""

    def as_json(self):
        """Everything a machine may want to know."""
        return asdict(self)


def plan(driver, catalogue, patterns):
    """(name, need, reason it is left out) for each case the client speaks of, in the catalogue's order."""
    runnable, left_out = driver.cases()
    unknown = runnable.keys() - catalogue.keys()
    if unknown:
        raise Broken(f"not in cases.txt: {', '.join(sorted(unknown))}")
    planned = []
    for name in catalogue:
        if patterns and not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        reason = next((why for pattern, why in left_out.items() if fnmatch.fnmatch(name, pattern)), None)
        if name in runnable:
            planned.append((name, runnable[name], None))
        elif reason:
            planned.append((name, None, reason))
    return planned


def run(driver, broker, planned, progress):
    """Run the planned cases one after the other, each in a process of its own."""
    results = []
    for number, (name, need, reason) in enumerate(planned, 1):
        progress.show(f"{driver.name} at {broker.name}: {number}/{len(planned)} {name}")
        result = Result(driver.name, broker.name, name, LEFT_OUT, detail=reason or "")
        if reason is None and need not in [None, *NEEDS]:
            raise Broken(f"{name} needs {need}, which the runner does not know")
        if reason is None and need and not hasattr(broker, NEEDS[need]):
            result.detail = "needs a broker that the runner started"
        elif reason is None:
            _run_case(driver, broker, result, need)
        results.append(result)
        if result.outcome == FAIL:
            progress.say(f"FAIL {driver.name} at {broker.name}: {name}: {result.detail}")
    return results


def _run_case(driver, broker, result, need):
    started = time.monotonic()
    if need:
        with getattr(broker, NEEDS[need])() as (url, extra):
            passed, output = driver.run_case(result.case, url, extra)
    else:
        passed, output = driver.run_case(result.case, broker.url, {})
    result.seconds = round(time.monotonic() - started, 2)
    result.outcome = PASS if passed else FAIL
    if not passed:
        result.detail = processes.last_line(output)
        result.output = output
