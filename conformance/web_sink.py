"""A tiny DICOMweb archive: takes STOW-RS, answers QIDO about what it holds and WADO with it, records all. Scriptable as `Archive`."""

import io
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from pydicom import dcmread

from instances import sha256, split_part10
from peers import Received, file_of


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Who breaks off is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class WebSink:
    """Behaviour is changed while it runs by assignment:
    status     answer to STOW as a whole (200; 503, 401 …): a number, or a function of the request's count
    fail       a function of the Received: FailureReason, or None when it is taken
    drop       a function of the Received: acknowledged and forgotten
    hang       an Event: nothing is answered before it is set
    cut_after  closes the connection when so many bytes of a body came
    answer     bytes that every QIDO is answered with, instead of the truth
    """

    def __init__(self, port=0, keep=False, authorization=None):
        self.received, self.forgotten, self.requests = [], [], []
        self.status, self.hang, self.cut_after, self.answer = 200, None, None, None
        self.fail = self.drop = lambda _: None
        self.keep, self.authorization = keep, authorization
        self.lock = threading.Lock()
        self.port = port
        self.start()

    def start(self):
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_POST(self):
                sink.take(self)

            def do_GET(self):
                sink.search(self)

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.hang is not None:
            self.hang.set()
        self.stop()

    def destination(self, name="web", **changes):
        return {"name": name, "kind": "stow", "url": self.url, "verify": "query", "timeout": "5s", **changes}

    def uids(self):
        with self.lock:
            return {one.sop_instance: one.sha256 for one in self.received}

    # STOW-RS (PS3.18 §10.5)

    def take(self, request):
        self.requests.append((request.command, request.path, dict(request.headers)))
        body = self.read_body(request)
        if body is None:
            request.close_connection = True
            return
        if self.hang is not None:
            self.hang.wait(120)
        if self.authorization and request.headers.get("Authorization") != self.authorization:
            return self.reply(request, 401, b"")
        status = self.status(len(self.requests)) if callable(self.status) else self.status
        if status != 200:
            return self.reply(request, status, b"")
        boundary = re.search(r'boundary="?([^";]+)', request.headers["Content-Type"]).group(1)
        taken, failed = [], []
        for part in self.parts(body, boundary.encode()):
            one = self.received_from(part)
            reason = self.fail(one)
            (failed if reason else taken).append((one, reason))
            if not reason:
                with self.lock:
                    (self.forgotten if self.drop(one) else self.received).append(one)
        status = 200 if not failed else 202 if taken else 409
        self.reply(request, status, json.dumps(self.result(taken, failed)).encode())

    def read_body(self, request):
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(request.headers.get("Content-Length", 0))
            wanted = length if self.cut_after is None else min(length, self.cut_after)
            body = request.rfile.read(wanted)
            return body if len(body) == length else None
        body = bytearray()
        while line := request.rfile.readline():
            size = int(line.split(b";")[0], 16)
            body += request.rfile.read(size)
            request.rfile.readline()
            if size == 0:
                return bytes(body)
            if self.cut_after is not None and len(body) > self.cut_after:
                return None
        return None

    @staticmethod
    def parts(body, boundary):
        pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
        assert pieces[-1].startswith(b"--"), "no closing delimiter"
        return [piece.split(b"\r\n\r\n", 1)[1] for piece in pieces[1:-1]]

    def received_from(self, file):
        meta, data = split_part10(file)
        text = {number: value.decode("ascii", "replace").rstrip("\0 ") for number, value in meta.items()}
        header = dcmread(
            io.BytesIO(file), stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
        )
        return Received(
            text[2],
            text[3],
            text[0x10],
            sha256(data),
            len(data),
            data_set=data if self.keep else b"",
            study=str(header.get("StudyInstanceUID", "")),
            series=str(header.get("SeriesInstanceUID", "")),
        )

    @staticmethod
    def result(taken, failed):
        def item(one, reason):
            fields = {
                "00081150": {"vr": "UI", "Value": [one.sop_class]},
                "00081155": {"vr": "UI", "Value": [one.sop_instance]},
            }
            if reason:
                fields["00081197"] = {"vr": "US", "Value": [reason]}
            return fields

        answer = {}
        if taken:
            answer["00081199"] = {"vr": "SQ", "Value": [item(*entry) for entry in taken]}
        if failed:
            answer["00081198"] = {"vr": "SQ", "Value": [item(*entry) for entry in failed]}
        return answer

    # QIDO-RS

    def search(self, request):
        self.requests.append((request.command, request.path, dict(request.headers)))
        if self.answer is not None:
            return self.reply(request, 200, self.answer)
        if self.authorization and request.headers.get("Authorization") != self.authorization:
            return self.reply(request, 401, b"")
        if "application/dicom+json" not in request.headers.get("Accept", ""):
            return self.retrieve(request)
        path, _, query = request.path.partition("?")
        in_path, keys = set(re.findall(r"/(\d[\d.]+)", path)), self.keys(parse_qs(query))
        with self.lock:
            held = [one for one in self.candidates(path) if self.matches(one, in_path, keys)]
        matches = [
            {
                "00080016": {"vr": "UI", "Value": [one.sop_class]},
                "00080018": {"vr": "UI", "Value": [one.sop_instance]},
                "0020000D": {"vr": "UI", "Value": [one.study]},
                "0020000E": {"vr": "UI", "Value": [one.series]},
            }
            for one in held
        ]
        self.reply(request, 200, json.dumps(matches).encode())

    def candidates(self, path):
        """What a search at this path could find."""
        return self.received

    @staticmethod
    def keys(asked):
        """The UIDs that are asked for, by the attribute of `Received` that they are compared with."""
        names = {
            "study": ("StudyInstanceUID", "0020000D"),
            "series": ("SeriesInstanceUID", "0020000E"),
            "sop_instance": ("SOPInstanceUID", "00080018"),
        }
        wanted = {
            attribute: {uid for name in both for value in asked.get(name, []) for uid in re.split(r"[,\\]", value)}
            for attribute, both in names.items()
        }
        return {attribute: uids for attribute, uids in wanted.items() if uids}

    @staticmethod
    def matches(one, in_path, keys):
        if any(getattr(one, attribute) not in uids for attribute, uids in keys.items()):
            return False
        return in_path <= {one.study, one.series, one.sop_instance}

    # WADO-RS (PS3.18 §10.4), of one instance

    def retrieve(self, request):
        uid = request.path.rpartition("/")[2]
        with self.lock:
            held = next((one for one in self.received if one.sop_instance == uid), None)
        if held is None:
            return self.reply(request, 404, b"")
        part = b"--wado\r\nContent-Type: application/dicom\r\n\r\n" + file_of(held) + b"\r\n--wado--\r\n"
        self.reply(request, 200, part, 'multipart/related; type="application/dicom"; boundary=wado')

    @staticmethod
    def reply(request, status, body, media_type="application/dicom+json"):
        request.send_response(status)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        try:
            request.wfile.write(body)
        except OSError:
            pass
