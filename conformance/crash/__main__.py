"""`python -m crash [PART…]` from conformance/: the campaigns, all or some; needs a binary with the feature `failpoints`.

Results are appended to target/crash/PART.jsonl; a campaign that was interrupted goes on. A part that is whole is
written into docs/durability.md, unless it was a trial: a soak of less than an hour.
"""

import importlib
import sys

from crash import page
from crash.campaign import Campaign

PARTS = ["kill", "cut", "damage", "faults", "downstream", "crowds"]
# Run when it is named only: it takes its time.
ASIDE = ["soak"]


def main(wanted):
    unknown = set(wanted) - {*PARTS, *ASIDE}
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS + ASIDE)}")
    bad = 0
    for name in wanted or PARTS:
        campaign = Campaign(name, importlib.import_module(f"crash.{name}"))
        failures = campaign.run()
        for case, failure in failures.items():
            print(f"{name}, {case}: {failure}", file=sys.stderr)
        summary = campaign.summary()
        if summary and getattr(campaign.part, "IS_TRIAL", False):
            print(page.section(name, summary))
        elif summary:
            page.store(name, summary)
        bad += len(failures) + sum(not line["holds"] for line in (summary or {"lines": []})["lines"])
    sys.exit(1 if bad else 0)


main(sys.argv[1:])
