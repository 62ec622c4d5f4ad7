"""What lies between the node and its archives fails in every way that networks know, and archives die or flap.

Everything arrives all the same, once as a rule, with the bytes that were sent; and who is well is not slowed down by
who is not.
"""

import collections
import contextlib
import statistics
import threading
import time

from crash.campaign import Line
from crash.proxy import BLACK_HOLE, KINDS, UP, Flapping, Proxy, schedule
from crash.senders import StoreSender, Template
from crash.sinks import DimseArchive, Sink, WebArchive
from subject import RelayPacs
from waiting import wait_until

TITLE = "The way to the archives fails"
MANY = 20_000
# Most are small: what is tried are ends of connections, not bytes.
SIZES = [300] * 8 + [3_000, 25_000]


class Feeder(StoreSender):
    """Sends so many objects on one association; never further `ahead` of `arrived` than that."""

    def __init__(self, node, templates, count=None, ahead=None):
        super().__init__(node, None, templates, threading.Event())
        self.count, self.ahead, self.arrived = count, ahead, 0

    def acknowledge(self, one):
        self.acknowledged += 1
        if self.acknowledged == self.count:
            self.stopping.set()
        while self.ahead and self.acknowledged > self.arrived + self.ahead and not self.stopping.is_set():
            self.stopping.wait(0.05)

    def run(self):
        try:
            self.session()
        except Exception as error:  # noqa: BLE001 - reported by `sent`
            self.error = error

    def sent(self):
        """Waits for its end; SHA-256 by UID."""
        self.join(600)
        if self.error:
            raise self.error
        return self.offered


def dimse(name, port, **changes):
    return {
        "name": name,
        "kind": "dimse",
        "ae_title": "ARCHIVE",
        "host": "127.0.0.1",
        "port": port,
        "verify": "commitment",
        **changes,
    }


def stow(name, port, **changes):
    url = f"http://127.0.0.1:{port}/dicom-web"
    return {"name": name, "kind": "stow", "url": url, "verify": "query", **changes}


@contextlib.contextmanager
def started(*destinations):
    config = {"destinations": list(destinations), "telemetry": {"log_filter": "error"}}
    node = RelayPacs(config, database="sqlite")
    try:
        yield node.start()
        assert not node.died(), f"the node ended with {node.process.returncode}:\n{node.log_tail()}"
    finally:
        node.remove()


# Faults on the way


DOORS = {"dimse": (dimse, DimseArchive), "stow": (stow, WebArchive)}
# A request by STOW-RS holds more than goes through a connection by C-STORE between two faults.
LONGEST = {"dimse": 150_000, "stow": 500_000}


