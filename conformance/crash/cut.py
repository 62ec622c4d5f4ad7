"""The rounds of `kill`, on a disk whose power is cut: what was not synced is gone after the restart.

The node works as in a hospital: most objects go to an archive and are freed once it has verified them, so segments
are recycled, what stays is copied forward, and sled collects its garbage.
"""

import collections
import pathlib
import random
import signal
import struct
import tempfile

from crash.campaign import Line
from crash.disk import Disk
from crash.kill import FAIL_POINTS, Lost, Rig, plan
from crash.senders import Template
from subject import merged
from web_sink import WebSink

# Those of the commit path, and moments of what goes on beside it: how often each is passed in a round, about.
POINTS = dict.fromkeys(FAIL_POINTS, 60) | {
    "large_synced": 12,
    "large_directory_synced": 12,
    "segment_prepared": 2,
    "segment_begun": 4,
    "queue_flushed": 1,
    "freed_files_removed": 2,
}
CONFIG = {
    "spool": {"inline_limit": "64 KiB", "segment_size": "1 MiB", "retention": "0s"},
    "telemetry": {"log_filter": "warn"},
    # What is neither CT nor anything else with a rule stays.
    "rules": [{"name": "archive", "when": {"modality": ["CT"]}, "to": ["web"]}],
}
MEBIBYTES = 512


class CutRig(Rig):
    # Long enough, now and then, for a checkpoint of the queue (3 s) and what is recycled after it.
    shortest, longest = 0.3, 7
    # So that the archive keeps up, and most objects are freed.
    pause = 0.15

    def __init__(self, senders=16, seed=None, disk=None, environment=None):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="crash-disk-"))
        self.disk, self.archive = disk or Disk.made(self.place, MEBIBYTES), WebSink()
        self.data, self.environment = self.disk.path / "data", environment or {}
        paths = {"node": {"data_dir": str(self.data)}, "destinations": [self.archive.destination(associations=4)]}
        routed = [Template(size) for size in (600, 4_000, 20_000, 40_000, 60_000, 90_000)]
        kept = [Template(size, Modality="MR") for size in (600, 70_000)]
        super().__init__(senders, seed, merged(CONFIG, paths), routed * 60 + kept)

    def close(self):
        super().close()
        self.archive.stop()
        self.disk.remove()
        self.place.rmdir()

    def crew(self, number, stopping):
        crew = super().crew(number, stopping)
        for sender in crew:
            sender.pause = self.pause
        return crew

    def nth(self, fail_point):
        return self.random.randint(1, POINTS[fail_point])

    def start(self, environment):
        super().start(self.environment | environment)

    def await_death(self, fail_point, crew):
        hit = super().await_death(fail_point, crew)
        if hit:
            self.disk.cut_power()
        return hit

    def strike(self):
        # It must not say anything after the cut, but what it asks of the disk is cut in the middle.
        self.node.process.send_signal(signal.SIGSTOP)
        self.disk.cut_power()
        self.node.kill()

    def check(self):
        self.disk.power_up()
        self.start({})
        self.compare(self.node.held())
        verified = self.node.run("spool", "verify", check=False)
        if verified.returncode != 0 or "relaypacs_acked_object_missing 0" not in self.node.metrics():
            raise Lost(f"not all that is held can be read: {verified.stdout[-300:]} {verified.stderr[-300:]}")
        self.node.kill()

    def compare(self, held):
        """What was freed must be at the archive; it is asked last, for meanwhile objects go there."""
        archived = self.archive.uids()
        wrong = [uid for uid, digest in archived.items() if self.offered.get(uid, digest) != digest]
        if wrong:
            raise Lost(f"{len(wrong)} changed on their way to the archive, e.g. {wrong[:3]}")
        super().compare({uid: [digest] for uid, digest in archived.items()} | held)

    def report(self):
        return super().report() | {"recycled": self.recycled(), "rewritten": self.rewritten()}

    def recycled(self):
        """How often a segment was begun that had been full before: generations, less the files."""
        generations = [generation(file) for file in (self.data / "spool/segments").glob("*.log")]
        return max(generations) - sum(number > 0 for number in generations)

    def rewritten(self):
        """How often sled has filled its file anew, about: its log's position, by the file's length."""
        (file,) = (self.data / "spool/queue").glob("db")
        data = file.read_bytes()
        return round(max(map(log_position, pieces(data, SLED_SEGMENT))) / len(data), 1)


