"""Rounds of: start the node, load it with senders, let it die at a moment, start it again, compare with the ledger.

Every object that was acknowledged must be held with the SHA-256 that was sent; nothing that was sent may be held
otherwise; in the end every object is exported and hashed by this side.
"""

import collections
import random
import shutil
import statistics
import tempfile
import threading
import time

from crash.campaign import Line
from crash.ledger import Ledger
from crash.senders import StoreSender, StowSender, Template, ended
from instances import sha256, split_part10
from subject import RelayPacs
from waiting import DeadlinePassed, wait_until

# The steps of the commit path, in the order in which an object passes them.
FAIL_POINTS = [
    "offer_begun",
    "stage_first_byte",
    "stage_complete",
    "large_synced",
    "large_directory_synced",
    "record_appended",
    "record_synced",
    "before_answer",
]
RARE = {"large_synced", "large_directory_synced"}
CONFIG = {
    # Small enough that a part of the objects takes the road of the large ones, and that segments fill up.
    "spool": {"inline_limit": "64 KiB", "segment_size": "4 MiB"},
    "telemetry": {"log_filter": "warn"},
}
SIZES = [600, 600, 4_000, 30_000, 60_000, 90_000, 400_000]


class Lost(AssertionError):
    """An acknowledged object is missing or changed."""


class Rig:
    # Seconds of load before a death at no fail point.
    shortest, longest = 0.1, 1.2

    def __init__(self, senders=16, seed=None, config=CONFIG, templates=None):
        self.random = random.Random(seed)
        self.folder = tempfile.mkdtemp(prefix="crash-ledger-")
        self.ledger = Ledger(self.folder)
        self.node = RelayPacs(config, database="sqlite")
        self.templates = templates or [Template(size) for size in SIZES]
        self.senders = senders
        self.hits = collections.Counter()
        self.offered, self.ready_seconds, self.rounds = {}, [], []

    def close(self):
        self.node.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    # One round

    def round(self, number, fail_point=None):
        """Dies at the fail point (or at a random time); returns how it went."""
        environment, nth = {}, None
        if fail_point:
            nth = self.nth(fail_point)
            environment["RELAYPACS_FAILPOINT"] = f"{fail_point}@{nth}"
        self.start(environment)
        stopping = threading.Event()
        crew = self.crew(number, stopping)
        for sender in crew:
            sender.start()
        hit = self.await_death(fail_point, crew)
        stopping.set()
        ended(crew)
        for sender in crew:
            self.offered |= sender.offered
        errors = [sender.error for sender in crew if sender.error]
        if errors:
            raise errors[0]
        if hit:
            self.hits[fail_point] += 1
        self.check()
        acknowledged = sum(sender.acknowledged for sender in crew)
        self.rounds.append({"point": fail_point, "nth": nth, "hit": hit, "acknowledged": acknowledged})
        return hit

    def nth(self, fail_point):
        return self.random.randint(1, 12 if fail_point in RARE else 60)

    def start(self, environment):
        begun = time.monotonic()
        self.node.environment = environment
        self.node.start()
        self.ready_seconds.append(time.monotonic() - begun)

    def crew(self, number, stopping):
        kinds = [StowSender if index % 5 == 4 else StoreSender for index in range(self.senders)]
        return [
            kind(self.node, self.ledger.pen(f"{number:04}-{index:02}"), self.templates, stopping)
            for index, kind in enumerate(kinds)
        ]

    def await_death(self, fail_point, crew):
        """Whether the node died by itself, at the fail point; else it is killed."""
        if fail_point:
            try:
                wait_until(self.node.died, f"{fail_point} is passed", 8, every=0.005)
                if self.node.process.returncode != -9:
                    raise AssertionError(f"the node ended with {self.node.process.returncode}:\n{self.node.log_tail()}")
                return True
            except DeadlinePassed:
                pass
        else:
            until = time.monotonic() + self.random.uniform(self.shortest, self.longest)
            wait_until(
                lambda: time.monotonic() > until and any(sender.acknowledged for sender in crew),
                "something is acknowledged",
                20,
                every=0.005,
            )
        if self.node.died():
            raise AssertionError(f"the node ended with {self.node.process.returncode}:\n{self.node.log_tail()}")
        self.strike()
        return False

    def strike(self):
        self.node.kill()

    # The comparison

    def check(self):
        """After a restart without fail point: nothing lost, nothing changed."""
        self.start({})
        held = self.node.held()
        self.node.kill()
        self.compare(held)

    def compare(self, held):
        acknowledged = self.ledger.entries()
        lost = [uid for uid in acknowledged if uid not in held]
        changed = [uid for uid, digests in held.items() if uid in self.offered and digests != [self.offered[uid]]]
        changed += [uid for uid, digest in acknowledged.items() if uid in held and digest not in held[uid]]
        if lost or changed:
            raise Lost(
                f"{len(lost)} lost and {len(changed)} changed of {len(acknowledged)} acknowledged, "
                f"after {len(self.rounds)} rounds; last {self.rounds[-1:]}; e.g. {(lost + changed)[:3]}"
            )

    def final(self):
        """The node rehashes what it holds; then everything is exported and hashed here."""
        self.start({})
        self.node.run("spool", "verify")
        folder = self.node.folder / "export"
        self.node.run("spool", "export", folder)
        exported = {}
        for file in folder.rglob("*"):
            if file.is_file() and (data := file.read_bytes())[128:132] == b"DICM":
                meta, data_set = split_part10(data)
                exported.setdefault(meta[3].rstrip(b"\0").decode(), []).append(sha256(data_set))
        self.compare(exported)
        assert self.node.stop() == 0, self.node.log_tail()

    def report(self):
        return {
            "rounds": len(self.rounds),
            "at_fail_points": dict(self.hits),
            "acknowledged": len(self.ledger.entries()),
            "offered": len(self.offered),
            "ready_seconds": [round(seconds, 3) for seconds in self.ready_seconds],
        }