def through_faults(kind, count=MANY, longest=None, seed=1, senders=4, seconds=900):
    """So many objects through a proxy that lets each kind of fault happen again and again."""
    destination, archive = DOORS[kind]
    templates = [Template(size) for size in SIZES for _ in range(count // 2000 + 1)]
    with Sink(archive) as sink, Proxy(sink.port, schedule(seed, longest or LONGEST[kind])) as proxy:
        there = destination("archive", proxy.port, timeout="3s", verify_deadline="15s")
        with started(there) as node:
            begun = time.monotonic()
            crew = [Feeder(node, templates, count // senders) for _ in range(senders)]
            for feeder in crew:
                feeder.start()
            sent = {uid: digest for feeder in crew for uid, digest in feeder.sent().items()}
            wait_verified(node, "archive", count, seconds)
            return {
                "objects": len(sent),
                "seconds": round(time.monotonic() - begun),
                "twice": compare(sink, sent),
                "connections": proxy.connections,
                "faults": {kind: proxy.struck[kind] for kind in KINDS},
            }


def wait_verified(node, name, count, seconds):
    wait_until(lambda: node.destination(name)["verified"] >= count, f"{name} has verified all", seconds, every=0.25)


def compare(sink, sent):
    """All that was sent is there with its bytes, and nothing else; how many came more than once."""
    held = sink.uids()
    missing = [uid for uid in sent if uid not in held]
    changed = [uid for uid in sent if uid in held and held[uid] != sent[uid]]
    assert not missing and not changed, f"verified, but {len(missing)} not there and {len(changed)} changed"
    assert set(held) == set(sent), "there is what was never sent"
    return sum(sink.times().values()) - len(held)


# Archives that are dead or flap, beside others that are well


class Beside:
    """Three destinations, two of them well, that always have something to do. The archives take a while for each
    object, so that a rate is what a lane makes of its two associations, and not what this machine has to spare."""

    PAUSE, BACKLOG = 0.025, 300
    WELL = ("one", "two")

    def __init__(self, stack):
        self.sinks = {name: stack.enter_context(Sink(DimseArchive, pause=self.PAUSE)) for name in (*self.WELL, "ill")}
        self.proxy = stack.enter_context(Proxy(self.sinks["ill"].port))
        ports = {name: sink.port for name, sink in self.sinks.items()} | {"ill": self.proxy.port}
        there = [dimse(name, port, timeout="3s", verify_deadline="15s") for name, port in ports.items()]
        self.node = stack.enter_context(started(*there))
        self.feeder = Feeder(self.node, [Template(300) for _ in range(50)], ahead=self.BACKLOG)
        self.feeder.start()
        stack.callback(self.feeder.stopping.set)
        self.watch(lambda: self.feeder.acknowledged >= self.BACKLOG, 30)

    def watch(self, over, seconds):
        """Lets the feeder go on, until it is `over` or so many seconds have passed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not over():
            self.feeder.arrived = min(self.sinks[name].count() for name in self.WELL)
            assert self.feeder.error is None, self.feeder.error
            time.sleep(0.05)

    def rate(self, names, seconds):
        """Objects a second that arrive there."""
        before, begun = sum(self.sinks[name].count() for name in names), time.monotonic()
        self.watch(lambda: False, seconds)
        return (sum(self.sinks[name].count() for name in names) - before) / (time.monotonic() - begun)

    def backlog(self):
        return self.feeder.acknowledged - self.sinks["ill"].count()

    def rounds(self, well, ill, seconds, least, most):
        """Rates of those that are well, in turns without and with an ill one beside them; more turns where the
        machine's noise hides the ratio."""
        rates = {well: [], ill: []}
        while len(rates[ill]) < least or (ratio(rates[well], rates[ill]) < ASKED and len(rates[ill]) < most):
            # In turns, too, which comes first: what drifts is in neither's favour.
            for state in (well, ill) if len(rates[ill]) % 2 else (ill, well):
                with state(self):
                    # What was under way has come to its end.
                    self.watch(lambda: False, 1)
                    rates[state].append(self.rate(self.WELL, seconds))
        return {
            "rounds": len(rates[ill]),
            "well": round(statistics.median(rates[well])),
            "beside": round(statistics.median(rates[ill])),
            "ratio": round(ratio(rates[well], rates[ill]), 3),
            "rates": [[round(rate) for rate in rates[state]] for state in (well, ill)],
        }

    def recover(self):
        """The ill one is well, and the node is told so: how long it would wait by itself is a matter of chance."""
        self.proxy.switch(UP)
        self.node.run("destination", "resume", "ill")
        self.node.run("destination", "echo", "ill")

    def finish(self, seconds=300):
        """All of it arrives and is verified everywhere."""
        self.recover()
        self.feeder.stopping.set()
        sent = self.feeder.sent()
        self.sinks["ill"].ask("hurry")
        for name, sink in self.sinks.items():
            wait_verified(self.node, name, len(sent), seconds)
            compare(sink, sent)
        return len(sent)


ASKED = 0.95


def ratio(well, ill):
    """The median over rounds, so that what else the machine did then counts on both sides."""
    return statistics.median(one / other for one, other in zip(ill, well))


@contextlib.contextmanager
def left_alone(beside):
    beside.node.run("destination", "pause", "ill")
    yield


@contextlib.contextmanager
def dead(beside):
    """Its connections are taken, and nothing is ever answered."""
    beside.proxy.switch(BLACK_HOLE)
    beside.node.run("destination", "resume", "ill")
    yield


@contextlib.contextmanager
def up(beside):
    beside.recover()
    yield


def one_dead(seconds=8, least=5, most=15, ill=dead):
    with contextlib.ExitStack() as stack:
        beside = Beside(stack)
        figures = beside.rounds(left_alone, ill, seconds, least, most)
        return figures | {"objects": beside.finish()}


def one_flapping(turn=5.0, seconds=10, least=5, most=12, drain=60):
    """Besides the ratio: how fast its own backlog goes, while it flaps and once it stays up."""

    @contextlib.contextmanager
    def flapping(beside):
        with Flapping(beside.proxy, turn):
            yield

    with contextlib.ExitStack() as stack:
        beside = Beside(stack)
        figures = beside.rounds(up, flapping, seconds, least, most)
        beside.feeder.stopping.set()
        with up(beside):
            line_rate = beside.rate(["ill"], seconds / 2)
        backlog = beside.backlog()
        with Flapping(beside.proxy, turn) as flaps:
            beside.watch(lambda: beside.backlog() == 0, drain)
        drained = backlog - beside.backlog()
        figures |= {
            "backlog": backlog,
            "line_rate": round(line_rate),
            "drained_while_flapping": drained,
            "rate_while_up": round(drained / flaps.up_seconds),
        }
        return figures | {"objects": beside.finish()}


# The campaign

CASES = {
    "C-STORE through faults": lambda: through_faults("dimse"),
    "STOW-RS through faults": lambda: through_faults("stow"),
    "one of three is dead": lambda: one_dead(),
    "one of three flaps": lambda: one_flapping(),
}


def cases():
    return list(CASES)


def run(case):
    return CASES[case]()


def lines(results):
    by_store, by_stow, dead, flapping = (results[case] for case in CASES)
    return [
        *fault_lines("C-STORE and storage commitment", by_store),
        *fault_lines("STOW-RS and QIDO-RS", by_stow),
        Line(
            f"one of three destinations is dead: the others keep ≥ {ASKED:.0%} of the rate they have without it",
            beside_line(dead),
            dead["ratio"] >= ASKED,
        ),
        Line(
            f"one of three flaps, 5 s down and 5 s up: the others keep ≥ {ASKED:.0%} of the rate they have beside it",
            beside_line(flapping),
            flapping["ratio"] >= ASKED,
        ),
        Line(
            "its backlog goes down while it flaps, and is gone once it stays up",
            f"{flapping['drained_while_flapping']:,} of {flapping['backlog']:,} while it flapped, at "
            f"{flapping['rate_while_up']} a second of the time it was up ({flapping['line_rate']} where it stays up); "
            f"in the end all {flapping['objects']:,}",
            flapping["drained_while_flapping"] > 0,
        ),
    ]


def fault_lines(how, figures):
    faults = collections.Counter(figures["faults"])
    rarest = min(KINDS, key=lambda kind: faults[kind])
    allowed = figures["objects"] // 100
    return [
        Line(
            f"{MANY:,} objects by {how}, a proxy that fails in {len(KINDS)} ways: all there, verified, by SHA-256",
            f"{figures['objects']:,} of {figures['objects']:,} in {figures['seconds']} s, through {faults.total()} faults "
            f"on {figures['connections']} connections (rarest: {rarest}, {faults[rarest]})",
            figures["objects"] >= MANY and faults[rarest] >= 3,
        ),
        Line("sent twice: at most 1 %", f"{figures['twice']} of {figures['objects']:,}", figures["twice"] <= allowed),
    ]


def beside_line(figures):
    return (
        f"{figures['ratio']:.1%}, the median of {figures['rounds']} interleaved rounds "
        f"({figures['beside']} a second, {figures['well']} without)"
    )
