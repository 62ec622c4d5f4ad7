"""Synthetic objects for the tests: a short builder, and exact control over their bytes.

An `Instance` is what crosses the wire: identifiers, transfer syntax and the data set's bytes. Comparing bytes, never
re-encoded data sets, is what "stored as it came" means.
"""

import hashlib
import itertools
import struct
import uuid
import zlib
from dataclasses import dataclass, field, replace

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

IMPLEMENTATION_CLASS = "1.2.826.0.1.3680043.8.498.77"
_counter = itertools.count(1)


def new_uid():
    """A UID never used before (PS3.5 §B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def stable_uid(*names):
    """Always the same UID for the same names."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def encode(data_set, transfer_syntax=ExplicitVRLittleEndian):
    """The bytes of a data set in a transfer syntax, as they stand in a C-STORE message."""
    out = DicomBytesIO()
    out.is_little_endian = transfer_syntax != ExplicitVRBigEndian
    out.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    write_dataset(out, data_set)
    data = out.getvalue()
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
        data += b"\0" * (len(data) % 2)
    return data


def file_meta(sop_class, sop_instance, transfer_syntax):
    """Preamble and file meta information (PS3.10 §7.1), written by hand."""

    def element(number, vr, value):
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    body = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    body += element(0x02, b"UI", sop_class.encode())
    body += element(0x03, b"UI", sop_instance.encode())
    body += element(0x10, b"UI", transfer_syntax.encode())
    body += element(0x12, b"UI", IMPLEMENTATION_CLASS.encode())
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def split_part10(data):
    """(file meta values by element number, data set bytes) of a Part 10 file; raises ValueError when it is none."""
    if data[128:132] != b"DICM":
        raise ValueError("no DICM prefix")
    at, meta = 132, {}
    while data[at : at + 2] == b"\2\0":
        element, vr = struct.unpack_from("<H2s", data, at + 2)
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            length, start = struct.unpack_from("<I", data, at + 8)[0], at + 12
        else:
            length, start = struct.unpack_from("<H", data, at + 6)[0], at + 8
        meta[element] = data[start : start + length]
        at = start + length
    return meta, data[at:]


@dataclass(frozen=True)
class Instance:
    """One SOP instance as it is sent."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes
    study: str = ""
    series: str = ""
    elements: Dataset | None = field(default=None, compare=False)

    @property
    def sha256(self):
        return sha256(self.data_set)

    @property
    def part10(self):
        return file_meta(self.sop_class, self.sop_instance, self.transfer_syntax) + self.data_set

    @property
    def path(self):
        return f"/studies/{self.study}/series/{self.series}/instances/{self.sop_instance}"

    def with_data_set(self, data):
        return replace(self, data_set=data)


def elements(**given):
    """A CT slice's data set; keywords replace or add elements, None removes one."""
    number = next(_counter)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = new_uid()
    ds.StudyDate = "20240229"
    ds.StudyTime = "101112.500"
    ds.AccessionNumber = f"A{number:05}"
    ds.Modality = "CT"
    ds.Manufacturer = "Synthetic"
    ds.ReferringPhysicianName = "Referrer^Synthetic"
    ds.StudyDescription = "Synthetic study"
    ds.SeriesDescription = "Synthetic series"
    ds.PatientName = "Synthetic^Patient"
    ds.PatientID = f"SYN{number:05}"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = new_uid()
    ds.SeriesInstanceUID = new_uid()
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = 8
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.add_new(0x7FE00010, "OW", b"".join(struct.pack("<H", (number * 7 + i * 31) & 0xFFFF) for i in range(64)))
    for keyword, value in given.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def of(ds, transfer_syntax=ExplicitVRLittleEndian):
    """The instance that a data set makes."""
    return Instance(
        str(ds.get("SOPClassUID", CTImageStorage)),
        str(ds.get("SOPInstanceUID", "")),
        str(transfer_syntax),
        encode(ds, transfer_syntax),
        str(ds.get("StudyInstanceUID", "")),
        str(ds.get("SeriesInstanceUID", "")),
        ds,
    )


def instance(transfer_syntax=ExplicitVRLittleEndian, pixel_bytes=None, **given):
    """A synthetic instance; `pixel_bytes` makes its Pixel Data (about) so long."""
    ds = elements(**given)
    if pixel_bytes is not None:
        side = max(1, int((pixel_bytes / 2) ** 0.5))
        ds.Rows = ds.Columns = side
        seed = hashlib.sha256(ds.SOPInstanceUID.encode()).digest()
        ds["PixelData"].value = (seed * (side * side * 2 // 32 + 1))[: side * side * 2]
    return of(ds, transfer_syntax)


def study(count, transfer_syntax=ExplicitVRLittleEndian, **given):
    """`count` instances of one series."""
    common = {
        "StudyInstanceUID": new_uid(),
        "SeriesInstanceUID": new_uid(),
        "PatientID": f"SYN{new_uid()[-9:]}",
    } | given
    return [instance(transfer_syntax, InstanceNumber=number, **common) for number in range(1, count + 1)]


def explicit_element(tag, vr, value):
    """One element in Explicit VR Little Endian, by hand."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT", b"SV", b"UV"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def nested(depth):
    """The start of a data set: `depth` sequences of undefined length within each other, closed."""
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return begin * depth + end * depth
