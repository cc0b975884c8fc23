"""The names of all cases, so that one name means one thing for every client."""

from pathlib import Path

CATALOGUE = Path(__file__).resolve().parent.parent / "cases.txt"


def read(path=CATALOGUE):
    """Case name -> what a passing client has seen, in the order of the file."""
    cases = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, meaning = line.split(None, 1)
            cases[name] = meaning
    return cases
