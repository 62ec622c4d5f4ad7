"""The subject under test, chosen by the environment variable SUBJECT: `relaypacs` (default), `orthanc` or `host:port`.

A subject has a DICOM address and, where known, a DICOMweb address with a session that carries its credentials. It is
started on free ports with its own configuration and data folder, and stopped by process id.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import requests
import tomli_w

import postgres
from processes import alive, free_port, listens, memory, stop
from waiting import wait_until

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
CHOSEN = os.environ.get("SUBJECT", "relaypacs")
DATABASE = os.environ.get("RELAYPACS_TEST_DATABASE", "sqlite")


def binary():
    return pathlib.Path(os.environ.get("RELAYPACS_BIN", CHECKOUT / "target/debug/relaypacs")).resolve()


def merged(base, changes):
    """`base` with `changes` put over it, table by table."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class Subject:
    """What every subject has. The concrete ones know how to start it."""

    name = "external"
    host = "127.0.0.1"
    ae_title = "RELAYPACS"
    dicomweb = None
    process = None
    # Held to what we promise beyond the standard, too.
    strict = False
    # Seconds after which a connection that leads to nothing is gone.
    closes_within = 35

    def __init__(self):
        self.http = requests.Session()
        self.http.trust_env = False

    @property
    def address(self):
        return (self.host, self.dicom_port)

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        return self

    def remove(self):
        pass

    def memory(self, key="VmRSS"):
        return memory(self.pid, key)


class External(Subject):
    """Something that runs already; SUBJECT_AE, SUBJECT_DICOMWEB and SUBJECT_TOKEN tell the rest."""

    def __init__(self, address):
        super().__init__()
        self.host, port = address.rsplit(":", 1)
        self.dicom_port = int(port)
        self.ae_title = os.environ.get("SUBJECT_AE", "ANY-SCP")
        self.dicomweb = os.environ.get("SUBJECT_DICOMWEB")
        if "SUBJECT_TOKEN" in os.environ:
            self.http.headers["Authorization"] = "Bearer " + os.environ["SUBJECT_TOKEN"]


# Those not removed yet: a failed test shows the ends of their logs.
RUNNING = []


