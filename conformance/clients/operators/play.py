"""The two verbs of a driver, for cases that are given a node."""

import sys
import traceback

from node import Node


def play(cases):
    """`cases` or `run CASE URL`; ends the process when a case fails."""
    if sys.argv[1] == "cases":
        for name in cases:
            print("case", name, "needs operating")
        return
    node = Node(sys.argv[3])
    try:
        cases[sys.argv[2]](node)
    except Exception as problem:
        traceback.print_exc()
        # An assertion without words is best explained by itself.
        words = str(problem) or traceback.extract_tb(problem.__traceback__)[-1].line
        print(f"{type(problem).__name__}: {words}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)
    finally:
        node.clean_up()
