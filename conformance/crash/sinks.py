"""Archives that are fast and remember what came, each in a process of its own: by DIMSE on raw sockets, by STOW-RS.

They answer what the node asks for proof: storage commitment and C-FIND, or QIDO-RS. `Sink` is our handle of one.
"""

import collections
import contextlib
import io
import multiprocessing
import re
import socket
import threading
import time

from pydicom import dcmread
from pydicom.dataset import Dataset

import pdu
from instances import encode, explicit_element, file_meta, sha256, split_part10
from peers import Acceptor, Received
from web_sink import WebSink

FORK = multiprocessing.get_context("fork")
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
STUDY, SERIES = 0x0020000D, 0x0020000E


def explicit_uids(data, *wanted):
    """UIDs of a data set in Explicit VR Little Endian, without nested ones: short of a parser, which costs more than
    all else here."""
    found, at = {}, 0
    while len(found) < len(wanted) and at + 8 <= len(data):
        tag = int.from_bytes(data[at : at + 2], "little") << 16 | int.from_bytes(data[at + 2 : at + 4], "little")
        if data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            break
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        if tag in wanted:
            found[tag] = data[at + 8 : at + 8 + length].decode().rstrip("\0")
        at += 8 + length
    return [found.get(tag, "") for tag in wanted]


class Remembers:
    """What came: SHA-256 and how often, by UID."""

    def remember(self, uid, digest):
        """With the lock."""
        self.arrivals[uid] += 1
        self.held[uid] = digest

    def uids(self):
        with self.lock:
            return dict(self.held)

    def times(self):
        with self.lock:
            return dict(self.arrivals)

    def count(self):
        return len(self.held)


class DimseArchive(Remembers):
    """C-STORE, C-FIND and storage commitment, a thread for each association. `pause` lies before each C-STORE-RSP:
    it makes a rate that does not depend on what else this machine does."""

    def __init__(self, pause=0.0):
        self.pause, self.series = pause, collections.defaultdict(list)
        self.held, self.arrivals = {}, collections.Counter()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        answers = {
            pdu.C_ECHO_RQ: self.echo,
            pdu.C_STORE_RQ: self.store,
            pdu.C_FIND_RQ: self.find,
            pdu.N_ACTION_RQ: self.commit,
        }
        with Acceptor(connection, timeout=120) as acceptor, contextlib.suppress(pdu.Closed, OSError):
            contexts = acceptor.accept(maximum=1 << 17)
            try:
                while True:
                    message = acceptor.receive_message()
                    answers[message.command["CommandField"]](acceptor, message, contexts[message.context_id][1])
            except AssertionError:
                # A-RELEASE-RQ, for the most part: whoever aborts does not wait for this.
                acceptor.send(pdu.release_rp())

    @staticmethod
    def echo(acceptor, message, _):
        acceptor.answer_echo(message.context_id, message.command["MessageID"])

    def store(self, acceptor, message, _):
        uid, data = message.command["AffectedSOPInstanceUID"], message.data_set
        study, series = explicit_uids(data, STUDY, SERIES)
        with self.lock:
            if uid not in self.held:
                self.series[study, series].append(uid)
            self.remember(uid, sha256(data))
        if self.pause:
            time.sleep(self.pause)
        acceptor.answer_store(message)

    def find(self, acceptor, message, syntax):
        """By study, series and a list of instances (PS3.4 §C.2.2.2.2), all instances of the series without one."""
        asked = read(message.data_set, syntax)
        study, series = str(asked.StudyInstanceUID), str(asked.SeriesInstanceUID)
        wanted = asked.SOPInstanceUID or []
        wanted = {wanted} if isinstance(wanted, str) else set(wanted)
        with self.lock:
            found = [uid for uid in self.series[study, series] if not wanted or uid in wanted]
        for uid in found:
            match = explicit_element(0x00080018, b"UI", padded(uid)) + explicit_element(0x00080052, b"CS", b"IMAGE ")
            match += explicit_element(STUDY, b"UI", padded(study)) + explicit_element(SERIES, b"UI", padded(series))
            acceptor.send_command(message.context_id, self.find_response(message, 0xFF00, 1))
            acceptor.send_data_set(message.context_id, match)
        acceptor.send_command(message.context_id, self.find_response(message, 0, pdu.NO_DATA_SET))

    @staticmethod
    def find_response(message, status, data_set_type):
        return pdu.command(
            AffectedSOPClassUID=message.command["AffectedSOPClassUID"],
            CommandField=pdu.C_FIND_RSP,
            MessageIDBeingRespondedTo=message.command["MessageID"],
            CommandDataSetType=data_set_type,
            Status=status,
        )

    def commit(self, acceptor, message, syntax):
        """Says yes and reports at once, on the same association (PS3.4 §J.3.3)."""
        sop_class = message.command["RequestedSOPClassUID"]
        acceptor.send_command(
            message.context_id,
            pdu.command(
                AffectedSOPClassUID=sop_class,
                CommandField=pdu.N_ACTION_RSP,
                MessageIDBeingRespondedTo=message.command["MessageID"],
                CommandDataSetType=pdu.NO_DATA_SET,
                Status=0,
                AffectedSOPInstanceUID=COMMITMENT_INSTANCE,
                ActionTypeID=1,
            ),
        )
        information, has_failures = self.report(read(message.data_set, syntax))
        acceptor.send_command(
            message.context_id,
            pdu.command(
                AffectedSOPClassUID=sop_class,
                CommandField=pdu.N_EVENT_REPORT_RQ,
                MessageID=1,
                CommandDataSetType=1,
                AffectedSOPInstanceUID=COMMITMENT_INSTANCE,
                EventTypeID=2 if has_failures else 1,
            ),
        )
        acceptor.send_data_set(message.context_id, encode(information, syntax))
        acceptor.receive_message()

    def report(self, asked):
        report, done, failed = Dataset(), [], []
        report.TransactionUID = asked.TransactionUID
        for reference in asked.ReferencedSOPSequence:
            if reference.ReferencedSOPInstanceUID in self.held:
                done.append(reference)
            else:
                # No such object instance.
                reference.FailureReason = 0x0112
                failed.append(reference)
        if done:
            report.ReferencedSOPSequence = done
        if failed:
            report.FailedSOPSequence = failed
        return report, bool(failed)

    def slower(self):
        self.pause *= 40

    def faster(self):
        self.pause /= 40

    def hurry(self):
        self.pause = 0


