"""The node on a disk that logs its writes; then the disks that cuts at chosen moments would have left.

Looked at are moments just after an acknowledgement and any others, with what was not flushed gone, there, or partly
there. At each, what was acknowledged up to then must be held, or have arrived at the archive by then.
"""

import math
import threading
import time

import clients
from crash.disk import mounted
from crash.kill import Lost
from crash.ledger import Ledger, Pen
from crash.power import FILLING, CutRig
from crash.senders import ended
from crash.write_log import Cut, LoggedDisk, Replay
from subject import RelayPacs, merged
from waiting import wait_until

MEBIBYTES = 384


class MarkedLedger(Ledger):
    """Knows how long the log of writes was when each object was acknowledged."""

    def __init__(self, folder, position):
        super().__init__(folder)
        self.position, self.marks = position, {}

    def pen(self, name):
        return MarkedPen(self, name)


class MarkedPen(Pen):
    def __init__(self, ledger, name):
        super().__init__(ledger.folder / f"{name}.tsv")
        self.ledger = ledger

    def write(self, uid, sha256):
        self.ledger.marks[uid] = self.ledger.position()
        super().write(uid, sha256)


class ReplayRig(CutRig):
    def __init__(self, left_out=None, seed=None):
        environment = {"RELAYPACS_LEAVE_OUT": left_out} if left_out else {}
        super().__init__(seed=seed, disk=LoggedDisk(MEBIBYTES), environment=environment)
        self.ledger = MarkedLedger(self.folder, self.disk.position)
        self.arrived, self.work = {}, {}
        self.archive.fail = self.note_arrival

    def note_arrival(self, one):
        self.arrived[one.sop_instance] = self.disk.position()

    rest = FILLING

    def load(self, seconds, environment):
        """Loads the node until it dies, or for a while; the senders."""
        self.start(environment)
        stopping = threading.Event()
        crew = self.crew(0, stopping)
        for sender in crew:
            sender.start()
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > until or self.node.died(), "the load ends", seconds + 5)
        stopping.set()
        ended(crew)
        for sender in crew:
            self.offered |= sender.offered
        self.node.kill()
        return crew

    def record(self, seconds):
        self.load(seconds, {})
        self.end_record()

    def record_resends(self, crashes):
        """Kills the node between the write of records and their sync, and sends again what got no answer."""
        told = []
        for crash in range(crashes):
            crew = self.load(20, {"RELAYPACS_FAILPOINT": f"record_appended@{self.random.randint(5, 40)}"})
            self.start({})
            pen = self.ledger.pen(f"resent-{crash}")
            for one in [one for sender in crew for one in sender.open.values()]:
                clients.store_all(self.node, [one])
                pen.write(one.sop_instance, one.sha256)
                told.append(self.ledger.marks[one.sop_instance])
            pen.close()
            self.node.kill()
        self.end_record()
        return told

    def end_record(self):
        self.work = {"recycled": self.recycled(), "rewritten": self.rewritten()}
        self.disk.detach()

    def cuts(self, count, told=None):
        """Half of them just after an acknowledgement, of those in `told` if there are such."""
        acknowledged = sorted(self.ledger.marks.values())
        moments = [self.random.choice(told or acknowledged) for _ in range(count // 2)]
        moments += [self.random.randint(acknowledged[0], self.disk.position()) for _ in range(count - len(moments))]
        return [Cut(moment, self.random.choice(["flush", "prefix", "subset"])) for moment in moments]

    def look_at(self, count, told=None):
        """Mounts so many images and compares each with what was acknowledged by then."""
        replay = Replay(self.disk, self.random)
        node = RelayPacs(self.config_on(replay.image), database="sqlite")
        try:
            for number, (cut, disk) in enumerate(replay.disks(self.cuts(count, told))):
                self.look(number, cut, node)
        finally:
            node.remove()

    def config_on(self, image):
        """Of a command that looks at the node's folder on an image."""
        return merged(self.node.config, {"node": {"data_dir": str(mounted(image) / "data")}})

    def look(self, number, cut, node):
        acknowledged = self.ledger.entries()
        wanted = {
            uid: [acknowledged[uid]]
            for uid, mark in self.ledger.marks.items()
            if mark <= cut.position and self.arrived.get(uid, math.inf) > cut.position
        }
        held = node.held()
        lost = [uid for uid, digest in wanted.items() if held.get(uid) != digest]
        changed = [uid for uid, digests in held.items() if digests != [self.offered[uid]]]
        verified = node.run("spool", "verify", check=False)
        if lost or changed or verified.returncode != 0:
            raise Lost(
                f"image {number}, {cut}: {len(lost)} lost of {len(wanted)}, {len(changed)} changed; "
                f"{verified.stdout[-300:]} {verified.stderr[-300:]}"
            )


def replay(images, left_out=None, seconds=12, seed=None):
    """Under load: the figures, or an exception that says what was lost."""
    return figures(images, left_out, seed, lambda rig: rig.record(seconds))


def replay_resends(images, left_out=None, crashes=5, seed=None):
    """The same of what is sent again after crashes."""
    return figures(images, left_out, seed, lambda rig: rig.record_resends(crashes))


def figures(images, left_out, seed, record):
    rig = ReplayRig(left_out, seed)
    try:
        rig.look_at(images, record(rig))
        return {"images": images, "acknowledged": len(rig.ledger.marks)} | rig.work
    finally:
        rig.close()
