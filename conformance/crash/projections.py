"""What is derived from the log, damaged and lost: sled's folder and the SQL database.

The log still says what is held, where each object is to go, and what became of it.
"""

import dataclasses
import random
import shutil

import clients
from crash import spool_files
from crash.image import Image, Statement, data_of, in_parallel, keep
from crash.kill import Lost
from crash.senders import Template
from waiting import wait_until
from web_sink import WebSink

ROUTES = {"CT": "web", "MR": "away"}


def past():
    """The image of a node with a past: objects delivered and freed, on their way, going nowhere, in conflict."""
    with WebSink() as archive:
        rules = [{"name": modality, "when": {"modality": [modality]}, "to": [to]} for modality, to in ROUTES.items()]
        away = archive.destination("away", url="http://127.0.0.1:9/dicom-web")
        config = {"destinations": [archive.destination(), away], "rules": rules, "spool": {"retention": "0s"}}
        return Image(live, config)


def live(node):
    node.run("destination", "pause", "away")
    kept = [Template(size, Modality=modality).make() for size in (600, 20_000) for modality in ("MR", "OT")]
    kept += [Template(900, Modality="MR").make() for _ in range(30)]
    freed = Template(12_000)
    for objects in (kept[:20], [freed.make() for _ in range(60)], kept[20:]):
        clients.store_all(node, objects)
    rival = Template(600, Modality="MR").make()
    rival = dataclasses.replace(
        rival,
        sop_instance=kept[0].sop_instance,
        data_set=rival.data_set.replace(rival.sop_instance.encode(), kept[0].sop_instance.encode()),
    )
    clients.store_all(node, [rival])
    wait_until(lambda: len(node.held()) == len(kept), "what the archive has is freed", 60)
    clients.indexed(node, kept)
    return kept


class Known:
    """All that the commands say of a spool: each line of the list, and each object as it is exported."""

    def __init__(self, node):
        self.held = Statement(node).held
        self.lines = {line["entry"]: line for line in node.lines("spool", "list")}

    def compare(self, other, node):
        """`other` was told later."""
        gone = {entry for entry, line in self.lines.items() if other.lines.get(entry) != line}
        wrong = {uid for uid, digests in self.held.items() if sorted(other.held.get(uid, [])) != sorted(digests)}
        more = {line["sop_instance_uid"] for line in other.lines.values()} - self.held.keys()
        if gone or wrong or more:
            raise Lost(
                f"entries {sorted(gone)[:5]} are not as they were, {len(wrong)} objects held otherwise, {len(more)} "
                f"appeared; kept in {keep(node)}"
            )


# sled


def queue(image, flips=60, cuts=20, few=10, seed="queue"):
    """Its files deleted, cut off and with flipped bits: each time all is known again as it was."""
    generator = random.Random(seed)
    jobs = [("delete", name, 0) for name in ["", "db", "conf", "snap.*", "blobs"]]
    jobs += [("cut", name, generator.random()) for name in ["db"] * cuts + ["snap.*", "conf"] * (few // 5)]
    jobs += [("flip", name, generator.random()) for name in ["db"] * flips + ["snap.*", "conf"] * few]
    jobs += [("flip 20", "db", generator.random()) for _ in range(few)]
    with image.patient() as node:
        image.lay(node)
        before = Known(node)
    done = in_parallel(image, lambda node, job: queue_round(node, image, before, *job), jobs)
    return {"damages": len(done), "starts_that_failed": sum(done)}


def queue_round(node, image, before, kind, name, seed):
    """Returns how many starts ended with exit code 75 or 1 before one went well: the next one must know all."""
    folder = image.lay(node) / "queue"
    for path in list(folder.glob(name)) if name else [folder]:
        harm(path, kind, random.Random(seed))
    failed = 0 if starts(node) else 1
    before.compare(Known(node), node)
    node.start()
    clients.store_all(node, [image.newcomer])
    assert not node.died(), node.log_tail()
    node.kill()
    after = Known(node)
    assert after.held.pop(image.newcomer.sop_instance) == [image.newcomer.sha256]
    after.lines = {entry: line for entry, line in after.lines.items() if entry in before.lines}
    before.compare(after, node)
    return failed


def starts(node):
    """Whether a command that needs the queue can be answered; where not, it must say so and not stop half-way."""
    done = node.run("spool", "list", "--json", check=False)
    assert done.returncode in (0, 1), f"{done.returncode}: {done.stderr[-500:]}"
    assert done.returncode == 0 or "queue" in done.stderr, done.stderr[-500:]
    return done.returncode == 0


def harm(path, kind, generator):
    if kind == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    length = path.stat().st_size
    if kind == "cut":
        with path.open("r+b") as file:
            file.truncate(int(length * generator.random()))
        return
    # Where something is written: its file is mostly empty.
    data = path.read_bytes()
    used = [at for at in range(len(data)) if data[at]]
    for _ in range(20 if kind == "flip 20" else 1):
        spool_files.flip(path, generator.choice(used), generator.randrange(8))


# SQL


def database(image, flips=20, seed="database"):
    """Lost, and damaged: objects don't depend on it; once it is removed, the index is built anew."""
    generator = random.Random(seed)
    jobs = [("delete", 0), ("cut", generator.random()), ("cut", generator.random())]
    jobs += [("flip 20", generator.random()) for _ in range(flips)]
    done = in_parallel(image, lambda node, job: database_round(node, image, *job), jobs)
    return {"damages": len(done), "refused": sum(done)}


def database_round(node, image, kind, seed):
    """Returns whether the node refused to start; where it did not, it takes objects as ever."""
    image.lay(node)
    harm(data_of(node) / "relaypacs.db", kind, random.Random(seed))
    refused = not runs(node)
    if not refused:
        clients.store_all(node, [image.newcomer])
        node.kill()
    for path in node.database_files():
        path.unlink()
    node.start()
    expected = dict(image.objects) | ({} if refused else {image.newcomer.sop_instance: image.newcomer})
    clients.indexed(node, expected.values())
    held = Statement(node).held
    lost = [uid for uid, one in expected.items() if one.sha256 not in held.get(uid, [])]
    if lost:
        raise Lost(f"{len(lost)} objects are gone with the database; kept in {keep(node)}")
    node.kill()
    return refused


def runs(node):
    """Whether it takes objects; where it ended instead, it must have named the database."""
    node.start(ready=False)
    wait_until(lambda: node.died() or node.is_ready(), "it takes objects or ends", 90)
    if node.died():
        assert node.process.returncode == 1, f"{node.process.returncode}: {node.log_tail()}"
        assert "database" in node.log_tail(), node.log_tail()
        return False
    return True