class WebArchive(Remembers, WebSink):
    """Counts how often each object came, and finds it by its series."""

    def __init__(self):
        self.held, self.arrivals = {}, collections.Counter()
        self.series = collections.defaultdict(dict)
        super().__init__()
        # Requests that break off are what is tried here.
        self.server.handle_error = lambda *_: None

    def received_from(self, file):
        meta, data = split_part10(file)
        sop_class, uid, syntax = (meta[number].decode().rstrip("\0") for number in (2, 3, 0x10))
        one = Received(sop_class, uid, syntax, sha256(data), len(data))
        one.study, one.series = explicit_uids(data, STUDY, SERIES)
        with self.lock:
            self.remember(uid, one.sha256)
            self.series[one.series][uid] = one
        return one

    def candidates(self, path):
        series = re.search(r"/series/([\d.]+)", path)
        return list(self.series[series.group(1)].values()) if series else self.received


def padded(uid):
    return uid.encode() + b"\0" * (len(uid) % 2)


def read(data, syntax):
    """The data set of a message."""
    return dcmread(io.BytesIO(file_meta("1.2", "1.2", syntax) + data))


class Sink:
    """An archive in a process of its own."""

    def __init__(self, archive, **options):
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=self.run, args=(archive, options, theirs), daemon=True)
        self.process.start()
        self.port = self.pipe.recv()

    @staticmethod
    def run(archive, options, pipe):
        running = archive(**options)
        pipe.send(running.port)
        with contextlib.suppress(EOFError):
            while True:
                pipe.send(getattr(running, pipe.recv())())

    def ask(self, what):
        self.pipe.send(what)
        return self.pipe.recv()

    def uids(self):
        """SHA-256 of what it holds, by UID."""
        return self.ask("uids")

    def times(self):
        """How often each object came whole."""
        return self.ask("times")

    def count(self):
        return self.ask("count")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
