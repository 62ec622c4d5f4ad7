"""Power cuts under load, the same with each sync of the commit path left out, and cuts made from a log of writes."""

import collections
import random

from crash import order
from crash.campaign import Line
from crash.kill import plan
from crash.power import POINTS, CutRig, Mutant, keeps_a_resend
from crash.replay import replay, replay_resends

# The syncs between an object's first byte and its answer, and those of the files that they count on. Without these …
CAUGHT = {
    "log": "the log's sync before the answers",
    "full_segment": "a full segment's sync before the next is begun",
    "large": "the sync of a large object's file",
}
# … and without these ext4 loses nothing, because of what follows.
HARMLESS = {
    "large_directory": ("the sync of the folder of large files", "the sync of the file commits its name, too"),
    "large_written_back": ("the syncs of a large file while it is written", "its last sync"),
    "segment_allocated": ("the sync of a new segment", "that of the folder commits it, too"),
    "segment_directory": ("the sync of the folder of segments", "the first records' sync commits the name, too"),
    "spare_filled": ("the sync of a spare filled with zeros", "the sync of the records written over them"),
    "spool_directory": ("the sync of the spool's folder", "any sync that commits the journal"),
    "recovered": ("the sync of what a crash left in the page cache", "the log's next sync, of the router's decision"),
    "recovered_directory": ("the sync of the folder of large files after a crash", "the file's sync before the crash"),
    "log_id": ("the syncs of the file that names the log", "the head of each segment names it, too"),
    "queue_flush": ("sled's flush at a checkpoint", "the log is replayed from where sled was cut off"),
    "queue": ("the sync of sled's files at a checkpoint", "the log is replayed from where sled was cut off"),
}
# No object depends on these: they are not left out.
UNTRIED = {
    "torn": "what a crash tore, and nobody was answered for, is found torn again, or at worst named as a loss",
    "unread_cleared": "what a failing disk could not read is found once more, and named once more",
    "unread_mark": "the same",
    "loss_list": "the names of what was lost already",
    "set_aside": "a segment of which nothing can be read goes to review/ once more",
}
# These concern a start after a crash, which has rounds of its own.
AFTER_A_CRASH = {"recovered", "recovered_directory"}


def series(points, seed=None):
    """A round for each of the points (None: a random time) on one disk: the figures, or an exception."""
    rig = CutRig(seed=seed)
    try:
        for number, point in enumerate(points):
            rig.round(number, point)
        rig.final()
        return rig.report()
    finally:
        rig.close()


def mutant(left_out, most=10):
    """With a sync left out: the round that showed a loss, None when none did."""
    if left_out in AFTER_A_CRASH:
        return resends(left_out)
    rig = Mutant(left_out)
    try:
        caught_in = rig.rounds_until_caught(most)
        return {"caught_in": caught_in, "loss": rig.loss, "rounds": most, "acknowledged": len(rig.ledger.entries())}
    finally:
        rig.close()


def resends(left_out):
    """In the log and in files of their own."""
    sizes = [2_000, 100_000] * 2
    kept = [keeps_a_resend(size, left_out) for size in sizes]
    caught_in = None if all(kept) else kept.index(False) + 1
    return {"caught_in": caught_in, "rounds": len(sizes), "acknowledged": len(sizes)}


def in_order():
    """Three traces: the objects that were answered, none of them before the syncs that cover it."""
    objects = 0
    for _ in range(3):
        found, sent = order.trace()
        early = order.too_early(found, sent)
        assert not early, early
        objects += len(sent)
    return {"objects": objects}


# The campaign

TITLE = "The power is cut"
ROUNDS_IN_SERIES = 20
SERIES = [f"series {number}" for number in range(1, 11)]
IMAGES = {"images": 300, "more images": 100}
# The log of writes has no objects so large that they are synced while they are written.
REPLAYED = {f"images without {name}": name for name in HARMLESS if name != "large_written_back"}
IMAGES_WITHOUT = 90


def cases():
    return [*SERIES, *(f"without {name}" for name in CAUGHT | HARMLESS), *IMAGES, *REPLAYED, "order"]


def run(case):
    if case in SERIES:
        return series(plan(ROUNDS_IN_SERIES, random.Random(case), list(POINTS)), seed=case)
    if case == "order":
        return in_order()
    if case in IMAGES:
        return replay(IMAGES[case], seconds=25, seed=case)
    if case in REPLAYED:
        if REPLAYED[case] in AFTER_A_CRASH:
            return replay_resends(IMAGES_WITHOUT, REPLAYED[case], seed=case)
        return replay(IMAGES_WITHOUT, REPLAYED[case], seconds=25 if "queue" in case else 12, seed=case)
    name = case.removeprefix("without ")
    figures = mutant(name)
    if name in CAUGHT:
        assert figures["caught_in"], "no cut showed a loss"
    else:
        round_, loss = figures["caught_in"], figures.get("loss")
        assert round_ is None, f"a loss in round {round_}: nothing carries it along ({loss})"
    return figures


def lines(results):
    reports = [results[case] for case in SERIES]

    def total(key):
        return sum(report[key] for report in reports)

    hits = sum((collections.Counter(report["at_fail_points"]) for report in reports), collections.Counter())
    rewritten = [report["rewritten"] for report in reports]
    images = [figures["images"] for case, figures in results.items() if "images" in figures]
    return [
        Line(
            "200 cuts (EXT4_IOC_SHUTDOWN) under 16 senders by C-STORE and STOW-RS, objects being delivered and freed",
            f"{total('rounds')} cuts, {hits.total()} of them at {len(hits)} fail points",
            total("rounds") >= 200,
        ),
        Line("no acknowledged object lost or corrupt", f"0 of {total('acknowledged'):,}", total("acknowledged") > 0),
        Line(
            "segments recycled and garbage collected by sled meanwhile",
            f"{total('recycled')} segments begun anew; sled went {min(rewritten)} to {max(rewritten)} times through "
            "its file",
            total("recycled") > 0 and min(rewritten) > 2,
        ),
        Line(
            "1,000 disks made from logs of writes, at flushes and between, with all, some or none of what was not "
            "flushed: mounted, recovered, compared",
            f"{sum(images):,} disks, {sum(IMAGES.values())} of them with every sync, the others with one of those "
            "below left out; 0 lost or corrupt",
            sum(images) >= 1000,
        ),
        Line(
            "strace: no answer leaves before the syncs of its record, its file and the folder of that",
            f"none of {results['order']['objects']}, by C-STORE and STOW-RS",
            True,
        ),
        *(caught(name, results[f"without {name}"]) for name in CAUGHT),
        *(harmless(name, results) for name in HARMLESS),
    ]


def caught(name, figures):
    return Line(f"without {CAUGHT[name]}, cuts show a loss", f"in round {figures['caught_in']}", True)


def harmless(name, results):
    (left_out, why), figures = HARMLESS[name], results[f"without {name}"]
    images = results.get(f"images without {name}", {}).get("images", 0)
    disks = f" and {images} disks from the log of writes" if images else ""
    return Line(
        f"without {left_out}, cuts show a loss, or what follows carries it along",
        f"harmless on ext4: {why}; 0 of {figures['acknowledged']:,} lost in {figures['rounds']} cuts{disks}",
        True,
    )
