"""A private PostgreSQL for the suites: its own folder and port, started as the user `postgres` (it refuses root)."""

import atexit
import os
import pathlib
import shutil
import subprocess
import tempfile
import uuid

from processes import free_port, listens
from waiting import wait_until


def binaries():
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


class PostgreSQL:
    """One server; `database()` makes a fresh database in it and returns its URL."""

    def __init__(self):
        self.bin = binaries()
        if self.bin is None:
            raise RuntimeError("no PostgreSQL under /usr/lib/postgresql")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="conformance-pg-"))
        self.port = free_port()
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, "postgres")
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "relaypacs", "-E", "UTF8", "--locale=C"
        )
        self.start()
        atexit.register(self.remove)

    def _run(self, program, *arguments):
        subprocess.run(
            [*self.as_user, str(self.bin / program), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=120,
        )

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-o", options, "-w", "start"
        )
        wait_until(lambda: listens(self.port), "PostgreSQL listens")

    def stop(self, mode="fast"):
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def database(self):
        name = "t" + uuid.uuid4().hex[:12]
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "relaypacs", name)
        return f"postgres://relaypacs@127.0.0.1:{self.port}/{name}"

    def remove(self):
        if not self.folder.exists():
            return
        try:
            self.stop("immediate")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)


_server = None


def server():
    """The one server of this test run."""
    global _server
    if _server is None:
        _server = PostgreSQL()
    return _server
