"""Our broker, from a built binary, on a free port and in a temporary folder."""

import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from . import certificates, ports, processes, wait
from .faults import Failed, Missing

DEFAULT_BINARY = Path(__file__).resolve().parents[2] / "target" / "release" / "sluicemq"
READY = "Server startup complete"
START_SECONDS = 30
LOW_WATERMARK = '[memory]\nwatermark = "64MiB"\n'
TLS = """
[tls]
certificate = "{folder}/server.pem"
key = "{folder}/server.key"
listeners = ["127.0.0.1:{port}"]
mgmt = "none"
prometheus = "none"
client_ca = "{folder}/ca.pem"
verify = "optional"
login_from = "common_name"
"""


class SluiceMQ:
    """A running SluiceMQ; `stop` leaves nothing behind."""

    name = "sluicemq"

    def __init__(self, binary=None, config=""):
        self.binary = Path(binary or DEFAULT_BINARY).resolve()
        if not self.binary.is_file():
            raise Missing(f"sluicemq: no binary at {self.binary} (cargo build --release, or --sluicemq PATH)")
        self.config = config
        self.folder = Path(tempfile.mkdtemp(prefix="conformance-sluicemq-"))
        self.log = self.folder / "log"
        self.port, self.tls_port, management_port, metrics_port = ports.free_ports(4)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self.http = f"http://127.0.0.1:{management_port}"
        self.metrics = f"http://127.0.0.1:{metrics_port}"
        self.certificates = self.folder / "certificates"
        self.process = None

    def start(self):
        """Start the broker and wait for the line that says it serves."""
        command = [str(self.binary), "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.folder / "data")]
        command += ["--mgmt", self.http.removeprefix("http://"), "--prometheus", self.metrics.removeprefix("http://")]
        certificates.make(self.certificates)
        file = self.folder / "sluicemq.toml"
        file.write_text(self.config + TLS.format(port=self.tls_port, folder=self.certificates))
        command += ["--config", str(file)]
        self.process = processes.start(command, self.log, cwd=self.folder)
        wait.until(lambda: self.process.poll() is not None or READY in self.log.read_text(errors="replace"),
                   START_SECONDS, f"SluiceMQ logs '{READY}'")
        if self.process.poll() is not None:
            raise Failed(f"sluicemq did not start: {processes.last_line(self.log.read_text(errors='replace'))}")

    @contextmanager
    def short_consumer_timeout(self):
        """This broker: here a queue has a timeout of its own."""
        yield self.url, {}

    @contextmanager
    def tls(self):
        """This broker, where it is reached by TLS, and the certificates for it."""
        yield self.url, {"CONFORMANCE_TLS_PORT": str(self.tls_port), "CONFORMANCE_CERTIFICATES": str(self.certificates)}

    @contextmanager
    def websocket(self):
        """This broker, where it is reached by WebSocket; RabbitMQ 3.10 has no such place."""
        yield self.url, {"CONFORMANCE_WEBSOCKET": self.http.replace("http:", "ws:") + "/ws"}

    @contextmanager
    def operating(self):
        """This broker, and how its operators reach it; the tool for plugins is the binary by that name."""
        plugins = self.folder / "rabbitmq-plugins"
        if not plugins.exists():
            plugins.symlink_to(self.binary)
        place = ["--data-dir", str(self.folder / "data")]
        yield self.url, {
            "CONFORMANCE_HTTP": self.http,
            "CONFORMANCE_METRICS": self.metrics,
            "CONFORMANCE_CTL": shlex.join([str(self.binary), "ctl", *place]),
            "CONFORMANCE_PLUGINS": shlex.join([str(plugins), *place]),
        }

    @contextmanager
    def short_of_memory(self):
        """A second broker with a low watermark, and the commands that press and relieve it."""
        broker = SluiceMQ(self.binary, LOW_WATERMARK)
        command = [sys.executable, str(Path(__file__).with_name("press.py"))]
        target = [str(broker.binary), broker.url, str(broker.folder)]
        try:
            broker.start()
            yield broker.url, {
                "CONFORMANCE_PRESS": shlex.join([*command, "on", *target]),
                "CONFORMANCE_RELIEVE": shlex.join([*command, "off", *target]),
            }
            broker.check_alive()
        finally:
            broker.stop()

    def check_alive(self):
        """A broker that died on the way must not look like one that passed."""
        if self.process.poll() is not None:
            raise Failed(f"sluicemq died: {processes.last_line(self.log.read_text(errors='replace'))}")

    def stop(self):
        """End the broker and its folder."""
        if self.process:
            processes.stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)
