"""`python -m crash --rounds 50` from conformance/: needs a binary with the feature `failpoints`."""

import argparse
import json
import pathlib
import random
import sys
import time

from crash.rig import run


def main():
    parser = argparse.ArgumentParser(description="kill -9 rig")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--senders", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randint(0, 2**31))
    parser.add_argument("--report", type=pathlib.Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    begun = time.monotonic()
    report = run(options.rounds, options.senders, options.seed, tell=lambda line: print(line, file=sys.stderr))
    report |= {"seconds": round(time.monotonic() - begun, 1), "seed": options.seed}
    print(json.dumps(report, indent=2))
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=2) + "\n")


main()
