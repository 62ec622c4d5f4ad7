"""Whether two encodings of an object say the same: element for element, and byte for byte in bulk values."""

import io

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

TRAILING_PADDING = 0xFFFCFFFC


def difference(sent, file):
    """The first difference between an Instance as sent and a Part 10 file, in words; None when there is none."""
    left = dcmread(io.BytesIO(sent.part10), force=True)
    right = dcmread(io.BytesIO(file), force=True)
    if str(right.file_meta.TransferSyntaxUID) != sent.transfer_syntax:
        return f"transfer syntax {right.file_meta.TransferSyntaxUID} instead of {sent.transfer_syntax}"
    return compare(left, right, "")


def compare(left, right, where):
    for tag in sorted(set(left.keys()) | set(right.keys())):
        if tag.element == 0 or tag == TRAILING_PADDING:
            continue  # they say nothing (PS3.5 §7.2, PS3.10 §7.2), and DCMTK as a sender leaves them out
        at = f"{where}{tag}"
        if tag not in right:
            return f"{at} is gone"
        if tag not in left:
            return f"{at} is new"
        if found := compare_values(value(left, tag), value(right, tag), at):
            return found
    return None


def value(data_set: Dataset, tag):
    """The value of an element; its bytes where pydicom can't convert them."""
    try:
        return data_set[tag].value
    except Exception:  # noqa: BLE001 - values that break the rules of their VR raise all kinds
        return data_set.get_item(tag).value


def compare_values(left, right, at):
    if isinstance(left, Sequence) and isinstance(right, Sequence):
        if len(left) != len(right):
            return f"{at} has {len(right)} items instead of {len(left)}"
        for number, (ours, theirs) in enumerate(zip(left, right)):
            if found := compare(ours, theirs, f"{at}[{number}]"):
                return found
        return None
    if plain(left) != plain(right):
        return f"{at} differs"
    return None


def plain(value):
    """A form in which equal values are equal: padding, NaN and one or many aside."""
    if value is None or value == "":
        return b""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).rstrip(b"\0 ")
    if isinstance(value, (MultiValue, list)):
        return [plain(each) for each in value]
    return str(value).rstrip("\0 ")
