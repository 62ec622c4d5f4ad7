"""Reads the collection: which files there are, and what a sender makes of each."""

import csv
import functools
import io
import os
import pathlib
import re
import struct
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from instances import Instance, new_uid, sha256, split_part10

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent
EXPECTED = pathlib.Path(__file__).resolve().parent.parent / "expected.tsv"
# Reasons of expected.tsv for what is no SOP instance, or not one in full: it is not to be stored by anybody.
TEXT, DICOMDIR, TRUNCATED = "no DICOM: text", "DICOMDIR: no storage SOP class", "truncated: ends inside an element"
NO_IDENTITY = "no SOPInstanceUID"
NO_STUDY = "belongs to no study (PS3.4 Annex GG)"
COLUMNS = ["sha256", "file", "c_store", "stow", "archive", "reason"]


def folder():
    """Where the collection is; None when it is not there."""
    path = pathlib.Path(os.environ.get("RELAYPACS_TESTDATA", CHECKOUT.parent / "shared/testdata"))
    return path if (path / "MANIFEST.tsv").exists() else None


@dataclass(frozen=True)
class RealFile:
    name: str
    sha256: str

    @property
    def malformed(self):
        return self.name.startswith("malformed/")

    @functools.cached_property
    def data(self):
        return (folder() / self.name).read_bytes()

    @functools.cached_property
    def instance(self):
        """What a sender would put on the wire: the data set's own bytes, and what it says about them."""
        return read(self.data)


def files():
    """All files of the collection, in the manifest's order."""
    if folder() is None:
        return []
    with (folder() / "MANIFEST.tsv").open(newline="") as manifest:
        rows = csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [RealFile(row["file"], row["sha256"]) for row in rows]


def read(data):
    """The data set's bytes as they are, under the identifiers that it gives itself, as DCMTK's storescu sends it; else
    those of the file meta, else made up."""
    try:
        meta, data_set = split_part10(data)
    except (ValueError, struct.error):
        meta, data_set = {}, data
    text = {number: value.rstrip(b"\0 ").decode("ascii", "replace") for number, value in meta.items()}
    header = peek(data)

    def identifier(keyword, number, otherwise):
        own = str(header.get(keyword, "") or "")
        return own if valid(own) else text[number] if valid(text.get(number, "")) else otherwise

    syntax = text.get(0x10, "")
    return Instance(
        identifier("SOPClassUID", 0x02, CTImageStorage),
        identifier("SOPInstanceUID", 0x03, new_uid()),
        syntax if valid(syntax) else guess(data_set),
        data_set,
        str(header.get("StudyInstanceUID", "")),
        str(header.get("SeriesInstanceUID", "")),
    )


def valid(uid):
    return re.fullmatch(r"[0-9]+(\.[0-9]+)*", uid) is not None and len(uid) <= 64


def peek(data):
    """What pydicom can read of the identifiers; {} when it can't."""
    try:
        return dcmread(
            io.BytesIO(data),
            force=True,
            stop_before_pixels=True,
            specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"],
        )
    except Exception:  # noqa: BLE001 - damaged files raise all kinds
        return {}


def guess(data_set):
    """The transfer syntax of a data set without file meta: explicit when the fifth and sixth byte are a VR."""
    return ExplicitVRLittleEndian if data_set[4:6].isalpha() and data_set[4:6].isupper() else ImplicitVRLittleEndian


def check_unchanged(file):
    assert sha256(file.data) == file.sha256, f"{file.name} is not the file that the manifest means"


def expected():
    """The committed expectations by SHA-256."""
    with EXPECTED.open(newline="") as table:
        lines = (line for line in table if not line.startswith("#"))
        return {row["sha256"]: row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}
