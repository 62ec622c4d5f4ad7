"""No space, a failing disk, a failed sync: at the n-th call of each kind on each part of the node's data.

n is raised until a run passes untouched. Whatever fails, success is only answered for what is held; nobody gets another
answer than success or "out of resources" (PS3.4 §B.2.3), or the node ends with its exit code; it takes objects again by
itself once nothing fails any more, and after a restart all that was acknowledged is held.
"""

import collections
import contextlib
import errno
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import clients
from crash.campaign import Line, total
from crash.faulty import AREAS, CALLS, Fault, Faulty
from crash.image import Image, Statement, data_of, in_parallel, keep
from crash.kill import Lost
from crash.senders import Template
from pdu import Closed
from processes import stop
from subject import RelayPacs, binary, merged
from waiting import wait_until

CONFIG = {"spool": {"inline_limit": "250 KiB", "segment_size": "1 MiB"}}
SIZES = [700, 200_000, 300_000] * 6
ERRORS = {call: [errno.EIO] for call in CALLS}
ERRORS |= dict.fromkeys(["write", "allocate", "create"], [errno.EIO, errno.ENOSPC])
# What the page cache calls EIO is this past it: a bad sector, as the device tells of it.
ERRORS["read"] = [errno.EIO, errno.ENODATA]
# A failed sync of these is the end: nobody knows what the disk has. The database's own are its own matter.
TRUSTED = ("log", "large", "queue")
OUT_OF_RESOURCES = 0xA700
STORAGE_FAILED, REFUSED_TO_START = 75, 1
# A spare that can't be synced is thrown away; a start takes the queue as the disk has it, or makes it anew; and what
# sled's own thread syncs and only logs, the kernel tells the node once more (not of a failure that was made up, though).
HARMLESS = {
    "log": ("a spare segment of the log", "a segment of the log can't be prepared"),
    "queue": ("the last checkpoint failed", "failed to fsync from periodic flush thread", "set aside, rebuilding it"),
}


def before(node):
    objects = [Template(size).make() for size in SIZES[:6]]
    clients.store_all(node, objects)
    clients.indexed(node, objects)
    return objects


