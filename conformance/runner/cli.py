"""The two commands: `run` for some clients at one broker, `all` for everything side by side."""

import argparse
import json
import signal
import subprocess
import sys

from . import catalogue, column, drivers, report
from .given import Given
from .progress import Progress
from .rabbitmq import APT, Missing, RabbitMQ
from .sluicemq import SluiceMQ

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
    results, missing = _run(_pick(parser, arguments.client), [make], arguments)
    if any(result.outcome == column.FAIL for result in results):
        return FAILED
    return NOT_INSTALLABLE if missing else 0


def all_command():
    """conformance/all; exit code 1 when a case passes on RabbitMQ and fails on SluiceMQ."""
    parser = argparse.ArgumentParser(prog="conformance/all", description="All clients, SluiceMQ beside RabbitMQ.")
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only such cases, e.g. 'tx/*'")
    parser.add_argument("--json", metavar="FILE", help="also write the results there, machine-readable")
    parser.add_argument("--sluicemq", metavar="PATH", help="the broker's binary (default: target/release/sluicemq)")
    arguments = parser.parse_args()
    everyone = list(drivers.find_all().values())
    _apt_install(sorted({package for driver in everyone for package in driver.apt} | set(APT)))
    results, missing = _run(everyone, [RabbitMQ, lambda: SluiceMQ(arguments.sluicemq)], arguments)
    worse = report.regressions(results)
    for result in worse:
        print(f"passes on RabbitMQ, fails here: {result.client}: {result.case}: {result.detail}")
    if worse:
        return FAILED
    return NOT_INSTALLABLE if missing else 0


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
        print(f"  {name.ljust(36)} {meaning}")
    return 0


def _run(clients, makers, arguments):
    """(results, reasons why something was left out); prints the table and the reasons."""
    # SIGTERM must end what we started too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress, names = Progress(), catalogue.read()
    results, missing, ready, ran = [], [], [], []
    for driver in clients:
        progress.show(f"install {driver.name}: {driver.install_command}")
        try:
            driver.install()
            ready.append((driver, column.plan(driver, names, arguments.case)))
        except drivers.NotInstallable as reason:
            missing.append(f"left out: client {driver.name}: {reason}")
    for make in makers if ready else []:
        broker = None
        try:
            broker = make()
            progress.show(f"start {broker.name}: {broker.url}")
            broker.start()
            ran.append(broker.name)
            for driver, planned in ready:
                results += column.run(driver, broker, planned, progress)
        except Missing as reason:
            missing.append(f"left out: broker {reason}")
        finally:
            if broker:
                broker.stop()
    progress.done()
    if results:
        print(report.table(results, ran))
    print("\n".join(missing), end="\n" if missing else "")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([result.as_json() for result in results], file, indent=1)
    return results, missing


def _apt_install(packages):
    """Debian's clients and broker, where Debian is there to ask and they are not."""
    for package in packages:
        query = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True)
        if "install ok installed" not in query.stdout:
            subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", package], check=False)
