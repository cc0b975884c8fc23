# What operators point at a broker: Debian's rabbitmqadmin, Nagios checks and Prometheus, Celery's Flower, rabbitmqctl as
# Puppet and Ansible read it, and definitions that a RabbitMQ exported.
#
# needs:    python3 rabbitmqadmin check_rabbitmq_overview prometheus
# apt:      python3-venv rabbitmq-server nagios-plugins-rabbitmq prometheus
# install:  python3 -m venv "$WORK/venv"
# install:  "$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check "celery>=5.5,<6" "flower>=2,<3"
# run:      "$WORK/venv/bin/python" -B "$FILE"
# seconds:  600
"""The cases."""

import by_flower
import by_prometheus
import definitions
import nagios
import rabbitmqadmin
import rabbitmqctl
from play import play

play({"operate/rabbitmqadmin": rabbitmqadmin.case, "operate/nagios": nagios.case, "operate/prometheus": by_prometheus.case,
      "operate/flower": by_flower.case, "operate/rabbitmqctl": rabbitmqctl.case, "operate/definitions": definitions.case})
