"""A node's data folder as it was left, copies of it to damage, and what the node says of each acknowledged object.

For each there are two answers that will do: it is held, and its bytes are the ones that were sent; or it is named as
damaged or missing. And what was said once is said again at the next start.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import tempfile

from crash import spool_files
from crash.kill import Lost
from crash.senders import Template
from instances import sha256, split_part10
from subject import RelayPacs, merged

CONFIG = {
    "spool": {"inline_limit": "16 KiB", "segment_size": "1 MiB"},
    "telemetry": {"log_filter": "warn"},
}
# The reserve holds nothing, and each start makes it anew.
UNCOPIED = shutil.ignore_patterns("reserve", "control.sock*")


WORKERS = 2


def in_parallel(image, work, items):
    """`work(node, item)` for all items, each worker with a node of its own; the results in order."""
    shares = [items[number::WORKERS] for number in range(WORKERS)]

    def do(share):
        with image.patient() as node:
            return [work(node, item) for item in share]

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(do, shares))
    return [done[number % WORKERS][number // WORKERS] for number in range(len(items))]


class Image:
    """What `fill(node)` made a node acknowledge, and its data folder after the node ended."""

    def __init__(self, fill, config=None, killed=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="crash-image-"))
        self.config = merged(CONFIG, config or {})
        node = RelayPacs(self.config, database="sqlite")
        try:
            node.start()
            self.objects = {one.sop_instance: one for one in fill(node)}
            self.entries = {line["sop_instance_uid"]: line["entry"] for line in node.lines("spool", "list")}
            assert self.objects.keys() <= self.entries.keys(), "not all that was acknowledged is listed"
            if killed:
                node.kill()
            else:
                assert node.stop() == 0, node.log_tail()
            shutil.copytree(data_of(node), self.data, ignore=UNCOPIED)
        finally:
            node.remove()

        # Something to send that was not there.
        self.newcomer = Template(700, Modality="OT").make()

    @property
    def data(self):
        return self.folder / "data"

    @contextlib.contextmanager
    def patient(self):
        """A node that is not started, to lay copies into."""
        node = RelayPacs(self.config, database="sqlite")
        try:
            yield node
        finally:
            node.remove()

    def lay(self, node):
        """A fresh copy, where the node looks for its data."""
        if node.process is not None:
            node.end()
        shutil.rmtree(data_of(node), ignore_errors=True)
        shutil.copytree(self.data, data_of(node))
        node.key = None
        return spool_of(node)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def data_of(node):
    return pathlib.Path(node.config["node"]["data_dir"])


def spool_of(node):
    return data_of(node) / "spool"


class Statement:
    """What the commands say: what they export, as this side hashes it, and what they name as damaged or missing."""

    def __init__(self, node):
        out = node.folder / "export"
        shutil.rmtree(out, ignore_errors=True)
        done = node.run("spool", "export", out, "--json", check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.damaged = {line["sop_instance_uid"] for line in lines if "damaged" in line}
        self.listed = listed_as_lost(spool_of(node))
        self.held = exported(out)
        if done.returncode != (1 if self.damaged else 0):
            raise AssertionError(f"`spool export` ended with {done.returncode}: {done.stderr[-500:]}")

    def names(self, uid, entry):
        return uid in self.damaged or uid in self.listed or str(entry) in self.listed


def exported(folder):
    found = {}
    for file in folder.iterdir() if folder.exists() else []:
        meta, data_set = split_part10(file.read_bytes())
        found.setdefault(meta[3].rstrip(b"\0").decode(), []).append(sha256(data_set))
    return found


def listed_as_lost(spool):
    """Entry numbers and UIDs in the lists of what is missing."""
    lines = [line for file in (spool / "review").glob("lost-*.tsv") for line in file.read_text().splitlines()]
    return {word for line in lines for word in line.split("\t")[:2]} | {
        str(number) for line in lines for number in stretch(line)
    }


def stretch(line):
    """The numbers of a line that names several side by side."""
    first, to, last = line.split("\t")[0].partition(" to ")
    return range(int(first), int(last) + 1) if to else ()


def examine(node, image, touched=(), starts=2):
    """How many of the objects are held and named; nothing else will do, at one start after the other.

    What was not `touched` must be held: all that the disk still has is there.
    """
    for start in range(starts):
        statement = Statement(node)
        held, named, lost = 0, 0, []
        for uid, one in image.objects.items():
            if statement.held.get(uid) == [one.sha256]:
                held += 1
            elif uid in touched and uid not in statement.held and statement.names(uid, image.entries[uid]):
                named += 1
            else:
                lost.append(uid)
        changed = [uid for uid in statement.held if uid not in image.objects]
        if lost or changed:
            raise Lost(
                f"start {start + 1}: {len(lost)} of {len(image.objects)} neither held nor named, {len(changed)} not "
                f"ours; e.g. entries {[image.entries.get(uid) for uid in lost[:5]]}; kept in {keep(node)}"
            )
    return {"held": held, "named": named}


def keep(node):
    """The data folder, for a person who looks into a failure."""
    aside = tempfile.mkdtemp(prefix="crash-failure-")
    shutil.copytree(data_of(node), aside, dirs_exist_ok=True, ignore=UNCOPIED)
    return aside

