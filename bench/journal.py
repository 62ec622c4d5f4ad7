"""What was measured: one line for each figure set, appended as it comes; a case that is whole is not run again."""

import datetime
import hashlib
import json
import random
import sys

from bench import CHECKOUT
from bench.servers import NODE
from processes import version

FILE = CHECKOUT / "target/bench/journal.jsonl"


class Journal:
    """Of one binary: another one begins anew."""

    def __init__(self, rounds):
        self.rounds = rounds
        self.binary = hashlib.sha256(NODE.read_bytes()).hexdigest()[:16]
        self.version = version(CHECKOUT)
        FILE.parent.mkdir(parents=True, exist_ok=True)
        lines = map(json.loads, FILE.read_text().splitlines()) if FILE.exists() else ()
        self.records = [record for record in lines if record["binary"] == self.binary]

    def add(self, case, server, number, **figures):
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"case": case, "server": server, "round": number, "at": at, "binary": self.binary}
        record |= {"version": self.version, "figures": figures}
        self.records.append(record)
        with FILE.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record["figures"] | {"case": case, "server": server, "round": number}), file=sys.stderr)

    def figures(self, case, server):
        """By round; the last word on each."""
        return {
            record["round"]: record["figures"]
            for record in self.records
            if (record["case"], record["server"]) == (case, server)
        }

    def origin(self, case):
        """Of what, and when, a case was measured last; None when it was not. Commits that do not change the binary do
        not count: it bears the name of the first."""
        at = [record["at"][:10] for record in self.records if record["case"] == case]
        return f"binary {self.binary}, {self.records[0]['version']}, {max(at)}" if at else None

    def missing(self, case, servers):
        """Round and server of what is still to be measured: rounds in turn, the servers of each in a new order."""
        for number in range(self.rounds):
            todo = [server for server in servers if number not in self.figures(case, server.name)]
            random.Random(f"{case} {number}").shuffle(todo)
            for server in todo:
                yield number, server


def rounds_of(journal, case, servers, measure):
    """`measure(server class)` for each round and server that is missing."""
    for number, server in journal.missing(case, servers):
        journal.add(case, server.name, number, **measure(server))
