"""Searching and reading: indexes of 10,000, 100,000 and, of the node alone, 1,000,000 instances.

Ten instances a study, ten studies a patient (set q). Cold: no question is asked twice of one server. Warm: the same
one over and over.
"""

import json

from bench.journal import rounds_of
from bench.servers import Node, Orthanc, running

JSON = "application/dicom+json"
UIDS = "1.2.826.0.1.3680043.10.1338.113.1"
LAST = "SMITH JONES TANAKA MULLER GARCIA ROSSI NOVAK DUBOIS SILVA KIM".split()


def days(studies, n):
    """As many days as some 30 studies are of; the generator spreads them over ten years of 360 days."""
    first = n * 7 % 3000
    last = first + 108_000 // studies - 1
    # Every month has a 28th.
    return "-".join(f"{2015 + day // 360}{1 + day % 360 // 30:02}{min(28, 1 + day % 30):02}" for day in (first, last))


# A question, by the number of studies there are and the number of the question.
QUESTIONS = {
    "limit=100": lambda studies, n: f"limit={100 + n // (studies - 100)}&offset={n % (studies - 100)}",
    "PatientID": lambda studies, n: f"PatientID=PID{n % (studies // 10):07}&limit={50 + n}",
    "name wildcard": lambda studies, n: f"PatientName={LAST[n % 10]}000{n // 10 % 5}*&limit={50 + n}",
    "date range": lambda studies, n: f"StudyDate={days(studies, n)}&limit={50 + n}",
    "StudyInstanceUID": lambda studies, n: f"StudyInstanceUID={UIDS}.{n * 7 % studies}&limit={50 + n}",
}
# Requests of a round: enough for a p99 where answers are quick, not more than a minute where they are slow.
COUNTS = {"relaypacs": 2000, "orthanc": 64}
FIND = ["0008,0052=STUDY", "0008,0020=", "0008,0050=", "0010,0010=", "0010,0020=", "0020,000D=" + UIDS + ".{n}"]
# Studies of each round that are asked for once.
UNREAD = 10
SIZES = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000}


def run(journal):
    for server_class in (Node, Orthanc):
        if any(list(journal.missing(case, [server_class])) for case in cases(server_class)):
            grow(journal, server_class)
    for size in sizes_of(Orthanc):
        found = [journal.figures(f"matches {size}", server.name)[0] for server in (Node, Orthanc)]
        assert found[0] == found[1], f"{size}: they do not find the same: {found}"
    if list(journal.missing("WADO study", [Node, Orthanc])):
        read(journal)


def sizes_of(server_class):
    return list(SIZES) if server_class is Node else ["10k", "100k"]


def cases(server_class):
    # What is asked last at each size.
    return [f"C-FIND {size} StudyInstanceUID" for size in sizes_of(server_class)]


def grow(journal, server_class):
    """Fills one server step by step, and asks it at each size."""
    server = server_class(sync=False) if server_class is Orthanc else server_class()
    with running(server):
        server.sign_in()
        held = 0
        for size in sizes_of(server_class):
            fill(journal, server, size, held, SIZES[size])
            held = SIZES[size]
            for number in range(journal.rounds):
                ask(journal, server, size, held // 10, number)


def fill(journal, server, size, held, wanted):
    """In ten parts, so that a rate that falls shows."""
    part = (wanted - held) // 10
    for n in range(10):
        options = ["--count", part, "--from", held + n * part, "--connections", 8]
        figures = server.load("send", server.address, server.ae_title, "q", *options)
        journal.add(f"fill {size}", server.name, n, per_second=figures["per_second"])
    server.settle()


def ask(journal, server, size, studies, number):
    count = COUNTS[server.name]
    for name, question in QUESTIONS.items():
        cold = [f"{server.web}/studies?{question(studies, number * count + n)}" for n in range(count)]
        journal.add(f"QIDO {size} {name} cold", server.name, number, **get(server, cold, 8))
        journal.add(f"QIDO {size} {name} warm", server.name, number, **get(server, cold[:1] * count, 8))
    if number == 0:
        journal.add(f"matches {size}", server.name, 0, **matches(server, studies))
    # Other studies in each round: an answer that was kept would be compared with one that was looked up.
    finds = min(count, studies // journal.rounds)
    options = ["--count", finds, "--from", number, "--step", studies // finds]
    figures = server.load("find", server.address, server.ae_title, *options, *FIND)
    assert figures["matches"] == finds, figures
    journal.add(f"C-FIND {size} StudyInstanceUID", server.name, number, **figures)


def get(server, paths, connections):
    """At least as many requests as give each connection some."""
    options = ["--count", len(paths), "--connections", connections]
    accept = ["--header", f"Accept: {JSON}"]
    return server.load("get", server.http_address, *options, *accept, *server.header_options(), *paths)


def matches(server, studies):
    """How many studies are found."""
    found = {}
    for name, question in QUESTIONS.items():
        body = server.get(f"{server.web}/studies?{question(studies, 3)}")
        answer = json.loads(body) if body else []
        found[name] = len(answer)
    return found


def read(journal):
    """WADO-RS of studies of 100 CT instances. Metadata cold: of studies that nobody asked for before."""
    uids = UIDS.replace(".113.", ".97.")
    node, orthanc = Node(), Orthanc()
    with running(node, orthanc):
        for server in (node, orthanc):
            server.sign_in()
            count = 100 * UNREAD * journal.rounds
            server.load("send", server.address, server.ae_title, "a", "--count", count, "--connections", 4)
            server.settle()
        for number, server in journal.missing("WADO metadata cold", [node, orthanc]):
            unread = [f"/studies/{uids}.{number * UNREAD + n}/metadata" for n in range(UNREAD)]
            journal.add("WADO metadata cold", server.name, number, **retrieve(server, unread, UNREAD))
        study = f"/studies/{uids}.0"
        instances = [f"{study}/series/{uids}.0.{n * 4 // 100}/instances/{uids}.0.{n * 4 // 100}.{n}" for n in range(100)]
        rounds_of(journal, "WADO instance", [node, orthanc], lambda server: retrieve(server, instances, 300))
        rounds_of(journal, "WADO metadata", [node, orthanc], lambda server: retrieve(server, [f"{study}/metadata"], 30))
        rounds_of(journal, "WADO study", [node, orthanc], lambda server: retrieve(server, [study], 10))


def retrieve(server, paths, count):
    json_wanted = paths[0].endswith("/metadata")
    accept = JSON if json_wanted else 'multipart/related; type="application/dicom"; transfer-syntax=*'
    options = ["--count", count, "--header", f"Accept: {accept}", *server.header_options()]
    return server.load("get", server.http_address, *options, *(server.web + path for path in paths))
