"""Bytes on the node's disk rot, are cut off, or vanish with their files; then each object is asked after.

Each is held with the bytes that were sent, or named as damaged or missing: see `image`. A resend heals what was named.
"""

import concurrent.futures
import random
import shutil

import clients
import instances
from crash import projections, spool_files
from crash.campaign import Line, total
from crash.image import Image, examine, in_parallel, listed_as_lost
from crash.senders import Template
from crash.storm import storm
from waiting import wait_until

# The log cut off


def few(node):
    objects = [smallest(number) for number in range(1, 6)]
    clients.store_all(node, objects)
    clients.indexed(node, objects)
    return objects


def smallest(number):
    """Few bytes, so that there are few to cut at."""
    gone = ("AccessionNumber", "Manufacturer", "ReferringPhysicianName", "StudyDescription", "SeriesDescription")
    gone += ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyTime", "PixelData")
    return instances.instance(SOPInstanceUID=f"1.2.{number}", **dict.fromkeys(gone))


def cut_off(image, how, step):
    """The log cut at each byte (or each step-th) from where its last object begins to its end."""
    log = spool_files.records(image.data / "spool")
    last = [record for record in log if record.is_object][-1]
    places = list(enumerate(range(last.offset, log[-1].padded_end + 1, step)))
    done = in_parallel(image, lambda node, place: cut_one(node, image, last, CUTS[how], *place), places)
    named = sum(each["named"] > 0 for each in done)
    # Where a sector is the least that is lost, each place may be in one with the object.
    assert named > 0 and (named < len(done) or how == NOT_READ)
    return {"cuts": len(done), "named": named}


def cut_one(node, image, last, cut, number, at):
    spool = image.lay(node)
    cut(spool, spool / "segments" / last.path.name, at)
    if cut is not_read:
        for path in node.database_files():
            path.unlink()
    elif not (spool / "queue").exists():
        # Only the index still knows how long the log was; commands don't ask it, and it tells in its own time.
        node.start()
        wait_until(
            lambda: last.sop_instance in node.held() or listed_as_lost(spool), "the index has told what it knew", 20
        )
        node.kill()
    starts = 2 if number % 8 == 0 else 1
    # Its padding belongs to it. What the disk does not read it does not read by sectors.
    begin = sector_of(at) if cut is not_read else at
    log = spool_files.records(image.data / "spool")
    touched = {record.sop_instance for record in log if record.is_object and begin < record.padded_end}
    return examine(node, image, touched, starts)


def sector_of(at):
    return at // SECTOR * SECTOR


def truncated(_, path, at):
    with path.open("r+b") as file:
        file.truncate(at)


def wiped(spool, path, at):
    """Zeros, as in a preallocated file that no write reached."""
    length = path.stat().st_size
    truncated(spool, path, at)
    truncated(spool, path, length)


def wiped_without_queue(spool, path, at):
    wiped(spool, path, at)
    shutil.rmtree(spool / "queue")


def not_read(spool, path, at):
    """A failing disk's copy, made as docs/operations.md says, whose queue is lost; and so will be its index."""
    mark = random.randbytes(16)
    (spool / "segments" / "unread-mark").write_bytes(mark)
    with path.open("r+b") as file:
        file.seek(sector_of(at))
        file.write((mark * SECTOR)[: UNREAD * SECTOR])
    shutil.rmtree(spool / "queue")


SECTOR, UNREAD = 512, 8
NOT_READ = "not read, queue and index lost"
CUTS = {
    "truncated": truncated,
    "wiped": wiped,
    "wiped and its queue lost": wiped_without_queue,
    NOT_READ: not_read,
}

# Flipped bits

KINDS = ["header", "lengths", "digest", "checksums", "meta", "prefix", "data set", "padding", "large file"]
FLIPS = 250


def many(node):
    """Some in files of their own, over two segments; from several senders, so that a batch has several."""
    templates = [Template(size) for size in (600, 600, 600, 2_000, 20_000)]
    objects = [random.choice(templates).make() for _ in range(320)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda share: clients.store_all(node, share), [objects[number::6] for number in range(6)]))
    clients.indexed(node, objects)
    return objects


def flips(image, rounds, seed):
    generator = random.Random(seed)
    seeds = [generator.random() for _ in range(rounds)]
    done = in_parallel(image, lambda node, each: flip_round(node, image, each), seeds)
    return {key: sum(figures[key] for figures in done) for key in done[0]}


