"""A disk whose power can be cut: ext4 on a loop device. Needs root."""

import fcntl
import os
import struct
import subprocess

from waiting import wait_until

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class Disk:
    """ext4 in the file `image`, mounted at the folder `path` beside it."""

    def __init__(self, image):
        self.image = image
        self.path = mounted(image)
        self.path.mkdir()
        self.mount()

    @classmethod
    def made(cls, folder, mebibytes, *options):
        """A new one in `folder`; `options` are those of mkfs.ext4."""
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(mebibytes << 20)
        make_ext4(image, *options)
        return cls(image)

    def mount(self):
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True, capture_output=True)

    def cut_power(self):
        """What is not on the disk now is gone; who still has files open there gets EIO."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def unmount(self):
        """Nobody may have files open there any more; who was just killed closes them in a moment."""
        wait_until(lambda: run("umount", self.path) == 0, f"{self.path} is unmounted", 20)

    def power_up(self):
        """After a cut: as the next boot finds it."""
        self.unmount()
        self.mount()

    def remove(self):
        """Whatever state it is in, and whoever still uses it."""
        run("umount", "-l", self.path)
        self.path.rmdir()
        self.image.unlink()


def mounted(image):
    """Where it is mounted."""
    return image.with_suffix(".mounted")


def make_ext4(image, *options):
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, str(image)], check=True, capture_output=True)


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True).returncode