def generation(file):
    """What a segment of the log was begun as, from its header; 0 for one never used."""
    with file.open("rb") as opened:
        magic, number = struct.unpack("<8sI", opened.read(12))
    return number if magic == b"RPsegm1\n" else 0


SLED_SEGMENT = 512 << 10


def pieces(data, length):
    return [data[at : at + length] for at in range(0, len(data), length)]


def log_position(segment):
    """Where sled's log was when it began this segment of its file; it is stored inverted. 0 for one never used."""
    stored = struct.unpack_from("<q", segment, 4)[0]
    return stored ^ 0x7FFFFFFFFFFFFFFF if stored else 0


def series(points, seed=None):
    """A round for each of the points (None: a random time) on one disk: the figures, or an exception."""
    rig = CutRig(seed=seed)
    try:
        for number, point in enumerate(points):
            rig.round(number, point)
        rig.final()
        return rig.report()
    finally:
        rig.close()


# Syncs left out, one at a time.

# What is lost without it, and why nothing is where the file system carries it along.
CAUGHT = {
    "log": "the sync of the log before the answers",
    "full_segment": "the sync of a full segment before the next is begun",
    "large": "the sync of a large object's file",
}
HARMLESS = {
    "large_directory": "the sync of the folder of large files",
    "segment_allocated": "the sync of a new segment",
    "segment_directory": "the sync of the folder of segments",
    "spare_filled": "the sync of a filled spare",
    "spool_directory": "the sync of the spool's folder",
    "queue_flush": "sled's flush at a checkpoint",
    "queue": "the sync of the queue's files at a checkpoint",
}


class Mutant(CutRig):
    """Short rounds of full load: what ext4 commits by itself every 5 s would hide what no sync did."""

    shortest, longest, pause = 0.2, 2, 0

    def __init__(self, left_out, seed=None):
        super().__init__(seed=seed, environment={"RELAYPACS_LEAVE_OUT": left_out})

    def rounds_until_caught(self, most):
        """Rounds that it took to see the loss; None when it was not seen."""
        for number in range(1, most + 1):
            try:
                self.round(number, "before_answer" if number % 2 else None)
            except Lost:
                return number
        return None


def mutant(left_out, most):
    rig = Mutant(left_out, seed=left_out)
    try:
        return {"caught_after": rig.rounds_until_caught(most), "acknowledged": len(rig.ledger.entries())}
    finally:
        rig.close()


# The campaign

TITLE = "The power is cut"
ROUNDS_IN_SERIES = 20
SERIES = [f"series {number}" for number in range(1, 11)]


def cases():
    return SERIES + [f"without {name}" for name in CAUGHT | HARMLESS]


def run(case):
    if case in SERIES:
        return series(plan(ROUNDS_IN_SERIES, random.Random(case), list(POINTS)), seed=case)
    name = case.removeprefix("without ")
    figures = mutant(name, most=10)
    if name in CAUGHT:
        assert figures["caught_after"], "no cut showed a loss"
    else:
        assert figures["caught_after"] is None, "the file system does not carry it along"
    return figures


def lines(results):
    reports = [results[case] for case in SERIES]
    rounds = sum(report["rounds"] for report in reports)
    acknowledged = sum(report["acknowledged"] for report in reports)
    hits = sum((collections.Counter(report["at_fail_points"]) for report in reports), collections.Counter())
    recycled = sum(report["recycled"] for report in reports)
    rewritten = [report["rewritten"] for report in reports]
    return [
        Line(
            "200 cuts (EXT4_IOC_SHUTDOWN) under 16 senders by C-STORE and STOW-RS, objects delivered and freed meanwhile",
            f"{rounds} cuts, {hits.total()} of them at {len(hits)} fail points",
            rounds >= 200,
        ),
        Line("no acknowledged object lost or corrupt", f"0 of {acknowledged:,}", acknowledged > 0),
        Line(
            "segments recycled, garbage collected by sled",
            f"{recycled} segments written anew; sled's file {min(rewritten)} to {max(rewritten)} times",
            recycled > 0 and min(rewritten) > 2,
        ),
        *(without(name, results[f"without {name}"]) for name in CAUGHT | HARMLESS),
    ]


def without(name, figures):
    asked = f"without {(CAUGHT | HARMLESS)[name]} the same rounds show a loss"
    if name in CAUGHT:
        return Line(asked, f"in round {figures['caught_after']}", True)
    return Line(asked, f"harmless on ext4: 0 of {figures['acknowledged']:,} lost", True)