def flip_round(node, image, seed):
    """Bits flipped in so many objects at once; with and without the queue. Then all is sent again."""
    generator = random.Random(seed)
    spool, with_queue = image.lay(node), generator.random() < 0.5
    log = spool_files.records(spool)
    # The last batch of the log can't be told from one that was being written when its queue is lost: see `cut_off`.
    settled = [record for record in log if record.is_object and record.sequence <= log[-1].acked_through]
    touched = generator.sample(settled, FLIPS)
    for record in touched:
        flip_in(spool, record, generator)
    header = generator.random() < 0.3
    if header:
        segment = generator.choice(sorted({record.path for record in log}))
        spool_files.flip(segment, generator.randrange(spool_files.SEGMENT_HEADER), generator.randrange(8))
    if not with_queue:
        shutil.rmtree(spool / "queue")
    stands = examine(node, image, {record.sop_instance for record in touched})
    node.start()
    clients.store_all(node, [image.objects[record.sop_instance] for record in touched])
    node.kill()
    examine(node, image, starts=1)
    return {"flips": FLIPS + header, "named": stands["named"], "harmless": FLIPS + header - stands["named"]}


def flip_in(spool, record, generator):
    kind = generator.choice(KINDS)
    path, (begin, length) = record.path, record.parts().get(kind) or record.parts()["header"]
    if kind == "large file" and record.large:
        path, begin, length = spool / "large" / record.large, 0, record.data_set_length
    spool_files.flip(path, begin + generator.randrange(length), generator.randrange(8))


# The campaign

TITLE = "What is on the disk is damaged"
# The first at every byte; all of them so would take an hour.
STEPS = {"truncated": 1, **dict.fromkeys(list(CUTS)[1:], 16)}


FLIPPED = [f"flips {number}" for number in range(1, 11)]
STORMS = [f"storm {number}" for number in range(1, 6)]


def cases():
    return [*FLIPPED, "queue", "database", *STORMS, *STEPS]


def run(case):
    if case in STORMS:
        return storm(20, seed=case)
    if case in STEPS:
        return on(Image(few), lambda image: cut_off(image, case, STEPS[case]))
    if case in FLIPPED:
        return on(Image(many), lambda image: flips(image, 4, seed=case))
    return on(projections.past(), {"queue": projections.queue, "database": projections.database}[case])


def on(image, work):
    try:
        return work(image)
    finally:
        image.remove()


def lines(results):
    flipped, storms = total(results, FLIPPED), total(results, STORMS)
    cut, queue, database = results["truncated"], results["queue"], results["database"]
    wiped = [results[how] for how in STEPS if how.startswith("wiped")]
    unread = results[NOT_READ]
    return [
        Line(
            "the log truncated at every byte of its last object and what follows it",
            f"{cut['cuts']:,} places: the object named at {cut['named']:,}, held at the others",
            cut["cuts"] > 1000,
        ),
        Line(
            "zeros from there on instead, with the queue and without it (then the index knows)",
            f"{sum(each['cuts'] for each in wiped)} places: named at {sum(each['named'] for each in wiped)}, else held",
            True,
        ),
        Line(
            "not readable from there on, copied as docs/operations.md says, queue and index lost",
            f"{unread['cuts']} places: named at {unread['named']}, else held",
            True,
        ),
        Line(
            "10,000 flipped bits in headers, facts, objects, padding and large files, 250 at a time, half of the times "
            "with the queue lost as well: each object held as it was sent, or named, again at the next start; after a "
            "resend all are held",
            f"{flipped['flips']:,} flips: {flipped['named']:,} objects named, {flipped['harmless']:,} unharmed",
            flipped["flips"] >= 10_000,
        ),
        Line(
            "sled's folder deleted, its files deleted, cut off, with flipped bits: deliveries, conflicts and objects "
            "known again as before",
            f"{queue['damages']} times; {queue['starts_that_failed']} times only at the second start",
            True,
        ),
        Line(
            "the SQL database lost, cut off, with flipped bits: every object held, and found by QIDO-RS once the "
            "database was removed",
            f"{database['damages']} times; {database['refused']} times the node refused to start, and said why",
            True,
        ),
        Line(
            "objects sent again and again while copies of them rot on the disk, with kill -9 between: those "
            "acknowledged since they rotted are held, the others held or named; a last resend heals all",
            f"{storms['acknowledged']:,} sendings, {storms['rotted']:,} rotted, {storms['kills']} kills: 0 lost",
            storms["kills"] >= 100,
        ),
    ]
