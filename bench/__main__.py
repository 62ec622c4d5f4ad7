"""`python3 -m bench [PART…] [--rounds N]` from the top of the checkout, on a machine that does nothing else.

Figures are appended to target/bench/journal.jsonl; a run that was interrupted goes on. Ends with 1 when something that
is asked does not hold or was not measured.
"""

import argparse
import importlib
import sys

from bench import page
from bench.journal import Journal

PARTS = ["receive", "forward", "search", "start"]


def main():
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    journal = Journal(options.rounds)
    for name in options.parts or PARTS:
        importlib.import_module(f"bench.{name}").run(journal)
    figures = page.store(journal)
    for row in figures:
        print(page.line(row), end="")
    sys.exit(0 if all(row["holds"] is True or row["asked"].startswith("beside") for row in figures) else 1)


main()
