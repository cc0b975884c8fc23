"""Puts a SluiceMQ short of memory, or relieves it: python3 press.py on|off BINARY URL FOLDER.

A backlog does not do it, for that goes to the disk: a consumer that never acknowledges holds transient messages, which no
disk has, until their publisher is told to wait.
"""

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runner import wait

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
    wait.until(lambda: holder.poll() is not None or stays(folder / "log"), PATIENCE, "the alarm is raised, and stays")
    if holder.poll() is not None:
        sys.exit("the consumer that never acknowledges is gone")


def stays(log):
    """Whether the alarm has outlived any that began with a backlog."""
    is_raised, since = last_alarm(log)
    return is_raised and datetime.now(timezone.utc) - since > STAYS


def main():
    how, binary, url, folder = sys.argv[1:]
    if how == "on":
        press(binary, url, Path(folder))
    else:
        os.kill(int((Path(folder) / "holder").read_text()), signal.SIGKILL)


if __name__ == "__main__":
    main()
