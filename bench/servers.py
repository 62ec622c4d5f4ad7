"""What is measured, each started on free ports in a folder of its own, each with the configuration it has in all rows."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import urllib.error
import urllib.request

from bench import CHECKOUT
from processes import family, free_port, listens, memory, stop
from waiting import wait_until

NODE = pathlib.Path(os.environ.get("BENCH_BIN", CHECKOUT / "target/release/relaypacs")).resolve()
LOAD = CHECKOUT / "bench/load/target/release/load"
# On the disk to be measured, not on a memory file system.
WORK = pathlib.Path(os.environ.get("BENCH_WORK", CHECKOUT / "target/bench/work"))
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    ae_title = "PEER"
    headers = ()
    environment = {}

    def __init__(self, tag=""):
        self.folder = WORK / f"{self.name}{tag}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.dicom_port, self.http_port = free_port(), free_port()
        self.process = None

    def start(self):
        with (self.folder / "log").open("ab") as log:
            environment = os.environ | self.environment
            command = [str(word) for word in self.command()]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)
        wait_until(self.ready, f"{self.name} is ready", 60, every=0.005, at_most=0.01)
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{(self.folder / 'log').read_text(errors='replace')[-2000:]}")
        return listens(self.dicom_port)

    @property
    def address(self):
        return f"127.0.0.1:{self.dicom_port}"

    @property
    def http_address(self):
        return f"127.0.0.1:{self.http_port}"

    def cpu(self):
        """Seconds of processor time of the server and its children, those that ended included."""
        return sum(cpu_ticks(pid) for pid in family(self.process.pid)) / TICKS

    def written(self):
        """Bytes that it gave the disk to write."""
        return sum(written_bytes(pid) for pid in family(self.process.pid))

    def peak_mib(self):
        """VmHWM of the server and the children that it has now."""
        return memory(self.process.pid, "VmHWM") / 2**20

    def settle(self):
        """Returns when it does nothing more for what it was sent: its CPU clock all but stands still, and it writes nothing.
        The node's scrub may read on, which takes 3 % of a core. For two seconds, since some begin to tidy up only when
        they had nothing to do for one."""
        seen, span = [], 14

        def still():
            seen.append((self.cpu(), self.written()))
            if len(seen) <= span:
                return False
            (cpu, written), (before, written_before) = seen[-1], seen[-span]
            return cpu - before <= 10 / TICKS and written - written_before < 2**20

        wait_until(still, f"{self.name} is at rest", 300, every=0.15)

    def load(self, *arguments, environment=None):
        """Runs the client; its figures."""
        done = subprocess.run(
            [str(LOAD), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=1800,
            env=os.environ | (environment or {}),
        )
        if done.returncode != 0:
            raise AssertionError(f"{self.name}: load {str(arguments)[:200]}: {done.stderr[-500:]}")
        return json.loads(done.stdout)

    def header_options(self):
        return [word for header in self.headers for word in ("--header", header)]

    def get(self, path, accept="application/dicom+json"):
        """An answer of its HTTP server: the body."""
        request = urllib.request.Request(f"http://{self.http_address}{path}", headers={"Accept": accept})
        for header in self.headers:
            request.add_header(*header.split(": ", 1))
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()

    def stop(self):
        stop(self.process)

    def remove(self):
        if self.process is not None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.sync()


class Node(Server):
    """The node with its own defaults: every answer after the sync."""

    name = "relaypacs"
    ae_title = "RELAYPACS"
    web = "/dicom-web"

    def __init__(self, tag="", sink=None, more=""):
        super().__init__(tag)
        self.telemetry_port = free_port()
        destination = ""
        if sink:
            destination = (
                f'[[destinations]]\nname = "sink"\nkind = "dimse"\nae_title = "{sink.ae_title}"\n'
                f'host = "127.0.0.1"\nport = {sink.dicom_port}\nverify = "none"\n'
            )
        (self.folder / "node.toml").write_text(
            f'[node]\nname = "bench"\ndata_dir = "{self.folder}/data"\n'
            f'[dicom]\nlisten = ["{self.address}"]\n'
            f'[http]\nlisten = ["{self.http_address}"]\n'
            f'[telemetry]\nlog = "json"\nlisten = "127.0.0.1:{self.telemetry_port}"\n{more}{destination}'
        )

    def command(self):
        return [NODE, "serve", "--config", self.folder / "node.toml"]

    def ready(self):
        if not super().ready():
            return False
        with contextlib.suppress(urllib.error.URLError):
            return urllib.request.urlopen(f"http://{self.http_address}/health/ready", timeout=5).status == 200
        return False

    def sign_in(self):
        """Needs a key for DICOMweb, as its users do."""
        command = [NODE, "key", "add", "bench", "--scope", "dicomweb:read", "--scope", "dicomweb:write"]
        done = subprocess.run(
            [*command, "--config", self.folder / "node.toml"], capture_output=True, text=True, check=True
        )
        self.headers = (f"Authorization: Bearer {done.stdout.strip()}",)
        return self

    def settle(self):
        wait_until(lambda: self.gauge("index_lag_seconds") == 0, "the index has caught up", 900, every=0.1)
        super().settle()

    def gauge(self, name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.telemetry_port}/metrics", timeout=10).read().decode()
        line = next(line for line in text.splitlines() if line.startswith(f"relaypacs_{name}"))
        return float(line.split()[-1])


class Orthanc(Server):
    """As Debian packages it, with Nagle's algorithm off; `sink` makes it forward what it gets."""

    name = "orthanc"
    ae_title = "ORTHANC"
    web = "/dicom-web"
    environment = {"TCP_NODELAY": "1"}

    def __init__(self, tag="", sink=None, sync=True):
        super().__init__(tag)
        config = {
            "Name": "bench",
            "StorageDirectory": str(self.folder / "data"),
            "IndexDirectory": str(self.folder / "data"),
            "SyncStorageArea": sync,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "KeepAlive": True,
            "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        if sink:
            script = self.folder / "route.lua"
            script.write_text(
                "function OnStoredInstance(instance, tags, metadata)\n  SendToModality(instance, 'sink')\nend\n"
            )
            config["LuaScripts"] = [str(script)]
            config["DicomModalities"] = {"sink": [sink.ae_title, "127.0.0.1", sink.dicom_port]}
        (self.folder / "orthanc.json").write_text(json.dumps(config))

    def command(self):
        return ["Orthanc", self.folder / "orthanc.json"]

    def ready(self):
        return super().ready() and listens(self.http_port)

    def sign_in(self):
        return self


class Storescp(Server):
    """DCMTK's: a file for each object, nothing synced, a process for each association."""

    name = "storescp"
    environment = {"TCP_NODELAY": "1"}

    def command(self):
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return ["storescp", "--fork", "+xa", "-pm", "-pdu", "131072", "-od", data, self.dicom_port]


class Null(Server):
    """Appends and syncs, neither reads nor indexes."""

    name = "null"
    mode = "log"

    def command(self):
        return [LOAD, "null", self.address, self.mode, self.folder]


class QuickNull(Null):
    """The same, acknowledging segments at once, as the node does for senders with Nagle's algorithm on."""

    name = "quicknull"
    environment = {"QUICKACK": "1"}


class Sink(Null):
    """What is forwarded to: answers and forgets."""

    name = "sink"
    ae_title = "SINK"
    mode = "discard"
    environment = {"QUICKACK": "1"}


def written_bytes(pid):
    """write_bytes (proc_pid_io(5))."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/io").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def cpu_ticks(pid):
    """utime, stime, cutime and cstime (proc(5))."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


@contextlib.contextmanager
def running(*servers):
    """Starts them, and removes them whatever happens."""
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in reversed(servers):
            server.remove()
