"""Child processes and ports: start, measure, stop by process id."""

import collections
import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess


# Below those that Linux gives to connections: while its server is down, no connection of another test may take a port.
SERVERS = range(18_000, 32_000)
# Given out lately, and perhaps not listened on yet.
GIVEN = collections.deque(maxlen=1000)


def free_port():
    """A port that nobody listens on now, another one each time."""
    while True:
        port = random.choice(SERVERS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in GIVEN:
                GIVEN.append(port)
                return port


def listens(port, host="127.0.0.1"):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def stop(process, seconds=20.0):
    """Asks a child to end, then insists. Returns its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)
    return process.returncode


def family(pid):
    """The process and its descendants."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    found = [pid]
    try:
        for child in children.read_text().split():
            found += family(int(child))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def memory(pid, key="VmRSS"):
    """Bytes of `VmRSS` or `VmHWM`, of the process and its descendants together."""
    total = 0
    for member in family(pid):
        try:
            for line in pathlib.Path(f"/proc/{member}/status").read_text().splitlines():
                if line.startswith(key + ":"):
                    total += int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def version(checkout):
    """The commit that the checkout is at, which says how something was tried; with a plus when it was changed since."""
    command = ["git", "describe", "--always", "--dirty=+"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
