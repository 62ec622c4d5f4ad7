"""What strace saw the node do, in order: no answer leaves before the syncs that cover what it answers."""

import concurrent.futures
import dataclasses
import math
import re

import clients
import instances
from subject import RelayPacs, binary

CALLS = "write,writev,pwrite64,pwritev,sendto,sendmsg,fdatasync,fsync"
BEGUN = re.compile(r"(\d+) +(\w+)\(\d+<([^>]*)>(.*)")
RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>.*\) += (-?\d+)")
RESULT = re.compile(r"\) += (-?\d+)[^)]*$")


@dataclasses.dataclass
class Call:
    """A system call on a file or socket; `begun` and `ended` are lines of the trace."""

    name: str
    path: str
    text: str
    begun: int
    ended: float = math.inf
    result: int | None = None

    @property
    def is_answer(self):
        return self.path.startswith("socket:")


def trace(environment=None):
    """What a node did while it was sent objects, several at a time; and these objects."""
    node = RelayPacs({"spool": {"inline_limit": "64 KiB", "segment_size": "1 MiB"}}, database="sqlite")
    try:
        node.environment = environment or {}
        output = node.folder / "trace"
        serve = [str(binary()), "serve", "--config", str(node.config_file)]
        # -D: what we spawned, and stop, is the node; -v: each piece of a write is shown, -s: so much of it.
        shown = ["-D", "-f", "-qq", "-y", "-v", "-s", "4096", "-e", f"trace={CALLS}"]
        node.spawn(["strace", *shown, "-o", output, *serve])
        node.wait_ready(60)
        node.sign_in()
        studies = [some(4_000, 60_000, 100_000, 600, 60_000, 90_000) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(len(studies)) as threads:
            for done in [threads.submit(clients.store_all, node, study) for study in studies[1:]]:
                done.result()
        clients.stow_all(node, studies[0])
        return calls(output.read_text(errors="replace")), sum(studies, [])
    finally:
        node.remove()


def some(*sizes):
    return [instances.instance(pixel_bytes=size) for size in sizes]


def calls(text):
    """The calls of a trace, in the order in which they began."""
    found, pending = [], {}
    for line, words in enumerate(text.splitlines()):
        if begun := BEGUN.match(words):
            thread, name, path, rest = begun.groups()
            call = Call(name, path, rest, line)
            found.append(call)
            if rest.endswith("<unfinished ...>"):
                pending[thread] = call
            elif result := RESULT.search(rest):
                call.ended, call.result = line, int(result[1])
        elif (resumed := RESUMED.match(words)) and (call := pending.pop(resumed[1], None)):
            call.ended, call.result = line, int(resumed[2])
    return found


def too_early(found, objects):
    """Why each object's answer came too early, of those whose answer did."""
    reasons = [(one.sop_instance, reason(found, one.sop_instance)) for one in objects]
    return [f"{uid}: {why}" for uid, why in reasons if why]


def reason(found, uid):
    named = [call for call in found if uid in call.text]
    answer = next((call for call in named if call.is_answer), None)
    record = next((call for call in named if "/segments/" in call.path), None)
    large = next((call for call in named if "/large/" in call.path), None)
    if answer is None or record is None:
        return "it was not answered, or not written to the log"
    if not synced(found, record.path, record.ended, answer.begun):
        return "no sync of the log between its record and its answer"
    if large is None:
        return None
    written = max(call.ended for call in found if call.path == large.path and call.name.startswith("pwrite"))
    if not synced(found, large.path, written, record.begun):
        return "no sync of its file between its last byte and its record"
    folder = large.path.rpartition("/")[0]
    if not synced(found, folder, large.begun, answer.begun):
        return "no sync of the folder of large files between its file and its answer"
    return None


def synced(found, path, after, before):
    """Whether a sync of `path` began after the one and ended well before the other."""
    return any(
        call.path == path and call.name.endswith("sync") and after < call.begun and call.ended < before
        for call in found
        if call.result == 0
    )