class Started(Subject):
    """A subject that we start: a folder of its own, a process, its output in a file."""

    def __init__(self):
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"conformance-{self.name}-"))
        self.dicom_port, self.http_port = free_port(), free_port()
        self.log = self.folder / "log"
        self.environment = {}
        RUNNING.append(self)

    def spawn(self, command):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RELAYPACS_")}
        with self.log.open("ab") as log, (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=self.folder,
                env=environment | self.environment,
            )

    def died(self):
        return self.process is not None and self.process.poll() is not None

    def log_tail(self, lines=25):
        if not self.log.exists():
            return "it was never started"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_ready(self, seconds=30.0):
        def ready():
            if self.died():
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            return self.is_ready()

        try:
            wait_until(ready, f"{self.name} is ready", seconds)
        except AssertionError as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from error
        return self

    def stop(self, seconds=20.0):
        return stop(self.process, seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.stop()

    def remove(self):
        RUNNING.remove(self)
        if self.process is not None:
            self.end()
        if os.environ.get("CONFORMANCE_KEEP"):
            return
        shutil.rmtree(self.folder, ignore_errors=True)


class RelayPacs(Started):
    """The node. `config` is laid over the suites' own configuration, table by table."""

    name = "relaypacs"
    strict = True
    # With the limits.artim of the suites that ask (2 s).
    closes_within = 6

    def __init__(self, config=None, environment=None, database=None):
        super().__init__()
        self.telemetry_port = free_port()
        self.dicomweb = f"http://127.0.0.1:{self.http_port}/dicom-web"
        self.environment = environment or {}
        self.config_file = self.folder / "relaypacs.toml"
        self.key = None
        base = {
            "node": {"name": "conformance", "data_dir": str(self.folder / "data")},
            "dicom": {"ae_title": [self.ae_title], "listen": [f"127.0.0.1:{self.dicom_port}"]},
            "http": {
                "listen": [f"127.0.0.1:{self.http_port}"],
                "public_url": f"http://127.0.0.1:{self.http_port}",
            },
            "telemetry": {"listen": f"127.0.0.1:{self.telemetry_port}", "log": "json"},
            # Small segments: a node of the suites holds little and starts often. How full the disk of the machine is
            # must not decide what the node frees early or refuses.
            "spool": {"segment_size": "16 MiB", "high_watermark": 0.98, "critical_watermark": 0.995},
            "limits": {"artim": "3s", "connections_per_second": 100000},
        }
        if (database or DATABASE) == "postgres":
            base["database"] = {"url": postgres.server().database()}
        self.configure(merged(base, config or {}))

    def configure(self, config):
        """Writes the configuration; it counts from the next start."""
        self.config = config
        self.config_file.write_text(tomli_w.dumps(config))

    def start(self, ready=True, **environment):
        self.environment = self.environment | environment
        self.spawn([str(binary()), "serve", "--config", str(self.config_file)])
        if ready:
            self.wait_ready()
            self.sign_in()
        return self

    def sign_in(self):
        if self.key is None:
            self.key = self.add_key("conformance", "dicomweb:read", "dicomweb:write")
        self.http.headers["Authorization"] = f"Bearer {self.key}"

    def is_ready(self):
        with contextlib.suppress(requests.RequestException):
            return self.http.get(f"http://127.0.0.1:{self.http_port}/health/ready", timeout=5).status_code == 200
        return False

    def end(self):
        # Its data is thrown away: nothing is to be drained. Draining has tests of its own.
        if self.process.poll() is None:
            self.kill()

    def restart(self):
        assert self.stop() == 0, self.log_tail()
        return self.start()

    def run(self, *arguments, check=True, **options):
        """`relaypacs ARGUMENTS --config …`; its completed process."""
        done = subprocess.run(
            [str(binary()), *map(str, arguments), "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            **options,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"relaypacs {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def lines(self, *arguments):
        """The objects that a command prints with `--json`."""
        return [json.loads(line) for line in self.run(*arguments, "--json").stdout.splitlines() if line.strip()]

    def add_key(self, name, *scopes):
        arguments = [word for scope in scopes for word in ("--scope", scope)]
        return self.run("key", "add", name, *arguments).stdout.strip()

    def held(self):
        """SHA-256 of the data sets by SOP Instance UID, as `spool list` says (several where there is a conflict)."""
        found = {}
        for entry in self.lines("spool", "list"):
            found.setdefault(entry["sop_instance_uid"], []).append(entry["data_set_sha256"])
        return found

    # What is on its disk, as far as tests break it. Only these know the names.

    def queue_files(self):
        """The main file of the spool's queue, which is a projection of its log, in a folder of its own."""
        return [path for path in (self.folder / "data").rglob("db") if path.is_file()]

    def database_files(self):
        return list((self.folder / "data").glob("relaypacs.db*"))

    def destination(self, name):
        """The line of `destination list` about one destination."""
        return next(line for line in self.lines("destination", "list") if line["name"] == name)

    def metrics(self):
        return requests.get(f"http://127.0.0.1:{self.telemetry_port}/metrics", timeout=5).text


class Orthanc(Started):
    """Debian's Orthanc with its DICOMweb plugin: the archive behind the node, and a second subject."""

    name = "orthanc"
    ae_title = "ORTHANC"
    plugin = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"

    def __init__(self, config=None):
        super().__init__()
        self.dicomweb = f"http://127.0.0.1:{self.http_port}/dicom-web"
        self.rest = f"http://127.0.0.1:{self.http_port}"
        # Packaged DCMTK leaves Nagle on; its speed is not what these suites measure.
        self.environment = {"TCP_NODELAY": "1"}
        always = {f"DicomAlwaysAllow{what}": True for what in ("Echo", "Store", "Find", "Get", "Move")}
        base = always | {
            "Name": "conformance",
            "StorageDirectory": str(self.folder / "data"),
            "IndexDirectory": str(self.folder / "data"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "DicomCheckModalityHost": False,
            "DicomScpTimeout": 10,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": False,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "StableAge": 1,
            "Plugins": [self.plugin],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        self.config_file = self.folder / "orthanc.json"
        self.config = base
        self.reconfigure(config or {})

    def reconfigure(self, changes):
        """Counts from the next start."""
        self.config = self.config | changes
        self.config_file.write_text(json.dumps(self.config))

    def start(self):
        self.spawn(["Orthanc", str(self.config_file)])
        return self.wait_ready()

    def is_ready(self):
        with contextlib.suppress(requests.RequestException):
            return listens(self.dicom_port) and self.http.get(f"{self.rest}/system", timeout=5).status_code == 200
        return False

    def instances(self):
        """Orthanc's ids of the instances that it holds, by SOP Instance UID."""
        found = self.http.post(
            f"{self.rest}/tools/find", json={"Level": "Instance", "Query": {}, "Expand": True}, timeout=60
        ).json()
        return {entry["MainDicomTags"]["SOPInstanceUID"]: entry["ID"] for entry in found}

    def file(self, identifier):
        return self.http.get(f"{self.rest}/instances/{identifier}/file", timeout=60).content


def create(config=None, **options):
    """The chosen subject, not started. `config` is the node's; the others have no use for it."""
    if CHOSEN == "relaypacs":
        return RelayPacs(config, **options)
    if CHOSEN == "orthanc":
        return Orthanc()
    return External(CHOSEN)


__all__ = ["CHOSEN", "External", "Orthanc", "RelayPacs", "Subject", "alive", "binary", "create", "merged"]
