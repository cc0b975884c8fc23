"""The results as a table: a block per client, a line per case, a column per broker."""

from .column import FAIL, LEFT_OUT, PASS

WIDTH = 44


def table(results, brokers):
    """The whole table as text."""
    lines = []
    for client in dict.fromkeys(result.client for result in results):
        mine = [result for result in results if result.client == client]
        lines += _block(client, mine, brokers) + [""]
    lines += _summary(results, brokers)
    return "\n".join(lines)


def _block(client, results, brokers):
    lines = [client.ljust(WIDTH) + "".join(broker.ljust(12) for broker in brokers)]
    for case in dict.fromkeys(result.case for result in results):
        row = {result.broker: result for result in results if result.case == case}
        cells = "".join((row[broker].outcome if broker in row else "-").ljust(12) for broker in brokers)
        why = next((row[broker].detail for broker in brokers if broker in row and row[broker].detail), "")
        lines.append(f"  {case}".ljust(WIDTH) + f"{cells}{why}".rstrip())
    return lines


def _summary(results, brokers):
    lines = ["summary".ljust(WIDTH) + "".join(broker.ljust(12) for broker in brokers)]
    for client in dict.fromkeys(result.client for result in results):
        cells = []
        for broker in brokers:
            outcomes = [r.outcome for r in results if r.client == client and r.broker == broker]
            cells.append(f"{outcomes.count(PASS)}/{len(outcomes) - outcomes.count(LEFT_OUT)}".ljust(12))
        seconds = sum(result.seconds for result in results if result.client == client)
        lines.append(f"  {client}".ljust(WIDTH) + "".join(cells) + f"{seconds:.0f} s")
    failed = sum(result.outcome == FAIL for result in results)
    passed = sum(result.outcome == PASS for result in results)
    return lines + ["", f"{passed} passed, {failed} failed, {len(results) - passed - failed} skipped"]


def regressions(results, oracle="rabbitmq", ours="sluicemq"):
    """The cases that pass on RabbitMQ and fail on SluiceMQ: what stock clients would notice."""
    passed = {(result.client, result.case) for result in results if result.broker == oracle and result.outcome == PASS}
    return [result for result in results
            if result.broker == ours and result.outcome == FAIL and (result.client, result.case) in passed]
