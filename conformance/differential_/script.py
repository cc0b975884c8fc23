"""A script: a list of steps, printed one to a line so that what was printed can be played.

Steps are total: one that finds nothing to act upon does nothing, so any of them can be left out. A name that a play
makes its own begins with @.
"""

import json
from dataclasses import dataclass


@dataclass
class Script:
    """What is played, and the seed it was drawn from."""

    seed: int
    steps: list

    def __str__(self):
        return "\n".join([f"# seed {self.seed}", *(json.dumps(step) for step in self.steps)])


def read(lines):
    """A script as it was printed; other lines than its own are passed over."""
    seed, steps = 0, []
    for line in lines:
        if line.startswith("# seed "):
            seed = int(line.split()[2])
        elif line.startswith("{"):
            steps.append(json.loads(line))
    return Script(seed, steps)


def replace(value, what, by):
    """The same value with other text in all of its strings."""
    if isinstance(value, str):
        return value.replace(what, by)
    if isinstance(value, list):
        return [replace(one, what, by) for one in value]
    if isinstance(value, dict):
        return {replace(key, what, by): replace(one, what, by) for key, one in value.items()}
    return value
