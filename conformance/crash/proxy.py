"""A TCP proxy between the node and an archive that makes of their connections what networks make of them.

Each connection gets a `Fault` from a schedule, or none. A fault strikes when so many bytes have gone to the archive.
Besides, the whole line can be up, down (connections are reset, new ones too) or a black hole (they stay, and nothing
passes).
"""

import collections
import contextlib
import dataclasses
import random
import socket
import struct
import threading
import time

CHUNK = 64 << 10
UP, DOWN, BLACK_HOLE = "up", "down", "black hole"

LATENCY, RATE = "latency", "rate"
RESET, HOLE, LOST_RESPONSE = "reset", "black hole", "lost response"
ARCHIVE_HALF, NODE_HALF = "half-close towards the archive", "half-close towards the node"
KINDS = [LATENCY, RATE, RESET, HOLE, LOST_RESPONSE, ARCHIVE_HALF, NODE_HALF]
NOTHING = "nothing"

# How long latency and rate last, the delay of each piece, and bytes a second.
LASTS, DELAY, BYTES_A_SECOND = 2.0, 0.02, 64 << 10


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    # Bytes to the archive before it strikes.
    at: int


def schedule(seed, longest):
    """Endless: in shuffled turns each kind of fault once, and once a stretch without."""
    chance = random.Random(seed)
    while True:
        turn = [*KINDS, NOTHING]
        chance.shuffle(turn)
        for kind in turn:
            yield Fault(kind, chance.randint(1, longest))


def reset(connection):
    """Ends a connection by a TCP reset, also under a thread that reads from it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    connection.close()


class Relay:
    """A connection of the node, and ours to the archive on its behalf. A fault that it outlives has another for its
    successor."""

    def __init__(self, proxy, node, archive, fault):
        self.proxy, self.node, self.archive, self.fault = proxy, node, archive, fault
        self.passed, self.struck = 0, None
        for connection in (node, archive):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pump in (self.to_archive, self.to_node):
            threading.Thread(target=self.run, args=(pump,), daemon=True).start()

    def run(self, pump):
        try:
            pump()
        except OSError:
            self.end()

    def end(self):
        reset(self.node)
        reset(self.archive)
        self.proxy.forget(self)

    def suffers(self, *kinds):
        return self.struck is not None and self.fault.kind in kinds

    def outlived(self):
        return self.suffers(NOTHING) or (self.suffers(LATENCY, RATE) and time.monotonic() - self.struck > LASTS)

    def to_archive(self):
        while data := self.node.recv(CHUNK):
            if self.outlived():
                self.struck, self.fault, self.passed = None, self.proxy.next_fault(), 0
            if self.fault and self.struck is None and self.passed + len(data) >= self.fault.at:
                data = self.strike(data)
            elif self.suffers(HOLE, ARCHIVE_HALF) or self.proxy.line == BLACK_HOLE:
                continue
            self.passed += len(data)
            self.slow_down(data)
            self.archive.sendall(data)
            if self.suffers(RESET):
                return self.end()
            if self.suffers(ARCHIVE_HALF):
                self.archive.shutdown(socket.SHUT_WR)
        self.proxy.forget(self)
        self.archive.shutdown(socket.SHUT_WR)

    def strike(self, data):
        """What of `data` still goes to the archive."""
        self.struck = time.monotonic()
        self.proxy.struck[self.fault.kind] += 1
        if self.suffers(NODE_HALF):
            self.node.shutdown(socket.SHUT_WR)
        return data[: self.fault.at - self.passed] if self.suffers(RESET, HOLE, ARCHIVE_HALF) else data

    def to_node(self):
        while data := self.archive.recv(CHUNK):
            if self.suffers(LOST_RESPONSE):
                return self.end()
            if self.suffers(HOLE, NODE_HALF) or self.proxy.line == BLACK_HOLE:
                continue
            self.slow_down(data)
            self.node.sendall(data)
        if not self.suffers(HOLE):
            self.node.shutdown(socket.SHUT_WR)

    def slow_down(self, data):
        if self.outlived() or not self.suffers(LATENCY, RATE):
            return
        time.sleep(DELAY if self.suffers(LATENCY) else len(data) / BYTES_A_SECOND)


class Proxy:
    def __init__(self, target, faults=None):
        self.target, self.faults = target, faults
        self.line, self.connections, self.struck = UP, 0, collections.Counter()
        self.relays, self.unused = set(), collections.deque()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                node, _ = self.listener.accept()
            except OSError:
                return
            if self.line == DOWN:
                reset(node)
                continue
            self.connections += 1
            archive = socket.create_connection(("127.0.0.1", self.target))
            self.relays.add(Relay(self, node, archive, self.next_fault()))

    def next_fault(self):
        if self.unused:
            return self.unused.popleft()
        return next(self.faults) if self.faults else None

    def forget(self, relay):
        """It is over. A fault that had no time to strike is another connection's."""
        if relay in self.relays and relay.fault and relay.struck is None:
            self.unused.append(relay.fault)
        self.relays.discard(relay)

    def switch(self, line):
        self.line = line
        if line != BLACK_HOLE:
            # Also what a black hole has swallowed never comes back.
            for relay in list(self.relays):
                relay.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A shutdown, too, or who waits in `accept` waits on.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.switch(DOWN)


class Flapping:
    """Switches a proxy's line down and up by turns; counts the time it was up."""

    def __init__(self, proxy, seconds=5.0):
        self.proxy, self.seconds, self.up_seconds = proxy, seconds, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.is_set():
            self.proxy.switch(DOWN)
            self.over.wait(self.seconds)
            self.proxy.switch(UP)
            begun = time.monotonic()
            self.over.wait(self.seconds)
            self.up_seconds += time.monotonic() - begun

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
