"""What differs by design, or is a quirk of RabbitMQ 3.10 that SluiceMQ does not copy: here, each with its reason.

`headers` normalises. What scripts avoid is a line of `AVOIDED`, and `draw` names it where it avoids it.
"""

AVOIDED = {
    "head-only": "RabbitMQ looks at the TTL of a queue's first message only, SluiceMQ at all. Short TTLs are those of "
                 "a whole queue, or of a message that waits alone.",
    "reject-overshoot": "A quorum queue of 3.10 takes one message more than its limit before it refuses, and refuses "
                        "later once it did. SluiceMQ's limits are exact.",
    "reversed-drops": "What one command drops from a quorum queue of 3.10 dies in reversed order, in SluiceMQ in that "
                      "of the queue. With a limit and a dead-letter exchange one message comes back at a time.",
    "credit-twice": "A message that goes over the delivery limit gives its consumer two credits in 3.10, so that it is "
                    "sent more than its prefetch. Where a limit can be reached, consumers have no prefetch.",
    "at-once": "Of dead letters, or messages of a commit, that come at once to a queue with priorities RabbitMQ gives or "
               "expires one after the other, SluiceMQ the highest priority first. A queue with both has neither "
               "consumers nor a short TTL, and transactions publish there without priorities.",
    "by-consumer": "What a channel held of a quorum queue comes back by consumer tags in RabbitMQ, a get is one, and "
                   "in order of deliveries in SluiceMQ; so does what one nack of many makes dead letters of, or gives "
                   "back to a queue with a limit. Who holds what one consumer was given takes nothing otherwise.",
    "kept-turn": "A consumer of a classic queue that has spent its prefetch keeps its turn in RabbitMQ until a message is "
                 "offered to it, and has lost nothing if it may take one by then. In SluiceMQ, as in quorum queues, who "
                 "has credit again is last. A classic queue has one consumer with a prefetch, or several without.",
    "deaths-order": "Of three and more entries of x-death 3.10 has only the newest at its place, so that it sees "
                    "circles without a rejection where there is one. A circle with rejections has two queues.",
    "paced-auto-ack": "A quorum queue of 3.10 gives a consumer without acknowledgements no more at a time than its prefetch, "
                      "and drops what is too much meanwhile. In SluiceMQ it has none. It asks for none.",
    "refused-twice": "A dead letter that must not be lost, and that a queue with reject-publish-dlx has no place for, is "
                     "dead-lettered by that queue whenever RabbitMQ tries it. In SluiceMQ it stays where it was until "
                     "there is a place. No at-least-once queue is before such a one.",
    "stalled-handover": "When the active consumer of a classic queue cancels RabbitMQ gives the next one nothing until "
                        "another event. Single active consumers of classic queues end with their channel, which pika "
                        "must not cancel them before.",
    "other-kind": "A channel of 3.10 that knows a queue fails with 541 when the queue is made anew as another kind.",
    "unchecked-limit": "3.10 takes an x-delivery-limit that is no number.",
    "empty-type": "3.10 refuses x-queue-type \"\", later releases take it for none.",
    "dropped-first": "A policy that brings a limit and says to refuse what is too much drops in RabbitMQ what waits over it, for "
                     "it acts on the limit before it hears of the rest. In SluiceMQ what waits stays. Policies that "
                     "refuse bring no limit.",
    "last-held": "What the last consumer of an auto-delete queue held when its channel ended is gone with the queue in "
                 "RabbitMQ. In SluiceMQ it comes back first, and what is over by then is dead-lettered. Queues that go "
                 "by themselves have no dead letters.",
    "equal-policies": "Of policies with the same priority RabbitMQ applies whichever its table gives first, SluiceMQ the first by "
                      "name. No two have the same.",
    "races": "Dead letters of two queues that come to a third in one step come in either order. A queue has dead "
             "letters of one other at most, and one step reaches no two queues of the same chain. What goes round a "
             "circle does so one at a time.",
}


def headers(seen):
    """The headers of a message without what cannot be the same."""
    # 3.13 and SluiceMQ write x-last-death-*, 3.10 does not.
    seen = {name: value for name, value in seen.items() if not name.startswith("x-last-death-")}
    deaths = seen.get("x-death")
    if isinstance(deaths, list) and all(isinstance(death, dict) for death in deaths):
        # Seconds of a wall clock.
        deaths = [{name: value for name, value in death.items() if name != "time"} for death in deaths]
        # 3.10 has only the newest at its place where there are more than two.
        seen["x-death"] = deaths[:1] + sorted(deaths[1:], key=lambda death: sorted(map(str, death.items())))
    return seen


def mixes(worker, queue, consumes):
    """Whether a worker would hold messages for several consumer tags where that tells, which `by-consumer` avoids."""
    if queue not in worker.side.quorum | worker.side.telling:
        return False
    holds = bool(worker.held or worker.unsure)
    return holds if consumes else worker.tag is not None or worker.fed and holds


def consumers(count, uncounted):
    """The consumers of a queue; `uncounted` if 3.10 counts otherwise, as in quorum queues it does now and then."""
    # Who has got a message by basic.get, or has cancelled, is a consumer until it is settled; of a single active
    # consumer and those that wait for its place only the first is one.
    return "?" if uncounted else count