class Trial:
    """One run with one fault."""

    def __init__(self, node, image, fault):
        self.node, self.image, self.fault = node, image, fault
        self.acknowledged = dict(image.objects)
        # (when it was begun, status) of each sending that was answered.
        self.answers = []
        image.lay(node)
        self.faulty = Faulty(data_of(node), fault)

    def run(self):
        serve = [str(binary()), "serve", "--config", str(self.node.config_file)]
        self.log_begin = self.node.log.stat().st_size if self.node.log.exists() else 0
        self.node.spawn(self.faulty.command(serve))
        try:
            wait_until(lambda: self.node.died() or self.node.is_ready(), "it starts or ends", 90)
            began = not self.node.died()
            if began:
                self.load()
                self.recover()
            self.end()
            code = self.node.process.returncode
            self.judge(began, code)
        except AssertionError as error:
            raise type(error)(f"{self.fault}: {error}; kept in {keep(self.node)}") from error
        return {"hit": bool(self.faulty.hits), "code": code, "began": began}

    # While it fails

    def load(self):
        # Past a checkpoint of the queue, where those are meant.
        begun, least = time.monotonic(), 4 if self.fault.area == "queue" and self.fault.call == "sync" else 0
        until, sizes = begun + least, list(SIZES)
        while (sizes or time.monotonic() < until) and not self.node.died() and time.monotonic() < begun + 6:
            with contextlib.suppress(Closed, OSError, AssertionError):
                self.session(sizes, until)

    def session(self, sizes, until):
        """Associations may be refused while the disk is full, and break off when the node stops."""
        association, _ = clients.associate(self.node, [self.image.newcomer])
        with association:
            while sizes or time.monotonic() < until:
                self.store(association, Template(sizes.pop() if sizes else 700).make())

    def store(self, association, one):
        begun = time.monotonic()
        status = association.store(1, one.sop_class, one.sop_instance, one.data_set).status
        self.answers.append((begun, status))
        if status == 0:
            self.acknowledged[one.sop_instance] = one
        return status

    def recover(self):
        """Once nothing fails any more it takes objects, without a restart, unless it ended."""
        self.faulty.lift()
        wait_until(lambda: self.node.died() or self.takes(), "it takes objects again", 40)

    def takes(self):
        one = Template(700).make()
        if takes(self.node, one):
            self.acknowledged[one.sop_instance] = one
            return True
        return False

    def end(self):
        """A second signal cuts off what would be drained; the log is closed all the same."""
        if not self.node.died():
            self.node.process.send_signal(signal.SIGTERM)
            self.node.process.send_signal(signal.SIGTERM)
            stop(self.node.process, 30)

    # Afterwards

    def judge(self, began, code):
        log = self.log()
        assert "panicked" not in log, log[-600:]
        assert code in ((0, STORAGE_FAILED) if began else (REFUSED_TO_START, STORAGE_FAILED)), f"{code}: {log[-600:]}"
        wrong = {status for _, status in self.answers} - {0, OUT_OF_RESOURCES}
        assert not wrong, f"answered {', '.join(f'{status:04X}' for status in wrong)}"
        if self.faulty.hits and began and self.fault.call == "sync" and self.fault.area in TRUSTED:
            self.judge_sync(code, log)
        self.compare()

    def judge_sync(self, code, log):
        if any(words in log for words in HARMLESS.get(self.fault.area, ())):
            return
        assert code == STORAGE_FAILED, f"a sync failed, and it went on: {code}, {self.faulty.hits[:1]}"
        failed_at = self.faulty.hits[0][0]
        after = [begun for begun, status in self.answers if status == 0 and begun > failed_at]
        assert not after, f"{len(after)} objects acknowledged that were begun after a sync had failed"

    def log(self):
        return self.node.log.read_bytes()[self.log_begin :].decode(errors="replace")

    def compare(self):
        if self.fault.call == "tear":
            # What stands behind a torn write shows when all of the log is read.
            shutil.rmtree(data_of(self.node) / "spool/queue")
        self.node.start()
        clients.store_all(self.node, [self.image.newcomer])
        self.node.kill()
        statement = Statement(self.node)
        lost = [uid for uid, one in self.acknowledged.items() if statement.held.get(uid) != [one.sha256]]
        if lost or statement.damaged or statement.listed:
            raise Lost(
                f"{len(lost)} of {len(self.acknowledged)} acknowledged are lost, {len(statement.damaged)} damaged, "
                f"{len(statement.listed)} listed as missing"
            )


