"""An hour of everything at once, at the pace of a busy department: received by both doors, found, retrieved, forwarded
to two archives, proven, and freed. Memory and file descriptors must not grow, and nothing may go wrong.

`MINUTES` says how long (60).
"""

import collections
import os
import pathlib
import random
import statistics
import sys
import threading
import time

import clients
from crash.campaign import Line
from crash.downstream import compare, dimse, stow
from crash.senders import StoreSender, StowSender, Template, ended
from crash.sinks import DimseArchive, Sink, WebArchive
from subject import RelayPacs
from waiting import wait_until

TITLE = "An hour of mixed traffic"
MINUTES = float(os.environ.get("MINUTES", "60"))
IS_TRIAL = MINUTES < 60
# One in fifty is too long for the log and has a file of its own.
SIZES = [2_000] * 30 + [30_000] * 15 + [200_000] * 4 + [1_500_000]
SAMPLE = 1.0
MIB = 1 << 20
# Of objects it only knows the digest: there are many.
Recent = collections.namedtuple("Recent", "study series sop_instance")


class Paced:
    """Waits between what it sends, and tells what was taken lately."""

    def __init__(self, node, recent, pause):
        templates = [Template(size) for size in SIZES]
        super().__init__(node, None, templates, threading.Event())
        self.recent, self.pause = recent, pause

    def acknowledge(self, one):
        self.acknowledged += 1
        self.recent.append(Recent(one.study, one.series, one.sop_instance))
        self.stopping.wait(self.pause)

    def run(self):
        try:
            while not self.stopping.is_set():
                self.session()
        except Exception as error:  # noqa: BLE001 - reported by `Soak.check`
            self.error = error


class PacedStore(Paced, StoreSender):
    pass


class PacedStow(Paced, StowSender):
    pass


