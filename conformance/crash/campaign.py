"""A campaign: the cases of one part, each run once for a binary, each result appended to a file as it comes.

A part is a module of this package with

- `TITLE`: what it does to the node, for the page;
- `cases()`: names of what there is to run, the same in the same order each time;
- `run(case)`: runs one; its figures as a dict that JSON can hold, or an AssertionError that says what was broken;
- `lines(results)`: what was asked and what was measured, from the figures by case: a list of `Line`.

An interrupted campaign goes on where it stopped. A case that failed is run again. Another binary begins anew.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import sys
import time

from processes import version
from subject import CHECKOUT, binary

FOLDER = pathlib.Path(os.environ.get("CRASH_RESULTS", CHECKOUT / "target/crash"))


@dataclasses.dataclass
class Line:
    """One line of the page: what is asked, what was measured, and whether that holds."""

    asked: str
    measured: str
    holds: bool


class Campaign:
    def __init__(self, name, part):
        self.name, self.part = name, part
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.file = FOLDER / f"{name}.jsonl"
        self.binary = hashlib.sha256(binary().read_bytes()).hexdigest()[:16]

    def records(self):
        """What was recorded for this binary, by case; the last word on each."""
        if not self.file.exists():
            return {}
        lines = map(json.loads, self.file.read_text().splitlines())
        return {record["case"]: record for record in lines if record["binary"] == self.binary}

    def results(self):
        return {case: record["figures"] for case, record in self.records().items() if "figures" in record}

    def run(self):
        """Runs what is not done yet; the failures by case."""
        done, failures = self.results(), {}
        for case in self.part.cases():
            if case in done:
                continue
            begun = time.monotonic()
            try:
                outcome = {"figures": self.part.run(case)}
            except AssertionError as error:
                outcome = {"failure": str(error)}
                failures[case] = str(error)
            self.append(case, outcome | {"seconds": round(time.monotonic() - begun, 1)})
        return failures

    def append(self, case, outcome):
        record = {"case": case, "binary": self.binary, "version": version(CHECKOUT), "at": now()} | outcome
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), file=sys.stderr, flush=True)

    def summary(self):
        """What the page says of this part; None as long as cases are missing or failed."""
        results, records = self.results(), self.records()
        if not set(self.part.cases()) <= set(results):
            return None
        results = {case: results[case] for case in self.part.cases()}
        # All of one binary: those recorded after a commit that does not change it bear another name.
        last = max(records.values(), key=lambda record: record["at"])
        return {
            "title": self.part.TITLE,
            "at": last["at"][:10],
            "version": f"{last['version']}, binary {self.binary}",
            "minutes": round(sum(records[case]["seconds"] for case in results) / 60, 1),
            "lines": [dataclasses.asdict(line) for line in self.part.lines(results)],
        }


def total(results, cases):
    """The figures of these cases added up, by name."""
    return {key: sum(results[case][key] for case in cases) for key in results[cases[0]]}


def now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
