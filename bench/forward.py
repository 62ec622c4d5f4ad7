"""Forwarding to a sink that answers and forgets, and the memory that a 300 MB object costs on all its ways."""

import os
import time

from bench.journal import rounds_of
from bench.servers import Node, Orthanc, Sink, Storescp, running
from waiting import wait_until


class FileSink(Storescp):
    """DCMTK's storescp behind: what arrived is what it has written."""

    name = "file-sink"
    ae_title = "SINK"

    def arrived(self):
        # Asked often, while two cores are measured: this takes a tenth of what `iterdir` does.
        return len(os.listdir(self.folder / "data"))

    def has(self, count, size):
        """So many objects, whole: `size` bytes together."""
        return self.arrived() >= count and sum(file.stat().st_size for file in (self.folder / "data").iterdir()) >= size


def run(journal):
    rounds_of(journal, "forward 400 b", [Node, Orthanc], lambda server: many(server, 400, 8))
    rounds_of(journal, "forward single", [Node, Orthanc], lambda server: singles(server, 20))
    rounds_of(journal, "memory d", [Node, Orthanc], large)
    rounds_of(journal, "memory 16 b", [Node, Orthanc], lambda server: crowd(server, 16))


def many(server_class, count, connections):
    sink = FileSink()
    server = server_class(sink=sink)
    with running(sink, server):
        server.settle()
        begun = time.time()
        figures = server.load(
            "send", server.address, server.ae_title, "b", "--count", count, "--connections", connections
        )
        wait_until(lambda: sink.has(count, figures["mb"] * 1e6), "all arrived", 120, every=0.005, at_most=0.005)
        end = time.time()
        return {"per_second": count / (end - begun), "lag_seconds": end - figures["last_answer"]}


def singles(server_class, count):
    sink = FileSink()
    server = server_class(sink=sink)
    with running(sink, server):
        server.settle()
        lags = []
        for n in range(count):
            answered = server.load("send", server.address, server.ae_title, "b", "--from", n)["last_answer"]
            wait_until(lambda n=n: sink.arrived() > n, "it arrived", 20, every=0.0005, at_most=0.0005)
            lags.append(max(0.0, time.time() - answered))
        lags.sort()
        return {"p50_ms": lags[len(lags) // 2] * 1e3, "max_ms": lags[-1] * 1e3}


def large(server_class):
    """A 315 MB object received by C-STORE, another by STOW-RS, both forwarded."""
    sink = Sink()
    server = server_class(sink=sink)
    with running(sink, server):
        server.sign_in()
        server.load("send", server.address, server.ae_title, "d", "--salt", 1)
        server.load(
            "stow", server.http_address, f"{server.web}/studies", "d", "--salt", 2, *server.header_options()
        )
        server.settle()
        return {"peak_mib": round(server.peak_mib(), 1)}


def crowd(server_class, connections):
    with running(server_class()) as (server,):
        server.load("send", server.address, server.ae_title, "b", "--count", 4000, "--connections", connections)
        server.settle()
        return {"peak_mib": round(server.peak_mib(), 1)}
