"""Many at once: idle associations, a flood of connections, connections that are rejected, HTTP clients that dawdle.

The crowd runs in processes of its own, so that what the good client measures is the node and not this program.
"""

import contextlib
import multiprocessing
import pathlib
import selectors
import socket
import statistics
import time

import clients
import instances
from crash.campaign import Line
from crash.senders import Template
from pdu import A_ASSOCIATE_RJ, EXPLICIT_LE, VERIFICATION, Closed, RawAssociation, abort, associate_rq
from subject import RelayPacs, merged
from waiting import wait_until

TITLE = "Crowds"
FORK = multiprocessing.get_context("fork")
# A flood comes from other addresses than the good sender's where it says so; all of 127/8 is this machine.
ELSEWHERE = "127.0.0.9"
QUIET = {"telemetry": {"log_filter": "error"}}
RAISED = merged(
    QUIET,
    {
        "limits": {
            "associations": 2000,
            "associations_per_peer_loopback": 2000,
            "connections_per_second": 100_000,
            "dimse_idle": "30min",
            "http_connections": 2000,
        }
    },
)
# The limits as they come, but for the privilege of loopback: the flood's address is to be one like any other.
AS_IT_COMES = merged(QUIET, {"limits": {"connections_per_second": 200, "associations_per_peer_loopback": 32}})
SLOW = merged(RAISED, {"limits": {"http_headers": "5s", "http_stall": "8s"}})
CYCLES, SETTLED = 100_000, 10_000
MIB = 1 << 20


def p99(seconds):
    return sorted(seconds)[int(len(seconds) * 0.99)]


def files_open(node):
    return len(list(pathlib.Path(f"/proc/{node.pid}/fd").iterdir()))


@contextlib.contextmanager
def started(config):
    node = RelayPacs(config, database="sqlite")
    try:
        yield node.start()
        assert not node.died(), f"the node ended with {node.process.returncode}:\n{node.log_tail()}"
    finally:
        node.remove()


def timed(action):
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def echo(association):
    assert association.echo().status == 0


# Idle associations


def open_association(node):
    association = RawAssociation(node.address, timeout=20)
    model = TEMPLATE.model
    contexts = [(1, VERIFICATION, [EXPLICIT_LE]), (3, model.sop_class, [model.transfer_syntax])]
    association.associate(contexts, called=node.ae_title, calling="CROWD")
    return association


def open_and_store(node):
    """An association on which an object came: what it took to receive it may be what it keeps."""
    association = open_association(node)
    one = TEMPLATE.make()
    assert association.store(3, one.sop_class, one.sop_instance, one.data_set).status == 0
    return association


# Longer than a PDU (128 KiB), short enough for the log.
TEMPLATE = Template(300_000)


def idle(count=1000, seconds=600, most=20_000):
    """Associations that stored an object each and are kept; another one asks for echoes meanwhile."""
    with started(RAISED) as node, contextlib.ExitStack() as stack:
        # What the node keeps of so many objects is there before it is measured.
        for _ in range(count):
            with open_and_store(node) as association:
                association.release()
        before = node.memory()
        crowd = [stack.enter_context(open_and_store(node)) for _ in range(count)]
        each = (node.memory() - before) / count
        lively = stack.enter_context(open_association(node))
        took, until = [], time.monotonic() + seconds
        while time.monotonic() < until and len(took) < most:
            took.append(timed(lambda: echo(lively)))
            time.sleep(min(0.05, seconds / most))
        at_end = (node.memory() - before) / count
        for association in crowd:
            echo(association)
    return {
        "associations": count,
        "seconds": seconds,
        "bytes_each": round(max(each, at_end)),
        "echoes": len(took),
        "echo_p99": round(p99(took), 4),
    }


# A flood, of several processes so that it keeps its rate on a busy machine

FLOODERS = 4


# linux/in.h: the port is chosen by `connect`, which may take one in TIME_WAIT; there are fewer ports than connections.
IP_BIND_ADDRESS_NO_PORT = 24


def connect_from(source, address):
    connection = socket.socket()
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((source, 0))
    connection.settimeout(20)
    connection.connect(address)
    return connection