def plan(rounds, generator, fail_points=FAIL_POINTS):
    """Each fail point in turn; every third round dies at a random time instead."""
    points = []
    turn = list(fail_points)
    for number in range(rounds):
        if number % 3 == 2:
            points.append(None)
            continue
        if not turn:
            turn = list(fail_points)
            generator.shuffle(turn)
        points.append(turn.pop(0))
    return points


def series(rounds, seed=None, senders=16):
    """Rounds on one spool, which grows over them: the figures, or an exception that says what went wrong."""
    rig = Rig(senders, seed)
    try:
        for number, point in enumerate(plan(rounds, rig.random)):
            rig.round(number, point)
        rig.final()
        report = rig.report()
        assert report["acknowledged"] > 0, "the ledger is empty: nothing was tested"
        return report
    finally:
        rig.close()


# The campaign: series of rounds, each on a new spool, so that the comparison stays short.

TITLE = "The process is killed"
ROUNDS_IN_SERIES = 20


def cases():
    return [f"series {number}" for number in range(1, 26)]


def run(case):
    return series(ROUNDS_IN_SERIES, seed=case)


def lines(results):
    reports = results.values()
    rounds = sum(report["rounds"] for report in reports)
    acknowledged = sum(report["acknowledged"] for report in reports)
    hits = sum((collections.Counter(report["at_fail_points"]) for report in reports), collections.Counter())
    rarest = min(FAIL_POINTS, key=lambda point: hits[point])
    ready = sorted(seconds for report in reports for seconds in report["ready_seconds"])
    p99 = ready[int(len(ready) * 0.99)]
    return [
        Line("500 rounds of kill -9 under 16 senders by C-STORE and STOW-RS", f"{rounds} rounds", rounds >= 500),
        Line(
            "100 of them at a step between the first byte of an object and its answer",
            f"{hits.total()}, by {len(FAIL_POINTS)} fail points",
            hits.total() >= 100,
        ),
        Line("each of these steps 5 times", f"{rarest} {hits[rarest]} times, the others more", hits[rarest] >= 5),
        Line("no acknowledged object lost or changed", f"0 of {acknowledged:,}", acknowledged > 0),
        Line(
            "ready again within 5 s at p99",
            f"p99 {p99:.2f} s, median {statistics.median(ready):.2f} s of {len(ready)} starts",
            p99 <= 5,
        ),
    ]