def series(node, image, area, call, error, lasting):
    """n raised until a run passes untouched: one by one, then by a third; doubled where all that follow fail too."""
    n, figures = 1, dict.fromkeys(["runs", "failed", "stopped", "refused"], 0)
    while True:
        outcome = Trial(node, image, Fault(area, call, error, n, lasting)).run()
        figures["runs"] += 1
        if not outcome["hit"]:
            return figures
        figures["failed"] += 1
        figures["refused"] += not outcome["began"]
        figures["stopped"] += outcome["began"] and outcome["code"] == STORAGE_FAILED
        n += n if lasting else max(1, n // 3)


# A disk that is really full


@contextlib.contextmanager
def small_disk(*options):
    """A file system in memory, of which each test fills the last page. Needs root."""
    with tempfile.TemporaryDirectory(prefix="crash-full-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True)
        try:
            yield pathlib.Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


DISKS = {
    # Options of the file system; ballast by KiB of each file; sizes of the objects.
    "bytes": (["size=48m"], lambda turn: [20 * 1024 + turn * 397], [60_000, 200_000, 300_000]),
    "inodes": (["size=256m", "nr_inodes=90"], lambda turn: [0] * (30 + turn), [300_000]),
}


def fill(kind, turns):
    """Filled by senders, from another free rest each time, until nothing is taken; then there is room again."""
    figures = collections.Counter()
    options, ballast, sizes = DISKS[kind]
    for turn in range(turns):
        with small_disk(*options) as disk:
            files = [disk / f"ballast-{number}" for number in range(len(ballast(turn)))]
            for file, kibibytes in zip(files, ballast(turn), strict=True):
                file.write_bytes(bytes(kibibytes << 10))
            figures += fill_once(disk, files, Template(sizes[turn % len(sizes)]))
    return dict(figures)


def fill_once(disk, ballast, template):
    place = {"dir": str(disk / "spool"), "any_file_system": True}
    node = RelayPacs(merged(CONFIG, {"spool": place}), database="sqlite")
    try:
        node.start()
        taken = until_refused(node, template)
        for file in ballast:
            file.unlink()
        one = Template(5_000).make()
        wait_until(lambda: takes(node, one), "there is room again, and it takes objects", 40)
        taken[one.sop_instance] = one
        assert not node.died(), node.log_tail()
        node.kill()
        held = Statement(node).held
        lost = [uid for uid, each in taken.items() if held.get(uid) != [each.sha256]]
        if lost:
            raise Lost(f"{len(lost)} of {len(taken)} lost on a full disk")
        return collections.Counter(fillings=1, acknowledged=len(taken))
    finally:
        node.remove()


def until_refused(node, template):
    """What was taken before the first refusal, which must be for want of room; the association lives."""
    taken = {}
    association, _ = clients.associate(node, [template.model])
    with association:
        while True:
            one = template.make()
            status = association.store(1, one.sop_class, one.sop_instance, one.data_set).status
            if status != 0:
                assert status == OUT_OF_RESOURCES, f"{status:04X}"
                again = association.store(1, one.sop_class, one.sop_instance, one.data_set).status
                assert again == OUT_OF_RESOURCES, f"{again:04X}"
                return taken
            taken[one.sop_instance] = one


def takes(node, one):
    with contextlib.suppress(Closed, OSError, AssertionError):
        return clients.store(node, [one])[0].status == 0
    return False


# The campaign

TITLE = "The disk is full, or fails"
PLACES = [f"{area} {call}" for area in [*AREAS, "database", "rest"] for call in CALLS]
FULL = [f"full of {kind}" for kind in DISKS]


def cases():
    return [*PLACES, *FULL]


def run(case):
    if case in FULL:
        return fill(case.removeprefix("full of "), 12)
    area, call = case.split()
    image = Image(before, CONFIG)
    try:
        kinds = [(error, lasting) for error in ERRORS[call] for lasting in (False, True)]
        done = in_parallel(image, lambda node, kind: series(node, image, area, call, *kind), kinds)
        return {key: sum(figures[key] for figures in done) for key in done[0]}
    finally:
        image.remove()


def lines(results):
    placed, full = total(results, PLACES), total(results, FULL)
    touched = [case for case in PLACES if results[case]["failed"]]
    syncs = total(results, [f"{area} sync" for area in TRUSTED])
    return [
        Line(
            "the n-th call of a kind fails on a part of the data (log, large objects, queue, review, database, the "
            "rest), once or from then on, with EIO, ENODATA where it reads, and ENOSPC where space is taken; n raised "
            "until a run passes untouched; a write may also be cut in half before what follows fails",
            f"{placed['runs']:,} runs, {placed['failed']:,} with a failure, at {len(touched)} of {len(PLACES)} kinds of "
            "places; the others are passed by nothing",
            len(touched) > 20,
        ),
        Line(
            "nothing but success or A700 is answered; the node goes on, and takes objects by itself once nothing "
            f"fails, or ends with exit code {STORAGE_FAILED}, or does not start and says why (1)",
            f"{placed['failed'] - placed['stopped'] - placed['refused']:,} went on, {placed['stopped']} stopped, "
            f"{placed['refused']} did not start",
            True,
        ),
        Line(
            f"a failed sync of log, large object or queue stops the node ({STORAGE_FAILED}), and nothing that was sent "
            "after it is acknowledged; a spare segment is thrown away instead, and a start that fails is tried again",
            f"{syncs['failed']} failed syncs of these: {syncs['stopped']} stopped, {syncs['refused']} did not start, the others "
            "spares or the start's own look at the queue",
            syncs["stopped"] > 0,
        ),
        Line("after the restart all that was acknowledged is held", "0 lost", True),
        Line(
            "a disk that senders fill to the last bytes, or inodes: A700, the association lives, and objects are taken "
            "again without a restart when there is room",
            f"{full['fillings']} disks filled, {full['acknowledged']:,} objects acknowledged, 0 lost",
            full["fillings"] >= 20,
        ),
    ]