def flood(address, called, source, rate, seconds, told):
    """So many connections a second: silent ones, requests that are abandoned, nonsense, and some that end at once."""
    request = associate_rq([(1, VERIFICATION, [EXPLICIT_LE])], called=called, calling="FLOOD")
    begun, opened, failed, open_ones = time.monotonic(), 0, 0, []
    while time.monotonic() < begun + seconds:
        due = int((time.monotonic() - begun) * rate) - opened - failed
        for _ in range(due):
            kind = (opened + failed) % 4
            try:
                connection = connect_from(source, address)
                connection.sendall([b"", request, b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", b""][kind])
            except OSError:
                failed += 1
                continue
            opened += 1
            if kind == 3:
                connection.close()
            else:
                open_ones.append((time.monotonic() + 1, connection))
        while open_ones and open_ones[0][0] < time.monotonic():
            open_ones.pop(0)[1].close()
        time.sleep(0.002)
    told.put({"opened": opened, "failed": failed, "seconds": time.monotonic() - begun})


def flooded(seconds, config, source, rate=500):
    """The figures of a flood, and of a good sender that stores on association after association meanwhile."""
    template = Template(4_000)
    contexts = [(1, template.model.sop_class, [template.model.transfer_syntax])]
    with started(config) as node:
        told = FORK.Queue()
        about = (node.address, node.ae_title, source, rate / FLOODERS, seconds, told)
        crowd = [FORK.Process(target=flood, args=about, daemon=True) for _ in range(FLOODERS)]
        before = files_open(node)
        for flooder in crowd:
            flooder.start()
        sent, took, associations = {}, [], []
        while any(flooder.is_alive() for flooder in crowd):
            begun = time.monotonic()
            with RawAssociation(node.address, timeout=20) as association:
                association.associate(contexts, called=node.ae_title)
                associations.append(time.monotonic() - begun)
                for _ in range(10):
                    one = template.make()
                    begun = time.monotonic()
                    reply = association.store(1, one.sop_class, one.sop_instance, one.data_set)
                    assert reply.status == 0, f"C-STORE {reply.status:04X}"
                    took.append(time.monotonic() - begun)
                    sent[one.sop_instance] = [one.sha256]
                    time.sleep(0.01)
                association.release()
        assert node.held() == sent, "what the good sender sent is not what is held"
        wait_until(lambda: files_open(node) <= before + 10, "the flood's connections are gone", 60)
        crowd_figures = [told.get(timeout=10) for _ in crowd]
    return {
        "connections": sum(each["opened"] for each in crowd_figures),
        "turned_away": sum(each["failed"] for each in crowd_figures),
        "per_second": round(sum((each["opened"] + each["failed"]) / each["seconds"] for each in crowd_figures)),
        "seconds": seconds,
        "stored": len(took),
        "store_p99": round(p99(took), 4),
        "associate_p99": round(p99(associations), 4),
    }


# Connections that are rejected


def rejected(address, cycles, source):
    """Connects and is rejected for the AE title it calls (PS3.8 §9.3.4: 1/1/7), so many times."""
    request = associate_rq([(1, VERIFICATION, [EXPLICIT_LE])], called="NOBODY", calling="CROWD")
    for cycle in range(cycles):
        with connect_from(source, address) as connection:
            connection.sendall(request)
            answer = b""
            while len(answer) < 10 and (part := connection.recv(10 - len(answer))):
                answer += part
            assert (answer[0], answer[7:]) == (A_ASSOCIATE_RJ, b"\1\1\7"), answer
            if cycle % 3 == 0:
                connection.sendall(abort())


def rejects(cycles=CYCLES, settled=SETTLED, steps=9, workers=2):
    """Memory after `settled` cycles, and how much more it ever was after that."""
    with started(RAISED) as node:
        before = files_open(node)
        reject_some(node, settled, workers)
        resident = [node.memory()]
        for _ in range(steps):
            reject_some(node, (cycles - settled) // steps, workers)
            resident.append(node.memory())
        wait_until(lambda: files_open(node) <= before, "all connections are closed", 30)
        assert clients.echo(node) == 0
    return {"cycles": cycles, "settled": settled, "resident": resident, "growth": max(resident) - resident[0]}


def reject_some(node, cycles, workers):
    crew = [
        FORK.Process(target=rejected, args=(node.address, cycles // workers, f"127.0.0.{20 + number}"), daemon=True)
        for number in range(workers)
    ]
    for worker in crew:
        worker.start()
    for worker in crew:
        worker.join()
        assert worker.exitcode == 0, "a connection was not rejected with 1/1/7"


# Slow HTTP


def dawdle(address, count, key, patience, told):
    """Clients that send a byte a second: half of them never end their headers, half their bodies. Tells how each
    ended and after how long: a status, or 0 when it was closed without."""
    selector = selectors.DefaultSelector()
    begun, endings = {}, []
    for number in range(count):
        connection = socket.create_connection(address, timeout=20)
        is_body = number % 2 == 1
        connection.sendall(post_head(key) if is_body else b"GET /dicom-web/studies HTTP/1.1\r\nX-Slow: ")
        connection.setblocking(False)
        begun[connection] = (time.monotonic(), "body" if is_body else "headers")
        selector.register(connection, selectors.EVENT_READ)
    next_byte = time.monotonic() + 1
    while begun:
        for entry, _ in selector.select(max(0, next_byte - time.monotonic())):
            since, kind = begun.pop(entry.fileobj)
            endings.append((kind, status(entry.fileobj), time.monotonic() - since))
            selector.unregister(entry.fileobj)
            entry.fileobj.close()
        if time.monotonic() >= next_byte:
            next_byte += 1
            for connection in begun:
                # What was closed is found by select.
                with contextlib.suppress(OSError):
                    connection.send(b"x")
        if any(time.monotonic() - since > patience for since, _ in begun.values()):
            break
    told.put((endings, len(begun)))


def post_head(key):
    lines = ["POST /dicom-web/studies HTTP/1.1", "Host: node", f"Authorization: Bearer {key}"]
    lines += ['Content-Type: multipart/related; type="application/dicom"; boundary=b', "Content-Length: 1000000"]
    return "\r\n".join([*lines, "", "--b\r\nContent-Type: application/dicom\r\n\r\n"]).encode()


def status(connection):
    try:
        words = connection.recv(4096).split(b" ", 2)
    except OSError:
        return 0
    return int(words[1]) if len(words) > 1 else 0


def slow_http(count=500, config=SLOW, patience=60):
    with started(config) as node:
        clients.stow_all(node, instances.study(3))
        address, told = ("127.0.0.1", node.http_port), FORK.Queue()
        before = node.memory()
        crowd = FORK.Process(target=dawdle, args=(address, count, node.key, patience, told), daemon=True)
        crowd.start()
        took, ended, most = [], None, 0
        while ended is None:
            took.append(timed(lambda: clients.stow_all(node, [instances.instance()])))
            took.append(timed(lambda: clients.qido(node, "/studies?limit=5")))
            most = max(most, node.memory())
            with contextlib.suppress(Exception):
                ended = told.get(timeout=0.05)
        crowd.join()
    endings, left = ended
    assert left == 0, f"{left} of {count} slow connections were never closed"
    by_kind = {kind: [one for one in endings if one[0] == kind] for kind in ("headers", "body")}
    assert all(code in (408, 0) for _, code, _ in endings), sorted({code for _, code, _ in endings})
    return {
        "clients": count,
        "told_408": sum(code == 408 for _, code, _ in endings),
        "headers_closed_by": round(max(after for *_, after in by_kind["headers"]), 1),
        "bodies_closed_by": round(max(after for *_, after in by_kind["body"]), 1),
        "bytes_each": round((most - before) / count),
        "requests": len(took),
        "request_p99": round(p99(took), 4),
        "request_median": round(statistics.median(took), 4),
    }


# The campaign

CASES = {
    "idle associations": lambda: idle(),
    "a flood, limits raised": lambda: flooded(60, RAISED, "127.0.0.1"),
    "a flood from elsewhere, limits as they come": lambda: flooded(60, AS_IT_COMES, ELSEWHERE),
    "connect and reject": lambda: rejects(),
    "slow HTTP": lambda: slow_http(),
}


def cases():
    return list(CASES)


def run(case):
    return CASES[case]()


def lines(results):
    idle, raised, elsewhere, reject, slow = (results[case] for case in CASES)
    return [
        Line(
            f"{idle['associations']:,} idle associations at ≤ 64 KiB each",
            f"{idle['bytes_each'] / 1024:.1f} KiB each, over {idle['seconds']} s",
            idle["bytes_each"] <= 64 << 10,
        ),
        Line(
            "C-ECHO meanwhile: p99 ≤ 50 ms",
            f"{idle['echo_p99'] * 1000:.1f} ms of {idle['echoes']:,}",
            idle["echo_p99"] <= 0.05,
        ),
        flood_line("limits raised, same address as the sender's", raised),
        flood_line("limits as they come, from another address", elsewhere),
        Line(
            f"{reject['cycles']:,} connections rejected: memory grows < 2 MiB after the first {reject['settled']:,}",
            f"{reject['growth'] / MIB:.2f} MiB, at {max(reject['resident']) / MIB:.0f} MiB",
            reject["growth"] < 2 * MIB,
        ),
        Line(
            f"{slow['clients']} clients at a byte a second are ended (408, or closed): headers 5 s, bodies 8 s set",
            f"headers by {slow['headers_closed_by']} s, bodies by {slow['bodies_closed_by']} s",
            slow["headers_closed_by"] <= 10 and slow["bodies_closed_by"] <= 16,
        ),
        Line(
            "a good HTTP client meanwhile: everything answered, p99 ≤ 1 s",
            f"p99 {slow['request_p99'] * 1000:.0f} ms of {slow['requests']} requests",
            slow["request_p99"] <= 1,
        ),
    ]


def flood_line(how, figures):
    worst = max(figures["store_p99"], figures["associate_p99"])
    return Line(
        f"a flood of 500 connections a second for {figures['seconds']} s, {how}: a good sender gets through, p99 ≤ 1 s",
        f"{figures['per_second']} a second; {figures['stored']:,} of {figures['stored']:,} stored, "
        f"p99 {worst * 1000:.0f} ms (C-STORE {figures['store_p99'] * 1000:.0f} ms)",
        worst <= 1 and figures["per_second"] >= 490,
    )
