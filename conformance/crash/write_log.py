"""A disk that keeps a log of its writes and flushes, so that what it held at any moment can be made again.

qemu-storage-daemon writes the log (driver blklogwrites, the format of the kernel's dm-log-writes) and shows the disk as
a file (FUSE), on which the loop device lies. Needs root.
"""

import bisect
import dataclasses
import pathlib
import shutil
import struct
import subprocess
import tempfile

from crash.disk import Disk, make_ext4, run
from processes import stop
from waiting import wait_until

MAGIC = 0x6A736677736872
FLUSH = 1


@dataclasses.dataclass(frozen=True)
class Write:
    """One entry of the log: bytes written, or a flush."""

    # Where the entry ends in the log: the log's length just after.
    end: int
    offset: int
    length: int
    # Where its bytes lie in the log.
    at: int
    is_flush: bool


class LoggedDisk(Disk):
    """Lies in memory where it can: its speed is not what is tried."""

    def __init__(self, mebibytes):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="crash-disk-", dir=memory()))
        self.beginning, self.current = self.folder / "beginning.img", self.folder / "current.img"
        self.log, shown = self.folder / "writes.log", self.folder / "shown.img"
        with self.beginning.open("wb") as file:
            file.truncate(mebibytes << 20)
        # Nothing left to be initialised later: the log shows what the node had written.
        make_ext4(self.beginning, "-E", "lazy_itable_init=0,lazy_journal_init=0")
        copy(self.beginning, self.current)
        self.log.touch()
        shown.touch()
        self.daemon = self.serve(shown)
        wait_until(lambda: shown.stat().st_size == mebibytes << 20, "the disk is shown", 20)
        super().__init__(shown)

    def serve(self, shown):
        layers = [
            f"driver=file,node-name=disk,filename={self.current}",
            f"driver=file,node-name=log-file,filename={self.log}",
            "driver=blklogwrites,node-name=logged,file=disk,log=log-file",
        ]
        export = f"type=fuse,id=shown,node-name=logged,mountpoint={shown},writable=on"
        options = [word for layer in layers for word in ("--blockdev", layer)]
        return subprocess.Popen(["qemu-storage-daemon", *options, "--export", export])

    def position(self):
        """How long the log is now: what was answered before lies in it."""
        return self.log.stat().st_size

    def detach(self):
        """No more is written: the log is whole."""
        self.unmount()
        stop(self.daemon)

    def remove(self):
        run("umount", "-l", self.path)
        stop(self.daemon)
        shutil.rmtree(self.folder)

    def writes(self):
        """The log, entry by entry."""
        with self.log.open("rb") as log:
            magic, version, _, sector = struct.unpack("<QQQI", log.read(28))
            assert (magic, version) == (MAGIC, 1), "no log of writes"
            at, length = sector, self.position()
            while at + sector <= length:
                log.seek(at)
                first, count, flags, size = struct.unpack("<QQQQ", log.read(32))
                data, bytes_written = at + sector, count * sector
                at = data + bytes_written
                yield Write(at, first * sector, bytes_written, data, bool(flags & FLUSH))


@dataclasses.dataclass(frozen=True)
class Cut:
    """The power goes when the log is so long; `keeps` says which writes after the last flush reached the disk."""

    position: int
    # flush: none of them; prefix: all; subset: any.
    keeps: str


class Replay:
    """The disks that cuts leave, in the order of their positions: each is mounted while it is looked at."""

    def __init__(self, disk, generator):
        self.log, self.random = disk.log, generator
        self.writes = list(disk.writes())
        self.ends = [write.end for write in self.writes]
        self.flushed, self.image = disk.folder / "flushed.img", disk.folder / "image.img"
        copy(disk.beginning, self.flushed)
        # How many writes the flushed image has.
        self.done = 0

    def disks(self, cuts):
        """Pairs of a cut and the Disk that it leaves."""
        for cut in sorted(cuts, key=lambda cut: cut.position):
            until = bisect.bisect_right(self.ends, cut.position)
            self.advance(until)
            copy(self.flushed, self.image)
            self.apply(self.image, self.kept(cut, self.writes[self.done : until]))
            disk = Disk(self.image)
            try:
                yield cut, disk
            finally:
                disk.remove()

    def advance(self, until):
        """Applies all up to the last flush before `until`."""
        flushes = [index for index in range(self.done, until) if self.writes[index].is_flush]
        if flushes:
            self.apply(self.flushed, self.writes[self.done : flushes[-1] + 1])
            self.done = flushes[-1] + 1

    def kept(self, cut, since_flush):
        if cut.keeps == "subset":
            return [write for write in since_flush if self.random.random() < 0.5]
        return since_flush if cut.keeps == "prefix" else []

    def apply(self, image, writes):
        with self.log.open("rb") as log, image.open("r+b") as file:
            for write in writes:
                log.seek(write.at)
                file.seek(write.offset)
                file.write(log.read(write.length))


def memory():
    shared = pathlib.Path("/dev/shm")
    return shared if shared.is_dir() else None


def copy(source, target):
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
