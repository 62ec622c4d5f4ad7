"""The rounds of `kill`, on a disk whose power is cut: what was not synced is gone after the restart.

The node works as in a hospital: most objects go to an archive and are freed once it has verified them, so segments
are recycled, what stays is copied forward, and sled collects its garbage.
"""

import contextlib
import os
import pathlib
import signal
import struct
import tempfile

import clients
import instances
from crash import spool_files
from crash.disk import Disk
from crash.image import keep
from crash.kill import FAIL_POINTS, Lost, Rig
from crash.senders import Template
from pdu import Closed
from subject import RelayPacs, merged
from waiting import wait_until
from web_sink import WebSink

# Those of the commit path, and moments of what goes on beside it: how often each is passed in a round, about.
POINTS = dict.fromkeys(FAIL_POINTS, 60) | {
    "large_synced": 12,
    "large_directory_synced": 12,
    "segment_prepared": 2,
    "segment_begun": 4,
    "queue_flushed": 1,
    "freed_files_removed": 2,
    "route": 20,
}
CONFIG = {
    "spool": {"inline_limit": "64 KiB", "segment_size": "1 MiB", "retention": "0s"},
    "telemetry": {"log_filter": "warn"},
    # What is neither CT nor anything else with a rule stays.
    "rules": [{"name": "archive", "when": {"modality": ["CT"]}, "to": ["web"]}],
}
MEBIBYTES = 512
# Seconds in which a node that rests fills its spare segments.
FILLING = 2.5


class CutRig(Rig):
    # Long enough, now and then, for a checkpoint of the queue (3 s) and what is recycled after it.
    shortest, longest = 0.3, 7
    # So that the archive keeps up, and most objects are freed.
    pause = 0.15
    # Seconds without load after each start.
    rest = 0
    # Whether a loss is worth a look: a node that leaves out a sync is to lose something.
    is_news = True

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
        self.stopping = stopping
        stopping.wait(self.rest)
        crew = super().crew(number, stopping)
        for sender in crew:
            sender.pause = self.pause
        return crew

    def nth(self, fail_point):
        return self.random.randint(1, POINTS[fail_point])

    def start(self, environment):
        try:
            super().start(self.environment | environment)
        except RuntimeError:
            # Some points are passed as soon as it starts.
            if "RELAYPACS_FAILPOINT" not in environment or self.node.process.returncode != -9:
                raise

    def await_death(self, fail_point, crew):
        hit = super().await_death(fail_point, crew)
        if hit:
            self.disk.cut_power()
        return hit

    def strike(self):
        # What it asks of the disk is cut in the middle; should it still refuse an object for that, nobody minds.
        self.stopping.set()
        self.node.process.send_signal(signal.SIGSTOP)
        self.disk.cut_power()
        self.node.kill()

    def check(self):
        self.disk.power_up()
        self.start({})
        try:
            self.compare_all()
        except Lost as loss:
            if not self.is_news:
                raise
            self.node.kill()
            raise Lost(f"{loss}; kept in {keep(self.node)}") from loss
        self.node.kill()

    def compare_all(self):
        self.compare(self.node.held())
        verified = self.node.run("spool", "verify", check=False)
        if verified.returncode != 0 or "relaypacs_acked_object_missing 0" not in self.node.metrics():
            raise Lost(f"not all that is held can be read: {verified.stdout[-300:]} {verified.stderr[-300:]}")

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


class Mutant(CutRig):
    """A node that leaves out a sync; short rounds of full load: what ext4 commits by itself every 5 s would hide it."""

    shortest, longest, pause = 0.2, 2, 0
    is_news = False
    # What was seen of it.
    loss = None

    def __init__(self, left_out):
        super().__init__(seed=left_out, environment={"RELAYPACS_LEAVE_OUT": left_out})
        if left_out.startswith("queue"):
            # It takes a checkpoint, and what is recycled after it.
            self.shortest, self.longest, self.pause = CutRig.longest / 2, CutRig.longest, CutRig.pause
        if left_out == "spare_filled":
            self.rest = FILLING
        if left_out == "large_written_back":
            self.templates = [Template(40 << 20), *self.templates[:40]]

    def rounds_until_caught(self, most):
        """Rounds that it took to see the loss; None when it was not seen."""
        for number in range(1, most + 1):
            try:
                self.round(number, "before_answer" if number % 2 else None)
            except Lost as loss:
                self.loss = str(loss)
                return number
        return None


@contextlib.contextmanager
def node_on_a_disk():
    """A node that is not started yet, and the disk that its spool is on."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="crash-disk-"))
    disk = Disk.made(place, 64)
    node = RelayPacs(merged(CONFIG, {"spool": {"dir": str(disk.path / "spool")}, "rules": []}), database="sqlite")
    try:
        yield node, disk
    finally:
        node.remove()
        disk.remove()
        place.rmdir()


def killed_at(node, fail_point, objects):
    """Whatever of the objects it has taken by then."""
    node.start(RELAYPACS_FAILPOINT=fail_point)
    with contextlib.suppress(Closed, OSError, AssertionError):
        clients.store(node, objects)
    wait_until(node.died, "it is killed", 20)


def keeps_a_resend(size, left_out=None):
    """Killed between a record's write and its sync, started, sent the object again, cut: whether it holds the object.

    A crash leaves a record in the page cache that no sync reached; nobody may count on it before one does.
    """
    one = instances.instance(pixel_bytes=size)
    with node_on_a_disk() as (node, disk):
        killed_at(node, "record_appended@1", [one])
        node.environment = {"RELAYPACS_LEAVE_OUT": left_out} if left_out else {}
        node.start()
        clients.store_all(node, [one])
        disk.cut_power()
        node.kill()
        disk.power_up()
        node.environment = {}
        node.start()
        intact = node.run("spool", "verify", check=False).returncode == 0
        return intact and node.held() == {one.sop_instance: [one.sha256]}


def goes_on_past_a_lost_head():
    """Whether what is acknowledged is held though the head of its segment never reached the disk.

    A write-back that fails leaves the page in the cache, and clean: who reads it there takes the segment for the one
    that he goes on in. The disk has what an earlier use left.
    """
    objects = [instances.instance(pixel_bytes=60_000) for _ in range(40)]
    with node_on_a_disk() as (node, disk):
        killed_at(node, "segment_begun@2", objects)
        newest = max((disk.path / "spool/segments").glob("*.log"), key=generation)
        write_below(disk, newest, spool_files.segment_head(0))
        node.environment = {}
        node.start()
        clients.store_all(node, objects)
        node.kill()
        disk.power_up()
        node.start()
        return node.held() == {one.sop_instance: [one.sha256] for one in objects}


def write_below(disk, file, begin):
    """Writes the file's beginning on the disk, and not in the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened)
        known = opened.read(len(begin))
    with disk.image.open("r+b") as image:
        at = image.read().index(known)
        image.seek(at)
        image.write(begin)
