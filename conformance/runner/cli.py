"""The two commands: `run` for some clients at one broker, `all` for everything side by side."""

import argparse
import json
import shutil
import signal
import subprocess
import sys

from . import catalogue, column, drivers, report
from .faults import Failed, Missing
from .given import Given
from .progress import Progress
from .rabbitmq import APT, RabbitMQ
from .sluicemq import SluiceMQ
from .wait import TimedOut

FAILED, NOT_INSTALLABLE = 1, 3


def run_command():
    """conformance/run; exit code 0 all pass, 1 a case failed, 3 a client or broker cannot be had."""
    parser = argparse.ArgumentParser(prog="conformance/run", description="Stock AMQP clients against one broker.")
    parser.add_argument("--client", action="append", metavar="NAME", help="a client (repeatable; default: all)")
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only such cases, e.g. 'tx/*'")
    parser.add_argument("--json", metavar="FILE", help="also write the results there, machine-readable")
    parser.add_argument("--list", action="store_true", help="list clients and cases")
    parser.add_argument("--sluicemq", metavar="PATH", help="the broker's binary (default: target/release/sluicemq)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", help="a broker that runs already, e.g. amqp://guest:guest@127.0.0.1:5672")
    where.add_argument("--broker", choices=["rabbitmq", "sluicemq"], help="start this broker for the run")
    arguments = parser.parse_args()
    if arguments.list:
        return _list()
    if not arguments.url and not arguments.broker:
        parser.error("say --url URL or --broker NAME")
    makers = {"rabbitmq": RabbitMQ, "sluicemq": lambda: SluiceMQ(arguments.sluicemq)}
    make = (lambda: Given(arguments.url)) if arguments.url else makers[arguments.broker]
    return _run(_pick(parser, arguments.client), [make], arguments).exit_code()


def all_command():
    """conformance/all; exit code 1 when a case fails, above all one that passes on RabbitMQ and fails on SluiceMQ."""
    parser = argparse.ArgumentParser(prog="conformance/all", description="All clients, SluiceMQ beside RabbitMQ.")
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only such cases, e.g. 'tx/*'")
    parser.add_argument("--json", metavar="FILE", help="also write the results there, machine-readable")
    parser.add_argument("--sluicemq", metavar="PATH", help="the broker's binary (default: target/release/sluicemq)")
    arguments = parser.parse_args()
    everyone = list(drivers.find_all().values())
    outcome = _run(everyone, [RabbitMQ, lambda: SluiceMQ(arguments.sluicemq)], arguments, _apt_install)
    for result in report.regressions(outcome.results):
        print(f"passes on RabbitMQ, fails here: {result.client}: {result.case}: {result.detail}")
    return outcome.exit_code()


def _pick(parser, names):
    found = drivers.find_all()
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        parser.error(f"no such client: {', '.join(unknown)} (there are: {', '.join(found)})")
    return [found[name] for name in names or found]


def _list():
    for name, driver in drivers.find_all().items():
        print(f"client {name} ({driver.file.relative_to(drivers.ROOT)})")
    for name, meaning in catalogue.read().items():
        print(f"  {name.ljust(42)} {meaning}")
    return 0


class Outcome:
    """What a run of clients and brokers came to."""

    def __init__(self):
        self.results = []
        self.left_out = []
        self.broken = []

    def exit_code(self):
        """Broken and failed before left out: nothing that went wrong may pass for something not tried."""
        if self.broken or any(result.outcome == column.FAIL for result in self.results):
            return FAILED
        return NOT_INSTALLABLE if self.left_out else 0


def _run(clients, makers, arguments, bring=lambda packages: None):
    """Run these clients at these brokers; prints the table and what was left out or is broken.

    `bring` is called with the Debian packages of what is missing, before it is tried once more.
    """
    # SIGTERM must end what we started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress, outcome = Progress(), Outcome()
    ready, ran = _prepare(clients, arguments, progress, outcome, bring), []
    for make in makers if ready else []:
        broker = None
        try:
            broker = _have(make, Missing, lambda: bring(APT))
            progress.show(f"start {broker.name}: {broker.url}")
            broker.start()
            ran.append(broker.name)
            for driver, planned in ready:
                outcome.results += column.run(driver, broker, planned, progress)
            broker.check_alive()
        except Missing as reason:
            outcome.left_out.append(f"left out: broker {reason}")
        except (Failed, TimedOut, drivers.Broken) as reason:
            outcome.broken.append(f"broken: {reason}")
        finally:
            if broker:
                broker.stop()
    progress.done()
    _report(outcome, ran, arguments.json)
    return outcome


def _prepare(clients, arguments, progress, outcome, bring):
    """(driver, its planned cases) for each client that can be had."""
    names, ready = catalogue.read(), []
    for driver in clients:
        progress.show(f"install {driver.name}: {driver.install_command}")
        try:
            _have(driver.install, drivers.NotInstallable, lambda: bring(driver.apt))
            planned = column.plan(driver, names, arguments.case)
            if planned:
                ready.append((driver, planned))
            else:
                outcome.left_out.append(f"left out: client {driver.name}: none of its cases was asked for")
        except drivers.NotInstallable as reason:
            outcome.left_out.append(f"left out: client {driver.name}: {reason}")
        except drivers.Broken as reason:
            outcome.broken.append(f"broken: driver {driver.name}: {reason}")
    return ready


def _have(attempt, absent, bring):
    """What `attempt` gives; when it is absent, once more after it was brought."""
    try:
        return attempt()
    except absent:
        bring()
        return attempt()


def _report(outcome, ran, json_file):
    if outcome.results:
        print(report.table(outcome.results, ran))
    for line in outcome.left_out + outcome.broken:
        print(line)
    if json_file:
        with open(json_file, "w") as file:
            json.dump([result.as_json() for result in outcome.results], file, indent=1)


def _apt_install(packages):
    """Debian's packages, where Debian is there to ask; what comes of it shows when the client is tried again."""
    if packages and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr)
