"""Senders that send the same objects again and again, while copies of them rot on the disk and the node is killed.

An object that was acknowledged after its bytes last rotted is held. One that rotted since is held or named; and once
nothing rots any more, a last resend heals everything.
"""

import collections
import random
import threading
import time


import clients
from crash.image import CONFIG, Statement, keep, spool_of
from crash.kill import Lost
from crash.senders import Template, ended
from pdu import Closed, RawAssociation
from subject import RelayPacs, merged



class Sky:
    """The objects, and for each when it last rotted, and when the last acknowledged sending of it began."""

    def __init__(self, seed, objects=24, senders=4):
        self.random, self.senders = random.Random(seed), senders
        templates = [Template(size) for size in (700, 700, 3_000, 20_000)]
        self.objects = [templates[number % 4].make() for number in range(objects)]
        self.rotted, self.acknowledged = {}, {}
        self.figures = collections.Counter()
        self.lock, self.over = threading.Lock(), threading.Event()
        config = merged(CONFIG, {"spool": {"retention": "0s"}})
        self.node = RelayPacs(config, database="sqlite")

    def sender(self):
        while not self.over.is_set():
            try:
                self.session()
            except (Closed, OSError, AssertionError):
                self.over.wait(0.02)

    def session(self):
        model = self.objects[0]
        with RawAssociation(self.node.address, timeout=20) as association:
            association.associate(
                [(1, model.sop_class, [model.transfer_syntax])], called=self.node.ae_title, calling="CRASH"
            )
            while not self.over.is_set():
                one, begun = random.choice(self.objects), time.monotonic()
                reply = association.store(1, one.sop_class, one.sop_instance, one.data_set)
                if reply.status != 0:
                    self.figures["refused"] += 1
                    continue
                with self.lock:
                    self.figures["acknowledged"] += 1
                    before = self.acknowledged.get(one.sop_instance, 0)
                    self.acknowledged[one.sop_instance] = max(begun, before)

    def rot(self):
        """A bit of every copy of an object that is on the disk; the time counts from its end."""
        while not self.over.wait(0.03):
            one = self.random.choice(self.objects)
            if rot_copies(spool_of(self.node), one.data_set, self.random):
                self.figures["rotted"] += 1
                self.rotted[one.sop_instance] = time.monotonic()

    def round(self):
        """A start, a while of storm, and a kill."""
        self.node.start()
        self.over.clear()
        crew = [threading.Thread(target=work, daemon=True) for work in [self.sender] * self.senders + [self.rot]]
        for each in crew:
            each.start()
        self.over.wait(self.random.uniform(0.2, 1.2))
        assert not self.node.died(), self.node.log_tail()
        self.node.kill()
        self.over.set()
        ended(crew)
        self.figures["kills"] += 1

    def check(self):
        statement = Statement(self.node)
        for one in self.objects:
            uid = one.sop_instance
            if uid not in self.acknowledged or one.sha256 in statement.held.get(uid, []):
                continue
            rotted_since = self.rotted.get(uid, 0) >= self.acknowledged[uid]
            if not (rotted_since and statement.names(uid, None)):
                raise Lost(f"acknowledged, {'rotted since' if rotted_since else 'intact'}, and gone: {keep(self.node)}")
        wrong = [uid for uid, digests in statement.held.items() if set(digests) - {one.sha256 for one in self.objects}]
        if wrong:
            raise Lost(f"{len(wrong)} exported with other bytes; kept in {keep(self.node)}")

    def clear_up(self):
        self.node.start()
        clients.store_all(self.node, self.objects)
        assert self.node.stop() == 0, self.node.log_tail()
        held = Statement(self.node)
        if held.damaged or held.held != {one.sop_instance: [one.sha256] for one in self.objects}:
            raise Lost(f"a resend did not heal everything; kept in {keep(self.node)}")


def rot_copies(spool, data_set, generator):
    """Flips a bit of each; whether there was one."""
    found = 0
    for path in [*(spool / "segments").glob("*.log"), *(spool / "large").iterdir()]:
        try:
            with path.open("r+b") as file:
                data, at = file.read(), -1
                while (at := data.find(data_set, at + 1)) >= 0:
                    place = at + generator.randrange(len(data_set))
                    file.seek(place)
                    file.write(bytes([data[place] ^ 1 << generator.randrange(8)]))
                    found += 1
        except FileNotFoundError:
            continue
    return found > 0


def storm(rounds, seed):
    sky = Sky(seed)
    try:
        for _ in range(rounds):
            sky.round()
            sky.check()
        sky.clear_up()
        assert sky.figures["acknowledged"] > 0 < sky.figures["rotted"]
        return dict(sky.figures)
    finally:
        sky.node.remove()
