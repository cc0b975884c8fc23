"""A real RabbitMQ of our own: a free port, its own node and epmd, everything it writes in a temporary folder."""

import os
import shlex
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from . import certificates, ports, processes, wait
from .faults import Failed, Missing

# Debian's commands on PATH switch to another user, who could not write to our folder.
DIRECT = Path("/usr/lib/rabbitmq/bin")
APT = ["rabbitmq-server"]
START_SECONDS = 120
CONTROL_SECONDS = 30
# What is a plugin there: kinds of exchange, and what operators speak to.
PLUGINS = ["rabbitmq_consistent_hash_exchange", "rabbitmq_random_exchange", "rabbitmq_recent_history_exchange",
           "rabbitmq_sharding", "rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_shovel_management",
           "rabbitmq_auth_mechanism_ssl"]
# Its epmd is its own, so that no other node can have the name; some tools make it of the host's.
NODE = "rabbit@localhost"


class RabbitMQ:
    """A running RabbitMQ with its management and metrics; `stop` leaves nothing behind."""

    name = "rabbitmq"

    def __init__(self):
        self.server = self._command("rabbitmq-server")
        self.control = self._command("rabbitmqctl")
        self.folder = Path(tempfile.mkdtemp(prefix="conformance-rabbitmq-"))
        self.log = self.folder / "log"
        self.port, self.tls_port, distribution_port, epmd_port, management_port, metrics_port = ports.free_ports(6)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{management_port}"
        self.metrics = f"http://127.0.0.1:{metrics_port}"
        (self.folder / "plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        self.certificates = self.folder / "certificates"
        certificates.make(self.certificates)
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {self.certificates}/ca.pem\n"
            f"ssl_options.certfile = {self.certificates}/server.pem\n"
            f"ssl_options.keyfile = {self.certificates}/server.key\n"
            "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n"
            "ssl_cert_login_from = common_name\n"
            # RabbitMQ 3.10 still takes TLS 1.1 unless it is told not to.
            "ssl_options.versions.1 = tlsv1.3\nssl_options.versions.2 = tlsv1.2\n"
            "auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management_port}\n"
            f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {metrics_port}\n")
        # rabbitmqctl looks for the cookie in HOME.
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(f"conformance{self.port}")
        cookie.chmod(0o400)
        self.settings = {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": "-",
        }
        self.running = []

    @staticmethod
    def _command(name):
        found = shutil.which(name, path=str(DIRECT)) or shutil.which(name)
        if not found:
            raise Missing(f"rabbitmq: {name} is not on this machine")
        return found

    def start(self):
        """Start the node and wait until it speaks AMQP."""
        environment = os.environ | self.settings
        # Our child, so that it can be ended by its id: the node would leave one behind.
        epmd = shutil.which("epmd")
        if not epmd:
            raise Missing("rabbitmq: epmd is not on this machine")
        port = self.settings["ERL_EPMD_PORT"]
        self.running.append(processes.start([epmd, "-port", port], self.log, env=environment, cwd=self.folder))
        node = processes.start([self.server], self.log, env=environment, cwd=self.folder)
        self.running.append(node)
        wait.until(lambda: node.poll() is not None or ports.speaks_amqp(self.port), START_SECONDS,
                   "RabbitMQ speaks AMQP")
        if node.poll() is not None:
            raise Failed(f"rabbitmq did not start: {processes.last_line(self.log.read_text())}")

    def _tool(self, program, *options):
        """The shell words of one of its command line tools."""
        return shlex.join(["env", *(f"{key}={value}" for key, value in self.settings.items()),
                           program, "-n", NODE, *options])

    @contextmanager
    def tls(self):
        """This broker, where it is reached by TLS, and the certificates for it."""
        yield self.url, {"CONFORMANCE_TLS_PORT": str(self.tls_port), "CONFORMANCE_CERTIFICATES": str(self.certificates)}

    @contextmanager
    def operating(self):
        """This broker, and how its operators reach it."""
        yield self.url, {
            "CONFORMANCE_HTTP": self.http,
            "CONFORMANCE_METRICS": self.metrics,
            "CONFORMANCE_CTL": self._tool(self.control),
            "CONFORMANCE_PLUGINS": self._tool(self._command("rabbitmq-plugins")),
        }

    @contextmanager
    def short_consumer_timeout(self):
        """This broker, whose new channels give a consumer a second and look every 200 ms."""
        self._evaluate("[application:set_env(rabbit, K, V) || {K, V} <- "
                       "[{consumer_timeout, 1000}, {channel_tick_interval, 200}]].")
        try:
            yield self.url, {}
        finally:
            self._evaluate("[application:set_env(rabbit, K, V) || {K, V} <- "
                           "[{consumer_timeout, 1800000}, {channel_tick_interval, 60000}]].")

    def _evaluate(self, expression):
        code, output = processes.run(f"{self._tool(self.control, '-q')} eval {shlex.quote(expression)}", CONTROL_SECONDS)
        if code != 0:
            raise Failed(f"rabbitmq did not evaluate {expression}: {processes.last_line(output)}")

    @contextmanager
    def short_of_memory(self):
        """This broker, and the shell commands that put it under memory pressure and take it away."""
        control = self._tool(self.control, "-q")
        relieve = f"{control} set_vm_memory_high_watermark 0.4"
        try:
            yield self.url, {
                "CONFORMANCE_PRESS": f"{control} set_vm_memory_high_watermark absolute 1",
                "CONFORMANCE_RELIEVE": relieve,
            }
        finally:
            # A case that failed halfway must not block the publishers of the next.
            processes.run(relieve, CONTROL_SECONDS)

    def check_alive(self):
        """A broker that died on the way must not look like one that passed."""
        if any(process.poll() is not None for process in self.running):
            raise Failed(f"rabbitmq died: {processes.last_line(self.log.read_text())}")

    def stop(self):
        """End the node, its epmd and its folder."""
        while self.running:
            processes.stop(self.running.pop())
        shutil.rmtree(self.folder, ignore_errors=True)
