"""The drivers in clients/: found by the directory listing, described by their own header.

A driver is `clients/NAME.EXT`, or `clients/NAME/driver.EXT` when its language wants a folder. Its
first comment lines say how it is installed and run (shell, with $FILE, $DIR and $WORK set):

    needs:    programs that must be on the machine, else the client is left out
    apt:      Debian packages that bring them (`conformance/all` installs these)
    install:  run once into $WORK, again when a file of the driver changes
    run:      the driver, given `cases` or `run CASE URL`
    seconds:  how long one case may take (default 60)
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

from . import processes

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "clients"
WORK = ROOT / ".work"
HEADER = re.compile(r"^\W*(needs|apt|install|run|seconds):\s+(.*\S)")
INSTALL_SECONDS = 1800
BUILD_LEFTOVERS = {"target", "node_modules", "__pycache__"}


class NotInstallable(Exception):
    """The client cannot be had on this machine; the message says why in one line."""


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
            raise SystemExit(f"{self.file.name}: its header has no `run:` line")
        return header

    def install(self):
        """Make the client ready in its work folder, once for each state of its files."""
        missing = [program for program in self.needs if not shutil.which(program)]
        if missing:
            raise NotInstallable(f"not on this machine: {', '.join(missing)}")
        stamp = self.work / "installed"
        state = self._state()
        if stamp.exists() and stamp.read_text() == state:
            return
        self.work.mkdir(parents=True, exist_ok=True)
        code, output = processes.run(self.install_command, INSTALL_SECONDS, env=self._environment())
        (self.work / "install.log").write_text(output)
        if code != 0:
            raise NotInstallable(f"install failed: {processes.last_line(output)}")
        stamp.write_text(state)

    def cases(self):
        """(runnable name -> need or None, left out pattern -> reason), as the driver tells them."""
        code, output = processes.run(f"{self.run_command} cases", 60, env=self._environment())
        if code != 0:
            raise NotInstallable(f"cannot list its cases: {processes.last_line(output)}")
        runnable, left_out = {}, {}
        for line in output.splitlines():
            verb, name, *rest = line.split(None, 2)
            if verb == "case":
                runnable[name] = rest[0].removeprefix("needs ") if rest else None
            elif verb == "without":
                left_out[name] = rest[0]
            else:
                raise SystemExit(f"{self.name}: cannot read its line: {line}")
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
