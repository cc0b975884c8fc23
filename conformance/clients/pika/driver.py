# pika, the most used Python client: the complete set of cases, since this is the client CI always runs.
#
# needs:    python3
# apt:      python3-venv
# install:  python3 -m venv "$WORK/venv"
# install:  "$WORK/venv/bin/python" -m pip install --quiet --disable-pip-version-check "pika>=1.3,<2"
# run:      "$WORK/venv/bin/python" -B "$FILE"
# seconds:  90
"""The two verbs of a driver; the cases are in the files beside this one, by topic."""

import importlib
import sys
import traceback
from pathlib import Path

import setting


def main():
    """`cases` or `run CASE URL`."""
    for file in sorted(Path(__file__).parent.glob("case_*.py")):
        importlib.import_module(file.stem)
    if sys.argv[1] == "cases":
        for name, case in setting.CASES.items():
            print("case", name, f"needs {case.need}" if case.need else "")
        return
    name, url = sys.argv[2:]
    with setting.Setting(url) as world:
        setting.CASES[name].run(world)


try:
    main()
except Exception as problem:
    traceback.print_exc()
    # An assertion without words is best explained by itself.
    words = str(problem) or traceback.extract_tb(problem.__traceback__)[-1].line
    print(f"{type(problem).__name__}: {words}".replace("\n", " "), file=sys.stderr)
    sys.exit(1)
