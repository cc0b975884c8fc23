"""Shrinking: steps and then their details are left out while a difference stays."""

from .script import Script

# A play that is different only now and then is tried this often.
TRIES = 3
# Many plays wait for what will not come; what is found is played again with more patience.
IMPATIENCE_SECONDS = 0.4
# Of a step, since it is another one without them.
KEPT = ["do", "queue", "durable", "arguments", "exchange", "kind", "key", "bodies", "worker", "count", "how",
        "connection", "name", "queues", "author", "definition"]


def shrink(table, script, difference):
    """(the shortest script found, its difference, whether it shows each time)."""
    patience, table.patience_seconds = table.patience_seconds, IMPATIENCE_SECONDS
    try:
        shortest, found = _shrink(table, script, difference)
    finally:
        table.patience_seconds = patience
    return shortest, found, all(table.play(shortest) for _ in range(TRIES))


def _shrink(table, script, difference):
    steps = script.steps[:difference.number + 1]
    again = (_shows(table, script, steps, difference) for _ in range(TRIES))
    kept, found = next((shown for shown in again if shown[0]), (None, None))
    if kept is None:
        return Script(script.seed, steps), difference
    size = max(1, len(kept) // 2)
    while size:
        at = 0
        while at < len(kept):
            fewer, again = _shows(table, script, kept[:at] + kept[at + size:], difference)
            if fewer:
                kept, found = fewer, again
            else:
                at += size
        size //= 2
    for at in range(len(kept)):
        for smaller in _smaller(kept[at]):
            fewer, again = _shows(table, script, kept[:at] + [smaller(kept[at])] + kept[at + 1:], difference)
            if fewer:
                kept, found = fewer, again
    return Script(script.seed, kept), found


def _shows(table, script, steps, like):
    """The steps and their difference, if it is one of the same kind as before."""
    difference = table.play(Script(script.seed, steps)) if steps else None
    return (steps, difference) if difference and difference.kind == like.kind else (None, None)


def _smaller(step):
    """Ways to make a step less."""
    for name in step:
        if name not in KEPT:
            yield lambda now, name=name: {key: value for key, value in now.items() if key != name}
    for name in [name for name in step.get("arguments", {}) if name != "x-queue-type"]:
        yield lambda now, name=name: now | {"arguments": {k: v for k, v in now["arguments"].items() if k != name}}
    for _ in step.get("bodies", [])[1:]:
        yield lambda now: now | {"bodies": now["bodies"][1:] or now["bodies"]}
    if step.get("count", 1) > 1:
        yield lambda now: now | {"count": 1}
