"""Child processes that never outlive the runner and are only ever ended by their own id."""

import os
import signal
import subprocess


def last_line(text):
    """The last line that says something, for a one-line reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def start(command, log, **options):
    """Start a daemon in a process group of its own, its output in the file `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                start_new_session=True, **options)


def stop(process, seconds=20):
    """Ask the process to end, then end its whole group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
    end_group(process)


def end_group(process):
    """Kill what is left of the process group of `process`."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(command, seconds, **options):
    """Run a shell command to its end; returns (exit code or None when it took too long, output)."""
    process = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
                               **options)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        end_group(process)
        output, _ = process.communicate()
        return None, output
    finally:
        end_group(process)
