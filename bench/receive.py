"""Receiving: C-STORE and STOW-RS, each round on a server that was just started with nothing in it."""

import subprocess
import tempfile
import time

from bench.journal import rounds_of
from bench.servers import LOAD, Node, Null, Orthanc, QuickNull, Storescp, running

# Case: set, objects, associations.
STORE = {
    "a N=1": ("a", 300, 1),
    "a N=8": ("a", 600, 8),
    "b N=1": ("b", 2000, 1),
    "b N=8": ("b", 4000, 8),
    "b N=16": ("b", 4000, 16),
    "c N=4": ("c", 16, 4),
    "d N=1": ("d", 2, 1),
}
# Case: set, objects, objects in a request, connections.
STOW = {"STOW b": ("b", 2000, 50, 4), "STOW a": ("a", 400, 1, 4)}


def run(journal):
    rounds_of(journal, "storescu m", [Node, QuickNull, Orthanc, Storescp], stock_storescu)
    for case, what in STORE.items():
        rounds_of(journal, case, [Node, Null, Orthanc, Storescp], lambda server, what=what: store(server(), *what))
    for case, what in STOW.items():
        rounds_of(journal, case, [Node, Orthanc], lambda server, what=what: stow(server(), *what))


def store(server, objects, count, connections):
    with running(server):
        # The first objects pay for a cold start; what is measured is a server that runs.
        server.load("send", server.address, server.ae_title, objects, "--count", min(count, connections), "--salt", 9)
        server.settle()
        before = server.cpu()
        # Raised to 8 associations, storescp needs its processes to exist while their memory is read.
        figures = server.load(
            "send", server.address, server.ae_title, objects, "--count", count, "--connections", connections
        )
        peak = server.peak_mib()
        server.settle()
        figures["cpu_per_gb"] = (server.cpu() - before) / figures["mb"] * 1000
        figures["peak_mib"] = round(max(peak, server.peak_mib()), 1)
        return figures


def stock_storescu(server_class):
    """DCMTK's client as it comes, Nagle's algorithm on, files from the disk."""
    with tempfile.TemporaryDirectory(prefix="bench-m-") as folder, running(server_class()) as (server,):
        subprocess.run([str(LOAD), "files", "m", folder, "--count", "200"], check=True)
        begun = time.monotonic()
        command = ["storescu", "-aec", server.ae_title, "+sd", "127.0.0.1", str(server.dicom_port), folder]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        seconds = time.monotonic() - begun
        return {"per_second": 200 / seconds, "seconds": seconds}


def stow(server, objects, count, per, connections):
    with running(server):
        server.sign_in()
        options = ["--per", per, "--connections", connections, *server.header_options()]
        path = f"{server.web}/studies"
        server.load("stow", server.http_address, path, objects, "--count", per, "--salt", 9, *options)
        server.settle()
        return server.load("stow", server.http_address, path, objects, "--count", count, *options)
