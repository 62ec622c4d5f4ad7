"""How large the binary is, and how soon the node is there: with nothing to do, and with a million records to look through."""

import time

from bench.journal import rounds_of
from bench.servers import NODE, Node, Sink, running

PENDING = 1_000_000


def run(journal):
    rounds_of(journal, "binary", [Node], lambda server: {"mib": NODE.stat().st_size / 2**20, "mb": NODE.stat().st_size / 1e6})
    rounds_of(journal, "cold start", [Node], lambda server: empty())
    if list(journal.missing("start with 1M", [Node])):
        pending(journal)


def empty():
    begun = time.monotonic()
    with running(Node()):
        return {"seconds": time.monotonic() - begun}


def pending(journal):
    """Deliveries that wait for a destination that is not there."""
    sink = Sink()
    node = Node(sink=sink)
    try:
        node.start()
        options = ["--count", PENDING, "--connections", 8]
        node.load("send", node.address, node.ae_title, "q", *options)
        node.settle()
        for number in range(journal.rounds):
            node.process.kill()
            node.process.wait()
            begun = time.monotonic()
            node.start()
            seconds = time.monotonic() - begun
            journal.add("start with 1M", node.name, number, seconds=seconds, objects=node.gauge("spool_objects"))
    finally:
        node.remove()
        sink.remove()
