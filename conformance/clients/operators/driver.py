# What operators point at a broker: Debian's rabbitmqadmin, Nagios checks and Prometheus, Celery's Flower, rabbitmqctl as
# Puppet and Ansible read it, and definitions that a RabbitMQ exported.
#
# needs:    python3 rabbitmqadmin check_rabbitmq_overview prometheus
# apt:      python3-venv rabbitmq-server nagios-plugins-rabbitmq prometheus
# install:  python3 -m venv "$WORK/venv"
# install:  "$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check "celery>=5.5,<6" "flower>=2,<3"
# run:      "$WORK/venv/bin/python" -B "$FILE"
# seconds:  600
"""The two verbs of a driver, and the cases."""

import sys
import traceback

import by_flower
import by_prometheus
import definitions
import nagios
import rabbitmqadmin
import rabbitmqctl
from node import Node

CASES = {"operate/rabbitmqadmin": rabbitmqadmin.case, "operate/nagios": nagios.case, "operate/prometheus": by_prometheus.case,
         "operate/flower": by_flower.case, "operate/rabbitmqctl": rabbitmqctl.case, "operate/definitions": definitions.case}


def main():
    """`cases` or `run CASE URL`."""
    if sys.argv[1] == "cases":
        for name in CASES:
            print("case", name, "needs operating")
        return
    node = Node(sys.argv[3])
    try:
        CASES[sys.argv[2]](node)
    finally:
        node.clean_up()


try:
    main()
except Exception as problem:
    traceback.print_exc()
    # An assertion without words is best explained by itself.
    words = str(problem) or traceback.extract_tb(problem.__traceback__)[-1].line
    print(f"{type(problem).__name__}: {words}".replace("\n", " "), file=sys.stderr)
    sys.exit(1)
