"""Makes the project's own test files: synthetic, small, the same bytes each time.

    python testdata/generate.py            writes testdata/*.dcm and testdata/bad/*.dcm
    python testdata/generate.py --check    exits with 1 when what is committed differs

Everything here is made by this program: no patient, no device, no foreign file stands behind any of it. Names, dates
and pixels are invented; UIDs are derived from the files' names (2.25, PS3.5 §B.2). Needs pydicom (pinned in
conformance/requirements.txt), which only encodes elements; file meta and damage are written by hand.
"""

import hashlib
import pathlib
import struct
import sys
import zlib

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

HERE = pathlib.Path(__file__).resolve().parent
IMPLICIT, EXPLICIT, DEFLATED, BIG, RLE, JPEG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
)
CT, MR, US_MULTI, SECONDARY, TEXT_SR, PRIVATE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.88.11",
    "1.2.826.0.1.3680043.10.1234.1",
)


def uid(*names):
    digest = hashlib.sha256("/".join(("relaypacs testdata", *map(str, names))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def pixels(name, count):
    return hashlib.shake_256(name.encode()).digest(count)


def image(name, sop_class=CT, modality="CT", study="study-1", series=None, number=1, **more):
    """A small image's data set; `more` adds or replaces elements, None removes one."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid("instance", name)
    ds.StudyDate, ds.StudyTime = "20240229", "101112.500"
    ds.AccessionNumber = "ACC-1"
    ds.Modality, ds.Manufacturer = modality, "Synthetic"
    ds.ReferringPhysicianName = "Referrer^Synthetic"
    ds.StudyDescription, ds.SeriesDescription = "Synthetic study", f"Synthetic {modality}"
    ds.PatientName, ds.PatientID = "Synthetic^Patient", "SYN-1"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study", study), uid("series", study, series or modality)
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", 1, number
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.add_new(0x7FE00010, "OW", pixels(name, 512))
    for keyword, value in more.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encode(ds, transfer_syntax):
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = transfer_syntax != BIG, transfer_syntax == IMPLICIT
    write_dataset(out, ds)
    data = out.getvalue()
    if transfer_syntax == DEFLATED:
        # Stored blocks only: the bytes do not depend on the version of zlib.
        deflate = zlib.compressobj(0, wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
        data += b"\0" * (len(data) % 2)
    return data


def element(tag, vr, value):
    """One element in Explicit VR Little Endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def part10(ds, transfer_syntax, data=None):
    """Preamble, file meta (PS3.10 §7.1) and data set."""
    even = lambda text: text.encode() + b"\0" * (len(text) % 2)  # noqa: E731
    meta = element(0x00020001, b"OB", b"\0\1")
    meta += element(0x00020002, b"UI", even(ds.SOPClassUID)) + element(0x00020003, b"UI", even(ds.SOPInstanceUID))
    meta += element(0x00020010, b"UI", even(transfer_syntax)) + element(0x00020012, b"UI", even(uid("implementation")))
    head = bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    return head + meta + (encode(ds, transfer_syntax) if data is None else data)


def encapsulated(ds, *fragments):
    """The data set with its pixels in fragments (PS3.5 §A.4)."""
    head = encode(ds, EXPLICIT)
    head = head[: head.index(b"\xe0\x7f\x10\0OW")]
    out = head + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0"
    for fragment in fragments:
        assert len(fragment) % 2 == 0, "PS3.5 §A.4"
        out += b"\xfe\xff\0\xe0" + struct.pack("<I", len(fragment)) + fragment
    return out + b"\xfe\xff\xdd\xe0\0\0\0\0"


def rle_frame(data):
    """One frame of 16-bit pixels as two segments of literal runs (PS3.5 §G)."""

    def segment(plane):
        out = b"".join(
            bytes([len(run) - 1]) + run for run in (plane[at : at + 128] for at in range(0, len(plane), 128))
        )
        return out + b"\0" * (len(out) % 2)

    high, low = segment(data[1::2]), segment(data[0::2])
    return struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low


def report(name):
    ds = image(
        name,
        TEXT_SR,
        "SR",
        study="report",
        Rows=None,
        Columns=None,
        PixelData=None,
        BitsAllocated=None,
        BitsStored=None,
        HighBit=None,
        PixelRepresentation=None,
        SamplesPerPixel=None,
        PhotometricInterpretation=None,
        ImageType=None,
    )
    ds.CompletionFlag, ds.VerificationFlag, ds.ValueType, ds.ContinuityOfContent = (
        "COMPLETE",
        "UNVERIFIED",
        "CONTAINER",
        "SEPARATE",
    )
    text = Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = (
        "CONTAINS",
        "TEXT",
        "No findings: nobody was examined.\r\nLine two.",
    )
    ds.ContentSequence = Sequence([text])
    return ds


def with_everything(name):
    """Private elements, nested sequences, several values, an empty element, Unicode."""
    ds = image(
        name, study="everything", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientComments="ünï¢ödé  "
    )
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "1", "99SYN", "inner"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    outer.ReferencedSOPClassUID, outer.ReferencedSOPInstanceUID = CT, uid("referenced")
    ds.ReferencedImageSequence = Sequence([outer, Dataset()])
    ds.AccessionNumber = ""
    block = ds.private_block(0x0009, "RELAYPACS SYNTHETIC", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "OB", bytes(range(32)))
    return ds


def good():
    """name → bytes of a file that is to be stored as it is."""
    files = {}
    for number in (1, 2, 3):
        files[f"ct-{number}"] = part10(image(f"ct-{number}", number=number), EXPLICIT)
    for name, syntax in {"implicit": IMPLICIT, "big-endian": BIG, "deflated": DEFLATED}.items():
        files[name] = part10(image(name, MR, "MR", study=name), syntax)
    ds = image("rle", study="compressed", series="rle")
    files["rle"] = part10(ds, RLE, encapsulated(ds, rle_frame(ds.PixelData)))
    ds = image("two-fragments", SECONDARY, "OT", study="compressed", series="jpeg")
    files["two-fragments"] = part10(
        ds, JPEG, encapsulated(ds, b"\xff\xd8\xff\xe0no real JPEG", b"nothing decodes it\xff\xd9")
    )
    ds = image("multi-frame", US_MULTI, "US", study="multi", NumberOfFrames="4")
    ds.PixelData = pixels("multi-frame", 4 * 512)
    files["multi-frame"] = part10(ds, EXPLICIT)
    files["report"] = part10(report("report"), EXPLICIT)
    files["everything"] = part10(with_everything("everything"), EXPLICIT)
    files["private-class"] = part10(image("private-class", PRIVATE, "OT", study="private"), EXPLICIT)
    ds = image("latin-1", study="latin-1", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    files["latin-1"] = part10(ds, EXPLICIT)
    ds = image("undefined-lengths", study="undefined")
    data = encode(ds, EXPLICIT)
    at = data.index(b"\x10\0\x10\0PN")
    item = (
        b"\xfe\xff\0\xe0\xff\xff\xff\xff"
        + element(0x00081150, b"UI", CT.encode() + b"\0")
        + b"\xfe\xff\x0d\xe0\0\0\0\0"
    )
    sequence = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item * 2 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    padding = element(0xFFFCFFFC, b"OB", bytes(32))
    files["undefined-lengths"] = part10(ds, EXPLICIT, data[:at] + sequence + data[at:] + padding)
    return files


def bad():
    """name → bytes of a file that must be refused (C000), whatever a reader makes of it."""
    ds = image("bad")
    data = encode(ds, EXPLICIT)
    at = data.index(b"\x10\0\x10\0PN")
    begin = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    damaged = {
        "cut-in-pixel-data": data[:-7],
        "cut-in-a-header": data[: at + 5],
        "length-past-the-end": data[:at] + b"\x10\0\x10\0PN\xf0\xff" + data[at + 8 :],
        "deeply-nested": data[:at] + begin * 1200 + end * 1200 + data[at:],
        "open-sequence": data[:at] + begin + data[at:],
        "empty": b"",
        "implicit-claimed-explicit": encode(ds, IMPLICIT),
    }
    files = {name: part10(ds, EXPLICIT, bytes_) for name, bytes_ in damaged.items()}
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        lacking = image("bad")
        delattr(lacking, keyword)
        files[f"no-{keyword}"] = part10(ds, EXPLICIT, encode(lacking, EXPLICIT))
    return files


def everything():
    files = {HERE / f"{name}.dcm": data for name, data in good().items()}
    return files | {HERE / "bad" / f"{name}.dcm": data for name, data in bad().items()}


def main():
    files = everything()
    if "--check" in sys.argv:
        committed = set(HERE.glob("*.dcm")) | set(HERE.glob("bad/*.dcm"))
        wrong = [path for path, data in files.items() if not path.exists() or path.read_bytes() != data]
        wrong += committed - set(files)
        for path in wrong:
            print(f"differs: {path.relative_to(HERE)}")
        sys.exit(1 if wrong else 0)
    (HERE / "bad").mkdir(exist_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values()))} bytes")


if __name__ == "__main__":
    main()
