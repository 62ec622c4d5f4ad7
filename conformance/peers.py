"""Archives that the node delivers to, scriptable: they can be slow, hang, abort mid-object, refuse, be full, or lie.

`Archive` speaks through pynetdicom; what it received is kept as the raw bytes that came, never re-encoded.
`RawAcceptor` runs a script over one raw connection, for what no library would do.
"""

import io
import queue
import socket
import threading
from dataclasses import dataclass, field

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context, build_role
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

import pdu
from instances import file_meta, sha256

_config.LOG_HANDLER_LEVEL = "none"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


@dataclass
class Received:
    """One C-STORE (or STOW part) as it came."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    sha256: str
    size: int
    calling: str = ""
    originator: tuple = (None, None)
    data_set: bytes = field(default=b"", repr=False)
    study: str = ""
    series: str = ""


def identifiers(event):
    """Study and Series Instance UID of a C-STORE event's data set, empty when it can't be read."""
    try:
        data_set = event.dataset
        return str(data_set.get("StudyInstanceUID", "")), str(data_set.get("SeriesInstanceUID", ""))
    except Exception:  # noqa: BLE001 - whatever pydicom makes of a damaged data set
        return "", ""


def file_of(one):
    """A Part 10 file of what was received."""
    return file_meta(one.sop_class, one.sop_instance, one.transfer_syntax) + one.data_set


def as_list(value):
    return [value] if isinstance(value, str) else list(value)


class Archive:
    """A C-STORE SCP with storage commitment, C-FIND and, where wanted, C-GET.

    Behaviour is changed while it runs by assignment:
      store_status     answer to C-STORE (0x0000; 0xA700 is full), or a function of the Received
      drop             acknowledge and forget: a function of the Received that says which
      hang             an Event: C-STORE isn't answered before it is set
      abort_after      abort when so many bytes of P-DATA came on an association
      reject           (result, source, diagnostic): refuse associations
      commitment       "same" | "new" association for the report, or "never"; None: context not supported
      keeps_first      acknowledge and forget what comes under a UID that is held, as Orthanc does
      find_status      answer to C-FIND instead of the truth
      get_status       answer to C-GET instead of the object
      commitment_fails a function of the UID: FailureReason, or None when it is committed
    """

    def __init__(
        self,
        ae_title="ARCHIVE",
        port=0,
        keep=False,
        commitment="same",
        callback=None,
        abstract=None,
        find=True,
        get=False,
    ):
        self.ae_title, self.keep, self.callback = ae_title, keep, callback
        self.received, self.forgotten, self.transactions = [], [], []
        self.report_answers, self.queries, self.gets = [], [], []
        self.find, self.get, self.keeps_first = find, get, False
        self.find_status = self.get_status = None
        self.associations = self.arrived = 0
        self.store_status, self.reject, self.abort_after = 0x0000, None, None
        self.drop = self.commitment_fails = lambda _: None
        self.hang = None
        self.commitment = commitment
        self.lock = threading.Lock()
        self.reports = queue.Queue()
        self.abstract = abstract
        self.server = None
        self.port = port
        self.start()

    def start(self):
        """Listens, on the same port as before."""
        application = AE(self.ae_title)
        application.maximum_associations = 64
        application.network_timeout = 60
        classes = self.abstract or [context.abstract_syntax for context in AllStoragePresentationContexts]
        for uid in classes:
            application.add_supported_context(uid, AllTransferSyntaxes, scu_role=True, scp_role=True)
        application.add_supported_context(Verification)
        if self.find:
            application.add_supported_context(PatientRootQueryRetrieveInformationModelFind)
            application.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if self.get:
            application.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        if self.commitment is not None:
            application.add_supported_context(StorageCommitmentPushModel)
        handlers = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_DATA_RECV, self._data),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_C_ECHO, lambda event: 0),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
        ]
        self.server = application.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self._report_all, args=(self.reports,), daemon=True).start()
        return self

    def stop(self):
        """As a killed process: the listener closes, associations break off."""
        if self.server is None:
            return
        for association in self.server.active_associations:
            association.abort()
        self.server.shutdown()
        self.server = None
        self.reports.put(None)
        self.reports = queue.Queue()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.hang is not None:
            self.hang.set()
        self.stop()

    def destination(self, name="archive", **changes):
        """The `[[destinations]]` entry that leads here."""
        return {
            "name": name,
            "kind": "dimse",
            "ae_title": self.ae_title,
            "host": "127.0.0.1",
            "port": self.port,
            "verify": "commitment",
            "timeout": "5s",
            **changes,
        }

    def uids(self):
        """What it holds: SHA-256 by SOP Instance UID."""
        with self.lock:
            return {one.sop_instance: one.sha256 for one in self.received}

    def hold(self, one):
        """Holds this instance as if another sender had brought it."""
        with self.lock:
            self.received.append(
                Received(
                    one.sop_class,
                    one.sop_instance,
                    one.transfer_syntax,
                    one.sha256,
                    len(one.data_set),
                    data_set=one.data_set,
                    study=one.study,
                    series=one.series,
                )
            )

    # Handlers

    def _requested(self, event):
        if self.reject:
            event.assoc.acse.send_reject(*self.reject)
            event.assoc.kill()

    def _accepted(self, event):
        self.associations += 1
        event.assoc.bytes_seen = 0

    def _data(self, event):
        seen = getattr(event.assoc, "bytes_seen", None)
        if seen is None or self.abort_after is None or event.data[0] != pdu.P_DATA_TF:
            return
        event.assoc.bytes_seen = seen + len(event.data)
        if event.assoc.bytes_seen > self.abort_after:
            event.assoc.abort()

    def _store(self, event):
        request = event.request
        data = request.DataSet.getvalue()
        one = Received(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            sha256(data),
            len(data),
            event.assoc.requestor.ae_title.strip(),
            (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID),
            data if self.keep else b"",
            *identifiers(event),
        )
        self.arrived += 1
        if self.hang is not None:
            self.hang.wait(120)
        status = self.store_status(one) if callable(self.store_status) else self.store_status
        if status >> 12 in (0x0, 0xB) and status in (0, 0xB000, 0xB006, 0xB007):
            with self.lock:
                known = self.keeps_first and any(held.sop_instance == one.sop_instance for held in self.received)
                (self.forgotten if known or self.drop(one) else self.received).append(one)
        return status

    def _get(self, event):
        """Sends the one instance that is asked for, in the transfer syntax that it has."""
        wanted = str(event.identifier.SOPInstanceUID)
        self.gets.append(wanted)
        with self.lock:
            held = [one for one in self.received if one.sop_instance == wanted]
        if self.get_status is not None:
            yield 0
            yield self.get_status, None
            return
        yield len(held[:1])
        for one in held[:1]:
            yield 0xFF00, dcmread(io.BytesIO(file_of(one)))

    def _find(self, event):
        """Answers by the unique keys alone, as far as they are given."""
        asked = event.identifier
        self.queries.append(asked)
        if self.find_status is not None:
            yield self.find_status, None
            return
        wanted = {
            "study": asked.get("StudyInstanceUID"),
            "series": asked.get("SeriesInstanceUID"),
            "sop_instance": asked.get("SOPInstanceUID"),
        }
        with self.lock:
            held = list(self.received)
        for one in held:
            if all(not value or getattr(one, name) in as_list(value) for name, value in wanted.items()):
                match = Dataset()
                match.QueryRetrieveLevel = asked.QueryRetrieveLevel
                match.SOPClassUID, match.SOPInstanceUID = one.sop_class, one.sop_instance
                match.StudyInstanceUID, match.SeriesInstanceUID = one.study, one.series
                yield 0xFF00, match
        yield 0x0000, None

    def _action(self, event):
        information = event.action_information
        references = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        ]
        transaction = (str(information.TransactionUID), references)
        self.transactions.append(transaction)
        if self.commitment in ("same", "new"):
            self.reports.put((event.assoc, self.commitment, transaction))
        return 0x0000, None

    # Reports (PS3.4 §J.3.3)

    def report(self, transaction):
        """The event's type and information for a transaction."""
        transaction_uid, references = transaction
        held = self.uids()
        done, failed = [], []
        for sop_class, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            reason = self.commitment_fails(uid) or (None if uid in held else 0x0112)
            if reason is None:
                done.append(item)
            else:
                item.FailureReason = reason
                failed.append(item)
        information = Dataset()
        information.TransactionUID = transaction_uid
        if done:
            information.ReferencedSOPSequence = done
        if failed:
            information.FailedSOPSequence = failed
        return (2 if failed else 1), information

    def send_report(self, transaction, association=None, ae_title="RELAYPACS"):
        """Reports on this association, or on a new one to `callback`; returns the status of the answer."""
        kind, information = self.report(transaction)
        own = association is None
        if own:
            application = AE(self.ae_title)
            application.add_requested_context(StorageCommitmentPushModel)
            role = build_role(StorageCommitmentPushModel, scp_role=True)
            association = application.associate(*self.callback, ae_title=ae_title, ext_neg=[role])
            if not association.is_established:
                return None
        try:
            status, _ = association.send_n_event_report(
                information, kind, StorageCommitmentPushModel, COMMITMENT_INSTANCE
            )
            return status.get("Status")
        finally:
            if own:
                association.release()

    def _report_all(self, reports):
        while (entry := reports.get()) is not None:
            association, way, transaction = entry
            try:
                answer = self.send_report(transaction, association if way == "same" else None)
            except (RuntimeError, ValueError):
                answer = None
            self.report_answers.append((transaction[0], answer))
            if answer is None and self.callback and way == "same":
                # The association is gone: the report goes out on a new one.
                reports.put((None, "new", transaction))


