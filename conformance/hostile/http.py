"""C. DICOMweb, by HTTP that is wrong, endless, or clever."""

import gzip
import pathlib
import socket
import struct
import time

import clients
import instances
from clients import multipart, search, stow, wado
from hostile.case import Table
from instances import instance
from waiting import DeadlinePassed, wait_until

TABLE = Table()
STUDIES = "/dicom-web/studies"


def connect(node):
    connection = socket.create_connection(("127.0.0.1", node.http_port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(node, method="GET", path=STUDIES, **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: node", f"Authorization: Bearer {node.key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n"


def status_line(connection):
    """The status code that comes; "closed" without one, "silent" when nothing comes."""
    data = b""
    try:
        while b"\r\n" not in data:
            part = connection.recv(4096)
            if not part:
                return "closed"
            data += part
    except ConnectionResetError:
        return "closed"
    except TimeoutError:
        return "silent"
    return int(data.split(b" ", 2)[1])


def post(node, body, content_type, **headers):
    return node.http.post(
        node.dicomweb + "/studies",
        data=body,
        timeout=60,
        headers={"Content-Type": content_type, "Accept": "application/dicom+json"} | headers,
    ).status_code


RELATED = 'multipart/related; type="application/dicom"'


@TABLE.case(
    "C61",
    "no boundary, a giant one, a nested multipart",
    400,
    missing=RELATED,
    empty=RELATED + '; boundary=""',
    giant=RELATED + "; boundary=" + "x" * 8000,
)
def boundary(node, content_type):
    return post(node, multipart([instance().part10])[0], content_type)


@TABLE.case("C61b", "a megabyte of boundary", {400, 431})
def giant_boundary(node):
    with connect(node) as connection:
        try:
            connection.sendall(
                head(node, "POST", Content_Type=RELATED + "; boundary=" + "x" * (1 << 20), Content_Length=5)
                + b"\r\n--x--"
            )
        except ConnectionError:
            pass
        return status_line(connection)


@TABLE.case("C61c", "a multipart within the multipart", {400, 409, 415})
def nested_multipart(node):
    inner, inner_type = multipart([instance().part10])
    body, content_type = multipart([({"Content-Type": inner_type}, inner)])
    return post(node, body, content_type)


@TABLE.case("C62", "Content-Length 2^63", 413, **{"2_63": 2**63, "2_63_1": 2**63 - 1})
def giant_length(node, length):
    with connect(node) as connection:
        connection.sendall(
            head(node, "POST", Content_Type=RELATED + "; boundary=b", Content_Length=length) + b"\r\n--b\r\n"
        )
        return status_line(connection)


@TABLE.case("C63", "a chunked body without end", {413, "closed"})
def endless_body(node):
    with connect(node) as connection:
        connection.sendall(
            head(node, "POST", Content_Type=RELATED + "; boundary=b", Transfer_Encoding="chunked") + b"\r\n"
        )
        start = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + instance().part10
        connection.sendall(b"%x\r\n" % len(start) + start + b"\r\n")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            for _ in range(4096):
                connection.sendall(chunk)
        except (ConnectionError, TimeoutError):
            pass
        return status_line(connection)


@TABLE.case("C64", "a compressed body", 415)
def compressed(node):
    body, content_type = multipart([instance().part10])
    return post(node, gzip.compress(body), content_type, **{"Content-Encoding": "gzip"})


@TABLE.case("C65", "ten thousand parts, one of them bad", (202, 1))
def many_parts(node):
    good, bad = instance(pixel_bytes=32).part10, instance().part10[:-9]
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n"

    def parts():
        for number in range(10_000):
            yield body + (bad if number == 5_000 else good) + b"\r\n"
        yield b"--b--\r\n"

    response = node.http.post(
        node.dicomweb + "/studies",
        data=parts(),
        timeout=120,
        headers={"Content-Type": RELATED + "; boundary=b", "Accept": "application/dicom+json"},
    )
    answer = response.json()
    failures = answer.get("00081198", {}).get("Value", []) + answer.get("0008119A", {}).get("Value", [])
    return response.status_code, len(failures)


@TABLE.case("C65b", "all parts bad", 409)
def all_bad(node):
    return stow(node, [instance().part10[:-9] for _ in range(10)]).status_code


@TABLE.case("C66", "an object of another study than the path's", 409)
def other_study(node):
    return stow(node, [instance()], study=instances.new_uid()).status_code


@TABLE.case(
    "C67",
    "a bulk data URI that leads elsewhere",
    {409, 415},
    file="file:///etc/passwd",
    metadata="http://169.254.169.254/",
)
def bulk_data_uri(node, uri):
    metadata = '[{"7FE00010": {"vr": "OW", "BulkDataURI": "%s"}}]' % uri
    return stow(
        node, [({"Content-Type": "application/dicom+json"}, metadata.encode())], media_type="application/dicom+json"
    ).status_code


@TABLE.case("C68", "XML with a document type", {400, 409, 415})
def xxe(node):
    document = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><NativeDicomModel>&e;</NativeDicomModel>'
    response = stow(node, [({"Content-Type": "application/dicom+xml"}, document)], media_type="application/dicom+xml")
    assert b"root:" not in response.content
    return response.status_code


@TABLE.case(
    "C69",
    "JSON that is too deep or too large",
    {400, 409, 415},
    deep=b"[" * 10_000,
    number=b'[{"00280010": {"vr": "DS", "Value": [1e999]}}]',
)
def bad_json(node, document):
    return stow(
        node, [({"Content-Type": "application/dicom+json"}, document)], media_type="application/dicom+json"
    ).status_code


@TABLE.case("C51", "file meta with an impossible VR or length", 409, vr=b"\xff\xfe", length=b"UI\xff\xff")
def fuzzed_meta(node, bytes_):
    one = instance()
    file = bytearray(one.part10)
    at = file.index(b"\2\0\x10\0UI") + 4
    file[at : at + len(bytes_)] = bytes_
    return stow(node, [bytes(file)]).status_code


@TABLE.case("C51b", "file meta longer than the file", 409)
def long_meta(node):
    return stow(
        node, [bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 0xFFFFFFF0) + bytes(50)]
    ).status_code


@TABLE.case(
    "C51c", "a part that is empty, or only a preamble", 409, empty=b"", preamble=bytes(128), prefix=bytes(128) + b"DICM"
)
def no_file(node, part):
    return stow(node, [part]).status_code


@TABLE.case(
    "C70",
    "impossible pages",
    400,
    a="limit=1e12&offset=-1",
    b="limit=-1",
    c="limit=0x10",
    d="offset=1.5",
)
def pages(node, query):
    return search(node, f"/studies?{query}").status_code


@TABLE.case("C70b", "a huge page is clamped", 200, limit="limit=1000000000000", offset="offset=99999999999999999999999")
def huge_page(node, query):
    return search(node, f"/studies?{query}").status_code


@TABLE.case(
    "C71", "SQL in a query is only text", 200, quote="PatientName=' OR 1=1--", drop="PatientID=';DROP TABLE study;--"
)
def sql(node, query):
    response = search(node, "/studies?" + query)
    assert response.json() == []
    return response.status_code


@TABLE.case(
    "C71b", "an unknown attribute", 400, keyword="Nonsense=1", tag="12345678=1", include="includefield=Nonsense"
)
def unknown_attribute(node, query):
    return search(node, "/studies?" + query).status_code


@TABLE.case(
    "C72",
    "dots and NULs in the path",
    {400, 404},
    dots="/studies/%2e%2e%2f%2e%2e",
    nul="/studies/1.2%00",
    line="/studies/1.2%0d%0aX:1",
    raw="/studies/../../../etc/passwd",
)
def bad_path(node, path):
    with connect(node) as connection:
        connection.sendall(head(node, path="/dicom-web" + path) + b"Accept: */*\r\n\r\n")
        return status_line(connection)


@TABLE.case("C74", "a thousand overlapping ranges", {416, 200, 406})
def ranges(node):
    one = instance()
    clients.store_all(node, [one], calling="GOOD")
    clients.indexed(node, [one])
    many = ",".join(f"0-{n}" for n in range(1, 1001))
    return wado(
        node, one.path, accept="application/dicom; transfer-syntax=*, " + clients.ANY_DICOM, Range="bytes=" + many
    ).status_code


@TABLE.case("C75", "64 KiB of Accept", 431)
def giant_accept(node):
    with connect(node) as connection:
        try:
            connection.sendall(head(node, Accept="a/b," * 16_384) + b"\r\n")
        except ConnectionError:
            pass
        return status_line(connection)


@TABLE.case(
    "C77",
    "a request of ambiguous length",
    {400, "closed"},
    both="Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    twice="Content-Length: 5\r\nContent-Length: 6\r\n",
    list="Content-Length: 5, 6\r\n",
    sign="Content-Length: +5\r\n",
    obfuscated="Transfer-Encoding: xchunked\r\n",
    space="Content-Length : 5\r\n",
)
def ambiguous(node, lines):
    with connect(node) as connection:
        # With a smuggled second request behind it: it must not be answered.
        smuggled = b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(
            head(node, "POST", Content_Type=RELATED + "; boundary=b") + lines.encode() + b"\r\n" + smuggled
        )
        status = status_line(connection)
        connection.settimeout(3)
        rest = b""
        try:
            while part := connection.recv(4096):
                rest += part
        except (TimeoutError, ConnectionError):
            pass
        assert b"HTTP/1.1 200" not in rest, "the smuggled request was answered"
        return status


@TABLE.case(
    "C81",
    "a request that names no host, or two",
    {400},
    none="",
    two="Host: node\r\nHost: other\r\n",
)
def hosts(node, lines):
    with connect(node) as connection:
        request = f"GET {STUDIES} HTTP/1.1\r\nAuthorization: Bearer {node.key}\r\n{lines}\r\n"
        connection.sendall(request.encode())
        return status_line(connection)


@TABLE.case("C82", "a search for a control character", {400}, nul="%00", star="*%00", escape="%1B", line="%0A")
def control_characters(node, value):
    return search(node, f"/studies?PatientName={value}").status_code


@TABLE.case("C83", "a client that ends its side after a whole request", {200}, get=None, stow=instance)
def half_closed(node, make):
    request = head(node) + b"\r\n"
    if make:
        body, content_type = multipart([make().part10])
        request = head(node, "POST", Content_Type=content_type, Content_Length=len(body)) + b"\r\n" + body
    with connect(node) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return status_line(connection)


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


def h2_headers(node, path=b"/health/live"):
    """:method GET, :scheme http, :path by HPACK's static table and one literal."""
    return b"\x82\x86" + b"\x04" + bytes([len(path)]) + path + b"\x01\x04node"


@TABLE.case("C78", "HTTP/2 streams opened and reset, without end", "ended")
def rapid_reset(node):
    with connect(node) as connection:
        try:
            connection.sendall(PREFACE)
            for number in range(1, 20_001, 2):
                connection.sendall(frame(1, 5, number, h2_headers(node)) + frame(3, 0, number, struct.pack(">I", 8)))
        except ConnectionError:
            return "ended"
        return drained(connection)


@TABLE.case("C78c", "HTTP/2 answers that are given no window, and PINGs", "ended")
def no_window(node):
    initial_window_size = frame(4, 0, 0, struct.pack(">HI", 4, 0))
    with connect(node) as connection:
        connection.sendall(PREFACE + initial_window_size + frame(1, 5, 1, h2_headers(node, b"/unknown")))
        until = time.monotonic() + 20
        connection.settimeout(0.3)
        while time.monotonic() < until:
            try:
                connection.sendall(frame(6, 0, 0, bytes(8)))
                if not connection.recv(65536):
                    return "ended"
            except TimeoutError:
                continue
            except ConnectionError:
                return "ended"
        return "held"


@TABLE.case("C78b", "CONTINUATION frames without end", "ended")
def continuation(node):
    before = node.memory()
    with connect(node) as connection:
        try:
            connection.sendall(PREFACE + frame(1, 0, 1, h2_headers(node)))
            for _ in range(4000):
                connection.sendall(frame(9, 0, 1, b"\x00\x01x\x7f\x80\x7f" + b"y" * 16_000))
        except ConnectionError:
            return "ended"
        finally:
            assert node.memory() - before < 16 << 20
        return drained(connection)


def drained(connection):
    """ "ended" when the peer says GOAWAY, answers all, or closes."""
    connection.settimeout(5)
    try:
        while connection.recv(65536):
            pass
    except (TimeoutError, ConnectionError):
        pass
    return "ended"


@TABLE.case("C79", "headers that never end", {408, "closed"})
def slow_headers(node):
    with connect(node) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        until = time.monotonic() + 10
        connection.settimeout(0.3)
        while time.monotonic() < until:
            try:
                connection.sendall(b"X-A: b\r\n")
            except ConnectionError:
                return "closed"
            status = status_line(connection)
            if status != "silent":
                return status
        return "still reading"


@TABLE.case("C79b", "a body that stalls", {408, 400, "closed"})
def slow_body(node):
    with connect(node) as connection:
        connection.sendall(
            head(node, "POST", Content_Type=RELATED + "; boundary=b", Content_Length=100_000) + b"\r\n--b\r\n"
        )
        connection.settimeout(12)
        return status_line(connection)


@TABLE.case("C80", "a client that stops reading", "closed, little held")
def stops_reading(node):
    many = instances.study(6)
    many = [instance(pixel_bytes=6_000_000, StudyInstanceUID=many[0].study) for _ in many]
    clients.store_all(node, many, calling="GOOD")
    clients.indexed(node, many)
    before = node.memory()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(15)
        connection.connect(("127.0.0.1", node.http_port))
        connection.sendall(head(node, path=f"{STUDIES}/{many[0].study}", Accept=clients.ANY_DICOM) + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        closed = wait_closed(connection.getsockname()[1], node.http_port, 12)
        held = node.memory() - before
    return "closed, little held" if closed and held < 8 << 20 else f"closed: {closed}, {held >> 20} MiB held"


def wait_closed(port, server_port, seconds):
    """Whether the server's end of a connection leaves ESTABLISHED (01 in /proc/net/tcp)."""

    def left():
        rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return not any(
            row[3] == "01" and row[1].endswith(f":{server_port:04X}") and row[2].endswith(f":{port:04X}")
            for row in rows
        )

    try:
        return wait_until(left, "the connection is closed", seconds)
    except DeadlinePassed:
        return False
