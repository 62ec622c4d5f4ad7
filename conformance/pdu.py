"""The upper layer by hand: PDUs and command sets as bytes, over a plain socket (PS3.8 §9, PS3.7 §6.3, §E).

Shares no code with the node or with pynetdicom, so that it can also send what neither would. `RawAssociation` is a
requestor whose every byte the test decides.
"""

import socket
import struct
from dataclasses import dataclass, field

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = 0x04, 0x05, 0x06, 0x07

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLEMENTATION_CLASS = "1.2.826.0.1.3680043.8.498.77"


class Closed(Exception):
    """The peer closed the connection (end of file or reset)."""


def pdu(kind, body):
    return struct.pack(">BBI", kind, 0, len(body)) + body


def item(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body


def text(uid):
    return uid if isinstance(uid, bytes) else uid.encode("ascii")


def presentation_context(context_id, abstract, transfer_syntaxes):
    """A proposed context (PS3.8 §9.3.2.2)."""
    body = bytes([context_id, 0, 0, 0]) + item(0x30, text(abstract))
    return item(0x20, body + b"".join(item(0x40, text(uid)) for uid in transfer_syntaxes))


def max_length(value):
    return item(0x51, struct.pack(">I", value))


def implementation(uid=IMPLEMENTATION_CLASS, version="RAW_PDU"):
    return item(0x52, text(uid)) + item(0x55, text(version))


def async_window(invoked, performed):
    return item(0x53, struct.pack(">HH", invoked, performed))


def role_selection(uid, scu, scp):
    return item(0x54, struct.pack(">H", len(uid)) + text(uid) + bytes([scu, scp]))


def extended_negotiation(uid, information):
    return item(0x56, struct.pack(">H", len(uid)) + text(uid) + information)


def common_extended_negotiation(uid, service_class, related=()):
    related = b"".join(struct.pack(">H", len(other)) + text(other) for other in related)
    return item(
        0x57,
        struct.pack(">H", len(uid))
        + text(uid)
        + struct.pack(">H", len(service_class))
        + text(service_class)
        + struct.pack(">H", len(related))
        + related,
    )


def user_identity(kind, primary, secondary=b"", positive_response=False):
    return item(
        0x58,
        bytes([kind, int(positive_response)])
        + struct.pack(">H", len(primary))
        + primary
        + struct.pack(">H", len(secondary))
        + secondary,
    )


def ae(title):
    title = title if isinstance(title, bytes) else title.encode("latin-1")
    return title.ljust(16)[:16]


def associate_rq(
    contexts,
    called="RELAYPACS",
    calling="RAW_PDU",
    version=1,
    application_context=APPLICATION_CONTEXT,
    maximum=16384,
    user_items=b"",
    extra_items=b"",
    reserved=bytes(32),
    reserved_2=b"\0\0",
):
    """An A-ASSOCIATE-RQ; `contexts` are (id, abstract syntax, transfer syntaxes) or ready bytes."""
    encoded = b"".join(entry if isinstance(entry, bytes) else presentation_context(*entry) for entry in contexts)
    fixed = struct.pack(">H", version) + reserved_2 + ae(called) + ae(calling) + reserved
    user = item(0x50, max_length(maximum) + implementation() + user_items)
    return pdu(A_ASSOCIATE_RQ, fixed + item(0x10, text(application_context)) + encoded + extra_items + user)


def abort(source=0, reason=0):
    return pdu(A_ABORT, bytes([0, 0, source, reason]))


def release_rq():
    return pdu(A_RELEASE_RQ, bytes(4))


def release_rp():
    return pdu(A_RELEASE_RP, bytes(4))


def pdv(context_id, control, fragment):
    return struct.pack(">IBB", len(fragment) + 2, context_id, control) + fragment


def p_data(*pdvs):
    return pdu(P_DATA_TF, b"".join(pdvs))


@dataclass
class Accepted:
    """What an A-ASSOCIATE-AC says. `contexts` maps an id to (result, transfer syntax)."""

    body: bytes
    contexts: list = field(default_factory=list)
    user: dict = field(default_factory=dict)
    application_context: str = ""

    @property
    def results(self):
        return dict((context_id, (result, syntax)) for context_id, result, syntax in self.contexts)

    @property
    def maximum(self):
        return struct.unpack(">I", self.user[0x51][0])[0]


def items(data):
    """Splits variable items; raises on one that runs past the end."""
    found, at = [], 0
    while at < len(data):
        kind, _, length = struct.unpack_from(">BBH", data, at)
        value = data[at + 4 : at + 4 + length]
        assert len(value) == length, "item runs past the end of its container"
        found.append((kind, value))
        at += 4 + length
    return found


def parse_accept(body):
    accepted = Accepted(body)
    for kind, value in items(body[68:]):
        if kind == 0x10:
            accepted.application_context = value.decode("ascii")
        elif kind == 0x21:
            syntaxes = [sub.decode("ascii").rstrip("\0 ") for sub_kind, sub in items(value[4:]) if sub_kind == 0x40]
            accepted.contexts.append((value[0], value[2], syntaxes))
        elif kind == 0x50:
            for sub_kind, sub in items(value):
                accepted.user.setdefault(sub_kind, []).append(sub)
    return accepted


# Command sets (PS3.7 §E.1): always Implicit VR Little Endian.

TAGS = {
    "CommandGroupLength": (0x0000, "UL"),
    "AffectedSOPClassUID": (0x0002, "UI"),
    "RequestedSOPClassUID": (0x0003, "UI"),
    "CommandField": (0x0100, "US"),
    "MessageID": (0x0110, "US"),
    "MessageIDBeingRespondedTo": (0x0120, "US"),
    "MoveDestination": (0x0600, "AE"),
    "Priority": (0x0700, "US"),
    "CommandDataSetType": (0x0800, "US"),
    "Status": (0x0900, "US"),
    "OffendingElement": (0x0901, "AT"),
    "ErrorComment": (0x0902, "LO"),
    "ErrorID": (0x0903, "US"),
    "AffectedSOPInstanceUID": (0x1000, "UI"),
    "RequestedSOPInstanceUID": (0x1001, "UI"),
    "EventTypeID": (0x1002, "US"),
    "ActionTypeID": (0x1008, "US"),
    "MoveOriginatorApplicationEntityTitle": (0x1030, "AE"),
    "MoveOriginatorMessageID": (0x1031, "US"),
}
NAMES = {element: (name, vr) for name, (element, vr) in TAGS.items()}

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP = 0x0100, 0x8100
N_ACTION_RQ, N_ACTION_RSP = 0x0130, 0x8130
NO_DATA_SET = 0x0101


def command_element(name, value):
    element, vr = TAGS[name]
    if isinstance(value, bytes):
        encoded = value
    elif vr == "US":
        encoded = struct.pack("<H", value)
    elif vr == "UL":
        encoded = struct.pack("<I", value)
    else:
        encoded = value.encode("latin-1")
    if len(encoded) % 2:
        encoded += b"\0" if vr == "UI" else b" "
    return struct.pack("<HHI", 0, element, len(encoded)) + encoded


def command(group_length=None, **fields):
    """A command set; `group_length=False` leaves (0000,0000) out, a number puts a wrong one in."""
    ordered = sorted(fields.items(), key=lambda pair: TAGS[pair[0]][0])
    body = b"".join(command_element(name, value) for name, value in ordered)
    if group_length is False:
        return body
    return command_element("CommandGroupLength", len(body) if group_length is None else group_length) + body


def parse_command(data):
    fields, at = {}, 0
    while at < len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        value = data[at + 8 : at + 8 + length]
        assert group == 0 and len(value) == length, "damaged command set"
        name, vr = NAMES.get(element, (f"0000{element:04x}", "UN"))
        if vr == "US":
            fields[name] = struct.unpack("<H", value)[0]
        elif vr == "UL":
            fields[name] = struct.unpack("<I", value)[0]
        elif vr in ("UI", "AE", "LO"):
            fields[name] = value.decode("latin-1").rstrip("\0 ")
        else:
            fields[name] = value
        at += 8 + length
    return fields


@dataclass
class Reply:
    """A DIMSE message that arrived: the context, the command set, the data set's bytes (None: there is none)."""

    context_id: int
    command: dict
    data_set: bytes | None
    pdu_lengths: list

    @property
    def status(self):
        return self.command["Status"]


class RawAssociation:
    """A TCP connection to an acceptor, with help to read and write PDUs on it."""

    def __init__(self, address, timeout=10.0):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.accepted = None
        self.peer_maximum = 16384

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        """Ends the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed() from error

    def send_bytewise(self, data):
        """One byte a TCP segment, as far as the system allows."""
        for index in range(len(data)):
            self.send(data[index : index + 1])

    def _exactly(self, count):
        parts = []
        while count:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except ConnectionResetError as error:
                raise Closed() from error
            if not part:
                raise Closed()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self, timeout=None):
        """The next PDU as (type, body). Closed when there is none; TimeoutError when nothing comes."""
        self.socket.settimeout(timeout or self.timeout)
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def associate(self, contexts, **options):
        """Sends an A-ASSOCIATE-RQ that must be accepted."""
        self.send(associate_rq(contexts, **options))
        kind, body = self.receive()
        assert kind == A_ASSOCIATE_AC, f"not accepted: PDU {kind:#x} {body.hex()}"
        self.accepted = parse_accept(body)
        self.peer_maximum = self.accepted.maximum or 0x20000
        return self.accepted

    def send_command(self, context_id, encoded):
        self.send(p_data(pdv(context_id, 0x03, encoded)))

    def send_data_set(self, context_id, data, fragment=None):
        """A data set in as many P-DATA as the peer's maximum asks for."""
        fragment = fragment or min(self.peer_maximum, 0x20000) - 6
        view = memoryview(data)
        out = []
        for at in range(0, max(len(data), 1), fragment):
            piece = view[at : at + fragment]
            last = 0x02 if at + fragment >= len(data) else 0x00
            out += [struct.pack(">BBIIBB", P_DATA_TF, 0, len(piece) + 6, len(piece) + 2, context_id, last), piece]
            if len(out) >= 64:
                self.send(b"".join(out))
                out = []
        self.send(b"".join(out))

    def receive_message(self, timeout=None):
        """The next whole DIMSE message."""
        parts, lengths, have = {0: [], 1: []}, [], None
        while True:
            kind, body = self.receive(timeout)
            assert kind == P_DATA_TF, f"PDU {kind:#x} {body[:16].hex()} instead of P-DATA"
            lengths.append(len(body))
            at = 0
            while at < len(body):
                length, context_id, control = struct.unpack_from(">IBB", body, at)
                parts[control & 1].append(body[at + 6 : at + 4 + length])
                at += 4 + length
                if control & 3 == 3:
                    have = parse_command(b"".join(parts[1]))
                    if have["CommandDataSetType"] == NO_DATA_SET:
                        return Reply(context_id, have, None, lengths)
                elif control & 3 == 2:
                    return Reply(context_id, have, b"".join(parts[0]), lengths)

    def echo(self, context_id=1, message_id=1):
        self.send_command(
            context_id,
            command(
                AffectedSOPClassUID=VERIFICATION,
                CommandField=C_ECHO_RQ,
                MessageID=message_id,
                CommandDataSetType=NO_DATA_SET,
            ),
        )
        return self.receive_message()

    def begin_store(self, context_id, sop_class, sop_instance, message_id=1, **fields):
        fields = {"Priority": 0, "CommandDataSetType": 0x0001} | fields
        self.send_command(
            context_id,
            command(
                AffectedSOPClassUID=sop_class,
                AffectedSOPInstanceUID=sop_instance,
                CommandField=C_STORE_RQ,
                MessageID=message_id,
                **fields,
            ),
        )

    def store(self, context_id, sop_class, sop_instance, data, message_id=1, timeout=None, **fields):
        self.begin_store(context_id, sop_class, sop_instance, message_id, **fields)
        self.send_data_set(context_id, data)
        return self.receive_message(timeout)

    def find(self, context_id, model, identifier, message_id=1):
        """All answers to a C-FIND, the final one last."""
        self.begin_find(context_id, model, identifier, message_id)
        replies = [self.receive_message()]
        while replies[-1].status in (0xFF00, 0xFF01):
            replies.append(self.receive_message())
        return replies

    def begin_find(self, context_id, model, identifier, message_id=1):
        self.send_command(
            context_id,
            command(
                AffectedSOPClassUID=model,
                CommandField=C_FIND_RQ,
                MessageID=message_id,
                Priority=0,
                CommandDataSetType=0x0001,
            ),
        )
        self.send_data_set(context_id, identifier)

    def cancel(self, context_id, message_id):
        self.send_command(
            context_id,
            command(CommandField=C_CANCEL_RQ, MessageIDBeingRespondedTo=message_id, CommandDataSetType=NO_DATA_SET),
        )

    def release(self):
        self.send(release_rq())
        kind, body = self.receive()
        assert kind == A_RELEASE_RP, f"PDU {kind:#x} instead of A-RELEASE-RP"
        self.close()

    def verdict(self, timeout=None):
        """How the peer ends it: ("reject", result, source, reason), ("abort", source, reason), ("closed",),
        ("accepted", Accepted) or ("silent",). Skips nothing: the first PDU decides."""
        try:
            kind, body = self.receive(timeout)
        except Closed:
            return ("closed",)
        except TimeoutError:
            return ("silent",)
        if kind == A_ASSOCIATE_RJ:
            return ("reject", body[1], body[2], body[3])
        if kind == A_ABORT:
            return ("abort", body[2], body[3])
        if kind == A_ASSOCIATE_AC:
            self.accepted = parse_accept(body)
            return ("accepted", self.accepted)
        return ("pdu", kind, body)

    def closed_within(self, seconds):
        """Whether the peer closes the connection in time (what it still sends is skipped)."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
