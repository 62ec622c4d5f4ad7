"""What lies in a spool's folder, as far as campaigns break it: where records stand in the log, and where bits flip.

Read by hand from the format (src/spool/record.rs); nothing of the node is used.
"""

import dataclasses
import json
import pathlib
import struct

FIRST_RECORD = 4096
# Magic, payload, generation, sequence, acked_through, lengths of meta, prefix and data set, SHA-256, two checksums.
HEADER = struct.Struct("<4sB3xI4xQQIIQ32sII")
SEGMENT_HEADER = 16
NONE, INLINE, LARGE, VOID = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Record:
    path: pathlib.Path
    offset: int
    generation: int
    sequence: int
    acked_through: int
    payload: int
    meta_length: int
    prefix_length: int
    data_set_length: int
    sop_instance: str | None
    large: str | None

    @property
    def is_object(self):
        return self.sop_instance is not None

    @property
    def end(self):
        """Before its padding."""
        inline = self.data_set_length if self.payload == INLINE else 0
        return self.offset + HEADER.size + self.meta_length + self.prefix_length + inline

    @property
    def padded_end(self):
        return self.end + -(self.end - self.offset) % 8

    def parts(self):
        """The stretches of the record by what they hold: (offset, length)."""
        meta = self.offset + HEADER.size
        prefix, data_set = meta + self.meta_length, meta + self.meta_length + self.prefix_length
        parts = {
            "header": (self.offset, HEADER.size),
            "lengths": (self.offset + 32, 16),
            "digest": (self.offset + 48, 32),
            "checksums": (self.offset + 80, 8),
            "meta": (meta, self.meta_length),
            "prefix": (prefix, self.prefix_length),
            "data set": (data_set, self.end - data_set),
            "padding": (self.end, self.padded_end - self.end),
        }
        return {name: part for name, part in parts.items() if part[1] > 0}


def segments(spool):
    return sorted((spool / "segments").glob("segment-*.log"))


def records(spool):
    """Every record of the log, in its order."""
    found = [record for path in segments(spool) for record in records_of(path)]
    return sorted(found, key=lambda record: record.sequence)


def records_of(path):
    data = path.read_bytes()
    generation, at = struct.unpack_from("<I", data, 8)[0], FIRST_RECORD
    while at + HEADER.size <= len(data):
        magic, payload, of, sequence, acked, meta_length, prefix_length, data_set_length, *_ = HEADER.unpack_from(data, at)
        if magic != b"RPr1" or of != generation:
            return
        if payload == VOID:
            at += HEADER.size + data_set_length
            continue
        meta = json.loads(data[at + HEADER.size : at + HEADER.size + meta_length])
        received = meta["fact"].get("received")
        uid = received["key"]["sop_instance_uid"] if received else None
        lengths = meta_length, prefix_length, data_set_length
        record = Record(path, at, generation, sequence, acked, payload, *lengths, uid, meta.get("large"))
        yield record
        at = record.padded_end


def flip(path, offset, bit):
    """One bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def segment_head(number):
    """The first bytes of a segment of this generation, without what tells its log."""
    head = struct.pack("<8sI", b"RPsegm1\n", number)
    return head + struct.pack("<I", crc32c(head))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