class Acceptor(pdu.RawAssociation):
    """The accepting end of one raw connection."""

    def __init__(self, connection, timeout=10.0):
        self.socket, self.timeout, self.accepted, self.peer_maximum = connection, timeout, None, 16384
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def accept(self, maximum=16384, result=0):
        """Accepts every proposed context with its first transfer syntax; returns {id: (abstract, syntax)}."""
        kind, body = self.receive()
        assert kind == pdu.A_ASSOCIATE_RQ
        self.request, contexts, answers = body, {}, b""
        for item_kind, value in pdu.items(body[68:]):
            if item_kind == 0x20:
                subs = pdu.items(value[4:])
                abstract = next(sub for sub_kind, sub in subs if sub_kind == 0x30)
                syntax = next(sub for sub_kind, sub in subs if sub_kind == 0x40)
                contexts[value[0]] = (abstract.decode().rstrip("\0 "), syntax.decode().rstrip("\0 "))
                answers += pdu.item(0x21, bytes([value[0], 0, result, 0]) + pdu.item(0x40, syntax))
            elif item_kind == 0x50:
                self.user = pdu.items(value)
        user = pdu.item(0x50, pdu.max_length(maximum) + pdu.implementation())
        application = pdu.item(0x10, pdu.APPLICATION_CONTEXT.encode())
        self.send(pdu.pdu(pdu.A_ASSOCIATE_AC, body[:68] + application + answers + user))
        return contexts

    def answer_echo(self, context_id=1, message_id=1):
        self.send_command(
            context_id,
            pdu.command(
                AffectedSOPClassUID=pdu.VERIFICATION,
                CommandField=pdu.C_ECHO_RSP,
                Status=0,
                MessageIDBeingRespondedTo=message_id,
                CommandDataSetType=pdu.NO_DATA_SET,
            ),
        )

    def answer_store(self, message, status=0):
        self.send_command(
            message.context_id,
            pdu.command(
                AffectedSOPClassUID=message.command["AffectedSOPClassUID"],
                AffectedSOPInstanceUID=message.command["AffectedSOPInstanceUID"],
                CommandField=pdu.C_STORE_RSP,
                Status=status,
                MessageIDBeingRespondedTo=message.command["MessageID"],
                CommandDataSetType=pdu.NO_DATA_SET,
            ),
        )


class RawAcceptor:
    """Runs `script(Acceptor)` over each connection, in a thread of its own; its errors surface in `join`."""

    def __init__(self, script):
        self.script, self.errors, self.threads = script, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _run(self, connection):
        with Acceptor(connection) as acceptor:
            try:
                self.script(acceptor)
            except pdu.Closed:
                pass
            except Exception as error:  # noqa: BLE001 - handed to the test's own thread
                self.errors.append(error)

    def join(self, seconds=15):
        for thread in self.threads:
            thread.join(seconds)
        if self.errors:
            raise self.errors[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


__all__ = ["Acceptor", "Archive", "RawAcceptor", "Received", "build_context"]
