"""The drivers in clients/: found by the directory listing, described by their own header.

A driver is `clients/NAME.EXT`, or `clients/NAME/driver.EXT` when its language wants a folder. Its
first comment lines say how it is installed and run (shell, with $FILE, $DIR and $WORK set):

    needs:    programs and files that must be on the machine, else the client is left out
    apt:      Debian packages that bring what is missing (`conformance/all` installs them)
    install:  fetches the client into $WORK, once and again when a file of the driver changes
    build:    compiles the driver; when this fails the driver is broken, not the machine
    run:      the driver, given `cases` or `run CASE URL`
    seconds:  how long one case may take (default 60)
"""

import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path

from . import processes

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "clients"
WORK = ROOT / ".work"
HEADER = re.compile(r"^\W*(needs|apt|install|build|run|seconds):\s+(.*\S)")
INSTALL_SECONDS = 1800
BUILD_LEFTOVERS = {"target", "node_modules", "__pycache__"}


class NotInstallable(Exception):
    """The client cannot be had on this machine; the message says why in one line."""


class Broken(Exception):
    """The driver itself is at fault, so this must not pass for a client left out."""


class Driver:
    """One client library behind the two verbs `cases` and `run CASE URL`."""

    def __init__(self, name, file):
        self.name = name
        self.file = file
        self.work = WORK / name
        header = self._header()
        self.needs = header.get("needs", "").split()
        self.apt = header.get("apt", "").split()
        self.install_command = header.get("install", "true")
        self.build_command = header.get("build", "true")
        self.run_command = header["run"]
        self.seconds = float(header.get("seconds", 60))

    def _header(self):
        header = {}
        for line in self.file.read_text().splitlines()[:40]:
            match = HEADER.match(line)
            if match:
                key, value = match.groups()
                header[key] = f"{header[key]} && {value}" if key == "install" and key in header else value
        if "run" not in header:
            raise Broken(f"{self.file.name}: its header has no `run:` line")
        return header

    def install(self):
        """Make the client ready in its work folder, once for each state of its files."""
        missing = [need for need in self.needs if not (shutil.which(need) or Path(need).is_file())]
        if missing:
            raise NotInstallable(f"not on this machine: {', '.join(missing)}")
        self.work.mkdir(parents=True, exist_ok=True)
        with open(self.work / "lock", "w") as lock:
            # Two runs may want the same client at once.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._install_once()

    def _install_once(self):
        stamp = self.work / "installed"
        state = self._state()
        if stamp.exists() and stamp.read_text() == state:
            return
        for what, command, blame in [("install", self.install_command, NotInstallable),
                                     ("build", self.build_command, Broken)]:
            code, output = processes.run(command, INSTALL_SECONDS, env=self._environment())
            (self.work / f"{what}.log").write_text(output)
            if code != 0:
                raise blame(f"{what} failed: {processes.last_line(output)}")
        stamp.write_text(state)

    def cases(self):
        """(runnable name -> need or None, left out pattern -> reason), as the driver tells them."""
        code, output = processes.run(f"{self.run_command} cases", 60, env=self._environment())
        if code != 0:
            raise Broken(f"cannot list its cases: {processes.last_line(output)}")
        runnable, left_out = {}, {}
        for line in output.splitlines():
            verb, name, *rest = line.split(None, 2)
            if verb == "case":
                runnable[name] = rest[0].removeprefix("needs ") if rest else None
            elif verb == "without":
                left_out[name] = rest[0]
            else:
                raise Broken(f"cannot read its line: {line}")
        return runnable, left_out

    def run_case(self, case, url, extra):
        """(passed, what it said); a driver says why a case failed in its last line."""
        command = f"{self.run_command} run '{case}' '{url}'"
        code, output = processes.run(command, self.seconds, env=self._environment() | extra)
        if code is None:
            return False, f"still running after {self.seconds:g} s; last line: {processes.last_line(output)}"
        return code == 0, output

    def _environment(self):
        return os.environ | {"FILE": str(self.file), "DIR": str(self.file.parent), "WORK": str(self.work)}

    def _state(self):
        digest = hashlib.sha256()
        for file in sorted(self._files()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

    def _files(self):
        if self.file.parent == CLIENTS:
            return [self.file]
        return [file for file in self.file.parent.rglob("*")
                if file.is_file() and not BUILD_LEFTOVERS & set(file.parts)]


def find_all():
    """Name -> driver, by the directory listing alone."""
    drivers = {}
    for entry in sorted(CLIENTS.iterdir()):
        files = [entry] if entry.is_file() else sorted(entry.glob("driver.*"))
        for file in files:
            name = entry.stem if entry.is_file() else entry.name
            drivers[name] = Driver(name, file)
    return drivers
