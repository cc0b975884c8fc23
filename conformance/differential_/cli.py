"""The command: draws scripts, plays each at both brokers, prints the shortest script that shows a difference."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from runner import drivers
from runner.faults import Failed, Missing
from runner.given import Given
from runner.progress import Progress
from runner.rabbitmq import APT, RabbitMQ
from runner.sluicemq import SluiceMQ
from runner.wait import TimedOut

DIFFERENT, NOT_INSTALLABLE = 1, 3


def command():
    """conformance/differential; exit code 0 no difference, 1 a difference, 3 pika or a broker cannot be had."""
    parser = argparse.ArgumentParser(prog="conformance/differential",
                                     description="Random scripts, message by message at SluiceMQ and at RabbitMQ.")
    parser.add_argument("--scripts", type=int, default=100, metavar="N", help="how many scripts (default: 100)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first script (default: 1)")
    parser.add_argument("--script", metavar="FILE", help="play this script, as one was printed ('-': standard input)")
    parser.add_argument("--print", action="store_true", help="print the scripts and play nothing")
    parser.add_argument("--stop", type=int, metavar="N", help="after so many differences")
    parser.add_argument("--sluicemq", metavar="PATH", help="the broker's binary (default: target/release/sluicemq)")
    for broker in ["sluicemq", "rabbitmq"]:
        parser.add_argument(f"--{broker}-url", metavar="URL", help="one that runs already")
        parser.add_argument(f"--{broker}-http", metavar="URL", help="its management API (default: port 15672)")
    arguments = parser.parse_args()
    try:
        _have_pika()
        return _run(arguments)
    except (Missing, drivers.NotInstallable) as reason:
        print(f"left out: {reason}")
        return NOT_INSTALLABLE
    except (Failed, TimedOut, drivers.Broken) as reason:
        print(f"broken: {reason}")
        return DIFFERENT


def _have_pika():
    """pika as the conformance cases use it: this command starts once more with the interpreter that has it."""
    pika = drivers.find_all()["pika"]
    python = pika.work / "venv" / "bin" / "python"
    if Path(sys.prefix) != python.parent.parent:
        pika.install()
        os.execv(python, [str(python), *sys.argv])


def _run(arguments):
    # These import pika.
    from .draw import draw
    from .script import read
    if arguments.script:
        scripts = [read(sys.stdin if arguments.script == "-" else Path(arguments.script).read_text().splitlines())]
    else:
        scripts = (draw(seed) for seed in range(arguments.seed, arguments.seed + arguments.scripts))
    if arguments.print:
        for script in scripts:
            print(script)
        return 0
    return _with_brokers(arguments, scripts)


def _with_brokers(arguments, scripts):
    # SIGTERM must end what we started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    brokers = []
    try:
        for url, http, make in [(arguments.rabbitmq_url, arguments.rabbitmq_http, RabbitMQ),
                                (arguments.sluicemq_url, arguments.sluicemq_http, lambda: SluiceMQ(arguments.sluicemq))]:
            brokers.append(Given(url, http) if url else make())
            brokers[-1].start()
        different = _play_all(scripts, brokers, arguments)
        for broker in brokers:
            broker.check_alive()
        return different
    finally:
        for broker in brokers:
            broker.stop()


def _play(table, script, brokers):
    from pika.exceptions import AMQPError
    try:
        return table.play(script)
    except (OSError, AssertionError, AMQPError) as problem:
        for broker in brokers:
            broker.check_alive()
        raise Failed(f"seed {script.seed} cannot be played: {problem!r}") from problem


def _play_all(scripts, brokers, arguments):
    from .play import Table
    from .shrink import shrink
    progress, table = Progress(), Table([(name, broker.url, broker.http)
                                            for name, broker in zip(["rabbitmq", "sluicemq"], brokers)])
    total = 1 if arguments.script else arguments.scripts
    started, played, steps, different = time.monotonic(), 0, 0, []
    for script in scripts:
        played, steps = played + 1, steps + len(script.steps)
        seconds = time.monotonic() - started
        progress.show(f"{played // 100 * 100} of {total} scripts: seed {script.seed}, {played} in {seconds:.0f} s, "
                      f"{len(different)} different")
        difference = _play(table, script, brokers)
        if difference:
            different.append(script.seed)
            progress.say(f"\nseed {script.seed}: different; shrinking {len(script.steps)} steps")
            script, difference, always = shrink(table, script, difference)
            print(f"{script}\n{difference}\n{'' if always else 'NOT EACH TIME: '}again: conformance/differential "
                  f"--seed {script.seed} --scripts 1, or the lines above with --script -\n", flush=True)
            if len(different) == arguments.stop:
                break
    progress.done()
    seconds = time.monotonic() - started
    print(f"{played} scripts, {steps} steps, {seconds:.0f} s, {played / seconds:.1f} a second; "
          f"{len(different)} different{': seeds ' if different else ''}{', '.join(map(str, different))}")
    return DIFFERENT if different else 0
