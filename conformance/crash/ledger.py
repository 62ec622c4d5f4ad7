"""The outside ledger: what the node acknowledged, written by the sender right after each success, synced."""

import os
import pathlib


class Ledger:
    """One file for each sender, so that nobody waits for another's sync; on another folder than the node's."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def pen(self, name):
        return Pen(self.folder / f"{name}.tsv")

    def entries(self):
        """SHA-256 by SOP Instance UID, of all that was ever acknowledged."""
        found = {}
        for file in sorted(self.folder.glob("*.tsv")):
            for line in file.read_text().splitlines():
                uid, sha256 = line.split("\t")
                found[uid] = sha256
        return found


class Pen:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, uid, sha256):
        os.write(self.file, f"{uid}\t{sha256}\n".encode())
        os.fsync(self.file)

    def close(self):
        os.close(self.file)
