"""Lets the n-th call of a kind on the node's data fail: counted over all its threads, by what it is done to.

x86-64 only, as are the numbers of the calls; needs no root. See `fault_launcher`.
"""

import ctypes
import dataclasses
import errno
import fcntl
import os
import pathlib
import select
import socket
import struct
import sys
import threading
import time

RECEIVE, SEND = 0xC0502100, 0xC0182101
REQUEST, ANSWER, CONTINUE = 80, struct.Struct("<QqiI"), 1
O_CREAT = 0o100

OPENAT = 257
# By number: which argument is a descriptor, or which two are a folder's descriptor and a path (None: the current one).
CALLS = {
    "read": {0: 0, 17: 0, 19: 0, 295: 0, 327: 0},
    "write": {1: 0, 18: 0, 20: 0, 296: 0, 328: 0},
    # Half of it is written; what follows fails. Only where the call itself says where to.
    "tear": {18: 0, 296: 0},
    "sync": {74: 0, 75: 0},
    "allocate": {77: 0, 285: 0},
    "create": {OPENAT: (0, 1), 83: (None, 0), 258: (0, 1)},
    "open": {OPENAT: (0, 1)},
    "rename": {82: (None, 0), 264: (0, 1), 316: (0, 1)},
    "remove": {87: (None, 0), 263: (0, 1), 84: (None, 0)},
}
AREAS = {"log": "spool/segments", "large": "spool/large", "queue": "spool/queue", "review": "spool/review"}


@dataclasses.dataclass(frozen=True)
class Fault:
    """The n-th `call` on `area` fails; those after it too, when it is `lasting`. One that tears fails at the next."""

    area: str
    call: str
    error: int
    n: int
    lasting: bool = False

    def __str__(self):
        return f"{self.area} {self.call} {errno.errorcode[self.error]} at {self.n}{'+' if self.lasting else ''}"


class Faulty:
    """Answers the calls of one process from a thread, until that ends."""

    def __init__(self, data, fault):
        self.data, self.fault = f"{data}/", fault
        self.count, self.hits, self.is_lifted = 0, [], False
        self.path = pathlib.Path(data).parent / "calls"
        self.path.unlink(missing_ok=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def command(self, command):
        """What to run instead of `command`."""
        numbers = ",".join(map(str, CALLS[self.fault.call]))
        launcher = pathlib.Path(__file__).with_name("fault_launcher.py")
        return [sys.executable, "-S", str(launcher), str(self.path), numbers, *command]

    def lift(self):
        """From now on nothing fails."""
        self.is_lifted = True

    def serve(self):
        self.server.settimeout(30)
        connection, _ = self.server.accept()
        with connection:
            _, (listener,), *_ = socket.recv_fds(connection, 1, 1)
        self.server.close()
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while not poll.poll()[0][1] & select.POLLHUP:
                self.answer(listener)
        finally:
            os.close(listener)

    def answer(self, listener):
        request = bytearray(REQUEST)
        try:
            fcntl.ioctl(listener, RECEIVE, request)
            identifier, pid, _, number = struct.unpack_from("<QIIi", request)
            arguments = struct.unpack_from("<6Q", request, 32)
            fails = self.fails(pid, number, arguments)
            value, error, flags = (0, -self.fault.error, 0) if fails else (0, 0, CONTINUE)
            if fails and self.fault.call == "tear" and self.count == self.fault.n:
                value, error = write_half(pid, number, arguments), 0
            fcntl.ioctl(listener, SEND, ANSWER.pack(identifier, value, error, flags))
        except (FileNotFoundError, ProcessLookupError):
            # Killed while it waited.
            pass

    def fails(self, pid, number, arguments):
        path = target(pid, CALLS[self.fault.call][number], arguments)
        if number == OPENAT and bool(arguments[2] & O_CREAT) != (self.fault.call == "create"):
            return False
        if not path.startswith(self.data) or area_of(path[len(self.data) :]) != self.fault.area:
            return False
        self.count += 1
        last = self.fault.n + (self.fault.call == "tear")
        due = self.count >= self.fault.n and (self.fault.lasting or self.count <= last)
        if due and not self.is_lifted:
            self.hits.append((time.monotonic(), path))
            return True
        return False


def target(pid, where, arguments):
    """The path of what a call is done to."""
    if isinstance(where, int):
        return link(pid, f"fd/{ctypes.c_int(arguments[where]).value}")
    folder, name = where
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(arguments[name])
        path = memory.read(4096).split(b"\0")[0].decode()
    if path.startswith("/"):
        return path
    descriptor = -100 if folder is None else ctypes.c_int(arguments[folder]).value
    return os.path.join(link(pid, "cwd" if descriptor == -100 else f"fd/{descriptor}"), path)


def write_half(pid, number, arguments):
    """Does the first half of a pwrite or pwritev in its place; how many bytes that is."""
    descriptor, at, count, offset = arguments[:4]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:

        def read(address, length):
            memory.seek(address)
            return memory.read(length)

        if number == 296:
            parts = struct.iter_unpack("<QQ", read(at, 16 * count))
            data = b"".join(read(address, length) for address, length in parts if length)
        else:
            data = read(at, count)
    half = data[: (len(data) + 1) // 2]
    file = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_WRONLY)
    try:
        return os.pwrite(file, half, offset)
    finally:
        os.close(file)


def link(pid, name):
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def area_of(path):
    for area, folder in AREAS.items():
        if path == folder or path.startswith(folder + "/"):
            return area
    return "database" if path.startswith("relaypacs.db") else "rest"