class Asker(threading.Thread):
    """Asks one thing again and again."""

    def __init__(self, what, pause):
        super().__init__(daemon=True)
        self.what, self.pause, self.stopping = what, pause, threading.Event()
        self.error, self.took = None, []

    def run(self):
        try:
            while not self.stopping.wait(self.pause):
                begun = time.monotonic()
                self.what()
                self.took.append(time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001 - reported by `Soak.check`
            self.error = error


class Soak:
    def __init__(self, node):
        self.node, self.recent = node, collections.deque(maxlen=50)
        self.senders = [PacedStore(node, self.recent, 0.15) for _ in range(3)] + [PacedStow(node, self.recent, 0.2)]
        self.askers = {
            "QIDO-RS": Asker(self.qido, 0.3),
            "C-FIND": Asker(self.c_find, 0.5),
            "WADO-RS": Asker(self.wado, 0.4),
            "C-ECHO": Asker(self.echo, 1.0),
        }
        self.samples = []

    def some(self):
        """One that was received lately, once the index has it: that follows the acknowledgement."""
        wait_until(lambda: self.recent, "something was received")
        one = random.choice(self.recent)
        path, key = f"/studies/{one.study}/series/{one.series}/instances", {"SOPInstanceUID": one.sop_instance}
        wait_until(lambda: len(clients.qido(self.node, path, key)) == 1, "QIDO-RS finds what was received", 60)
        return one

    def qido(self):
        one = self.some()
        clients.qido(self.node, f"/studies/{one.study}/instances?limit=20")
        clients.qido(self.node, "/studies?limit=10&PatientName=Synth*")

    def c_find(self):
        one = self.some()
        identifier = clients.query("IMAGE", StudyInstanceUID=one.study, SeriesInstanceUID=one.series)
        identifier.SOPInstanceUID = one.sop_instance
        found = len(clients.found(self.node, identifier))
        assert found == 1, f"C-FIND finds {found} of what QIDO-RS found"

    def wado(self):
        one = self.some()
        path = f"/studies/{one.study}/series/{one.series}/instances/{one.sop_instance}"
        for what, accept in ((path, clients.ANY_DICOM), (path + "/metadata", "application/dicom+json")):
            response = clients.wado(self.node, what, accept)
            # 410: it was freed since.
            assert response.status_code in (200, 410), f"{response.status_code} {response.text[:300]}"

    def echo(self):
        assert clients.echo(self.node) == 0, "C-ECHO"

    def everybody(self):
        return [*self.senders, *self.askers.values()]

    def check(self):
        for each in self.everybody():
            if each.error:
                raise AssertionError(f"{type(each).__name__}: {each.error!r}") from each.error
        assert not self.node.died(), self.node.log_tail()

    def sample(self):
        files = len(list(pathlib.Path(f"/proc/{self.node.pid}/fd").iterdir()))
        self.samples.append((time.monotonic(), self.node.memory(), files))

    def run(self, seconds):
        for each in self.everybody():
            each.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(SAMPLE)
            self.sample()
            self.check()
            if len(self.samples) % 60 == 0:
                print(f"{self.samples[-1][1] / MIB:.1f} MiB, {self.samples[-1][2]} files", file=sys.stderr, flush=True)
        for each in self.everybody():
            each.stopping.set()
        ended(self.everybody(), 60)
        self.check()
        return {uid: digest for sender in self.senders for uid, digest in sender.offered.items()}


def mixed(minutes, retention="60s"):
    with Sink(DimseArchive) as first, Sink(WebArchive) as second:
        config = {
            # A report of commitment that comes too late on a busy machine is to be asked for again soon.
            "destinations": [dimse("first", first.port, verify_deadline="30s"), stow("second", second.port)],
            "spool": {"retention": retention},
            "telemetry": {"log_filter": "warn"},
        }
        node = RelayPacs(config, database="sqlite")
        try:
            soak = Soak(node.start())
            sent = soak.run(minutes * 60)
            for name, sink in (("first", first), ("second", second)):
                wait_until(lambda name=name: at_rest(node.destination(name)), f"{name} has verified all", 120)
                compare(sink, sent)
            freed = len(sent) - len(node.held())
            assert node.stop() == 0, node.log_tail()
        finally:
            node.remove()
    return figures(soak, sent, freed, minutes)


def at_rest(line):
    """What is freed is no longer counted as verified, but nothing else is."""
    return not any(line[state] for state in ("queued", "sent", "deferred", "poisoned"))


def figures(soak, sent, freed, minutes):
    resident = [memory for _, memory, _ in soak.samples]
    files = [files for *_, files in soak.samples]
    return {
        "minutes": minutes,
        "objects": len(sent),
        "freed": freed,
        "questions": {what: len(asker.took) for what, asker in soak.askers.items()},
        "p99": {what: round(percentile(asker.took), 3) for what, asker in soak.askers.items()},
        "resident": quarters(resident),
        "peak": max(resident),
        "files": quarters(files),
        "most_files": max(files),
    }


def percentile(values):
    return sorted(values)[int(len(values) * 0.99)]


def quarters(values):
    """The median of each quarter of the time."""
    count = len(values)
    return [statistics.median(values[count * part // 4 : count * (part + 1) // 4]) for part in range(4)]


def growth_an_hour(values, minutes):
    """From the second quarter, when caches are full, to the last: half of the time lies between their middles."""
    return (values[3] - values[1]) / (minutes / 2) * 60


# The campaign


def cases():
    return [f"{MINUTES:g} minutes"]


def run(case):
    return mixed(MINUTES)


def lines(results):
    (soak,) = results.values()
    growth, files = growth_an_hour(soak["resident"], soak["minutes"]), soak["files"]
    rate = soak["objects"] / soak["minutes"]
    asked = ", ".join(f"{count:,} × {what}" for what, count in soak["questions"].items())
    p99 = ", ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in soak["p99"].items())
    return [
        Line(
            "an hour of mixed traffic",
            f"{soak['minutes']:g} minutes, {rate:.0f} objects a minute",
            soak["minutes"] >= 60,
        ),
        Line(
            "received, verified by both archives with their SHA-256, freed",
            f"{soak['objects']:,} of {soak['objects']:,} verified, {soak['freed']:,} freed",
            soak["freed"] > 0,
        ),
        Line("every question answered meanwhile", f"{asked}; p99 {p99}", all(soak["questions"].values())),
        Line(
            "flat memory: ≤ 4 MiB more an hour, from the second quarter to the last",
            f"{growth / MIB:+.1f} MiB an hour ({' · '.join(f'{value / MIB:.1f}' for value in soak['resident'])} "
            f"MiB by quarters, at most {soak['peak'] / MIB:.1f})",
            growth <= 4 * MIB,
        ),
        Line(
            "flat file descriptors",
            f"{' · '.join(f'{value:g}' for value in files)} by quarters, at most {soak['most_files']}",
            files[3] <= files[1] + 5,
        ),
    ]
