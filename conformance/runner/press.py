"""Puts a SluiceMQ short of memory, or relieves it: python3 press.py on|off BINARY URL FOLDER.

A backlog does not do it, for that goes to the disk: a consumer that never acknowledges holds transient messages, which no
disk has, until their publisher is told to wait.
"""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

LOAD = "--size 65536 --prefetch 0 --ack-every 65535 --max-waiting 1000000 --seconds 300"
RAISED, CLEARED = "memory alarm: publishers wait", "memory alarm cleared"
# An alarm that began with a backlog ends when that is on the disk, a second later at the earliest, and begins again.
STAYS = timedelta(seconds=3)
PATIENCE = 60


def last_alarm(log):
    """Whether the alarm is raised, and since when, by the broker's log."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        if RAISED in line or CLEARED in line:
            return RAISED in line, datetime.fromisoformat(line.split()[0].replace("Z", "+00:00"))
    return False, datetime.now(timezone.utc)


def press(binary, url, folder):
    holder = subprocess.Popen([binary, "bench", "--url", url + "/%2f", *LOAD.split()], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    (folder / "holder").write_text(str(holder.pid))
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and holder.poll() is None:
        is_raised, since = last_alarm(folder / "log")
        if is_raised and datetime.now(timezone.utc) - since > STAYS:
            return
        time.sleep(0.05)
    sys.exit("the alarm was not raised")


def main():
    how, binary, url, folder = sys.argv[1:]
    if how == "on":
        press(binary, url, Path(folder))
    else:
        os.kill(int((Path(folder) / "holder").read_text()), signal.SIGKILL)


if __name__ == "__main__":
    main()
