"""Objects of any size pass through a small node: nothing of an object is ever held as a whole."""

import concurrent.futures
import dataclasses
import hashlib
import subprocess
import threading

import pytest

import clients
import instances
from instances import Instance, elements, encode, explicit_element, split_part10
from pdu import RawAssociation
from processes import free_port, listens, stop
from waiting import wait_until

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(300)]
MEGABYTES = 300
LIMIT = 64 << 20
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


class BigObject:
    """An Ultrasound multi-frame object that is made piece by piece, the same each time."""

    def __init__(self, megabytes=MEGABYTES):
        ds = elements(SOPClassUID=MULTI_FRAME, Modality="US", Rows=1024, Columns=1024, NumberOfFrames=str(megabytes))
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit = 7
        del ds.PixelData
        self.head = encode(ds) + b"\xe0\x7f\x10\0OB\0\0" + (megabytes << 20).to_bytes(4, "little")
        self.frames = megabytes
        self.frame = hashlib.shake_256(ds.SOPInstanceUID.encode()).digest(1 << 20)
        self.about = Instance(
            MULTI_FRAME, ds.SOPInstanceUID, "1.2.840.10008.1.2.1", b"", ds.StudyInstanceUID, ds.SeriesInstanceUID, ds
        )
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        self.sha256 = digest.hexdigest()

    def pieces(self):
        yield self.head
        for number in range(self.frames):
            yield number.to_bytes(4, "big") + self.frame[4:]

    def send(self, node, status):
        """C-STORE, streamed; the status goes into `status`."""
        from pdu import p_data, pdv

        with RawAssociation(node.address, timeout=120) as association:
            association.associate([(1, MULTI_FRAME, [self.about.transfer_syntax])], called=node.ae_title)
            association.begin_store(1, MULTI_FRAME, self.about.sop_instance)
            room = association.peer_maximum - 6
            for piece in self.pieces():
                association.send(
                    b"".join(p_data(pdv(1, 0, piece[at : at + room])) for at in range(0, len(piece), room))
                )
            association.send(p_data(pdv(1, 2, b"")))
            status.append(association.receive_message(120).status)
            association.release()


@pytest.fixture
def storescp(tmp_path):
    """DCMTK's storescp, writing bit by bit what comes."""
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    process = subprocess.Popen(
        ["storescp", "+B", "--promiscuous", "-od", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"TCP_NODELAY": "1"},
    )
    wait_until(lambda: listens(port), "storescp listens")
    yield port, folder
    stop(process)


def retrieved_sha256(node, one):
    """SHA-256 of the data set that WADO streams, without holding it."""
    response = node.http.get(node.dicomweb + one.path, headers={"Accept": clients.ANY_DICOM}, stream=True, timeout=120)
    assert response.status_code == 200
    digest, head, rest = hashlib.sha256(), b"", b""
    boundary = None
    started = False
    for piece in response.iter_content(1 << 20):
        if not started:
            head += piece
            if b"DICM" not in head or len(head) < 4096:
                continue
            started, boundary = True, head.split(b"\r\n", 2)[0] or head.split(b"\r\n", 2)[1]
            piece = split_part10(head.split(b"\r\n\r\n", 1)[1])[1]
        rest += piece
        # The closing delimiter stays behind: it is not the object's.
        digest.update(rest[:-512])
        rest = rest[-512:]
    digest.update(rest[: rest.rindex(b"\r\n" + boundary)])
    return digest.hexdigest()


def test_a_node_stays_small_while_a_big_object_is_received_forwarded_and_retrieved(make_subject, storescp):
    port, folder = storescp
    node = make_subject(
        {
            "destinations": [
                {
                    "name": "archive",
                    "kind": "dimse",
                    "ae_title": "STORESCP",
                    "host": "127.0.0.1",
                    "port": port,
                    "verify": "none",
                    "timeout": "60s",
                }
            ],
        }
    )
    first, second = BigObject(), BigObject()
    status = []
    first.send(node, status)
    clients.indexed(node, [first.about], 60)
    # Now at once: the second comes in, the first goes out to a viewer, both go out to the archive.
    sender = threading.Thread(target=second.send, args=(node, status))
    sender.start()
    digests = [retrieved_sha256(node, first.about) for _ in range(2)]
    sender.join(120)
    assert status == [0, 0]
    assert digests == [first.sha256] * 2
    wait_until(
        lambda: node.destination("archive")["sent"] + node.destination("archive")["verified"] >= 2,
        "both are delivered",
        90,
    )
    wait_until(lambda: len(list(folder.iterdir())) == 2, "both are in the archive", 30)
    peak = node.memory("VmHWM")
    print(f"peak memory {peak >> 10} KiB")
    assert peak < LIMIT, f"{peak >> 20} MiB"
    held = node.held()
    assert held[first.about.sop_instance] == [first.sha256] and held[second.about.sop_instance] == [second.sha256]
    delivered = {sha256_of_data_set(path) for path in folder.iterdir()}
    assert delivered == {first.sha256, second.sha256}


def sha256_of_data_set(path):
    with path.open("rb") as file:
        head = file.read(4096)
        start = len(head) - len(split_part10(head)[1])
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_big_stow_request_streams_too(make_subject):
    node = make_subject()
    big = BigObject(100)
    prefix = instances.file_meta(MULTI_FRAME, big.about.sop_instance, big.about.transfer_syntax)

    def body():
        yield b"--big\r\nContent-Type: application/dicom\r\n\r\n" + prefix
        yield from big.pieces()
        yield b"\r\n--big--\r\n"

    response = node.http.post(
        node.dicomweb + "/studies",
        data=body(),
        timeout=120,
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=big',
            "Accept": "application/dicom+json",
        },
    )
    assert response.status_code == 200, response.text[:300]
    assert node.held()[big.about.sop_instance] == [big.sha256]
    peak = node.memory("VmHWM")
    assert peak < LIMIT, f"{peak >> 20} MiB"


def annotated(study, items):
    """An object with a sequence of so many items, of 106 bytes each, and the same text in each."""
    ds = elements(StudyInstanceUID=study)
    del ds.PixelData
    item = b"\xfe\xff\x00\xe0\x62\0\0\0" + explicit_element(0x00111001, b"LO", b"a \"text\" & more" * 6)
    sequence = b"\x11\0\x00\x11SQ\0\0" + (items * len(item)).to_bytes(4, "little") + items * item
    one = instances.of(ds)
    return dataclasses.replace(one, data_set=encode(ds) + explicit_element(0x00110010, b"LO", b"ACME") + sequence)


def metadata_of(node, study, accept):
    response = node.http.get(f"{node.dicomweb}/studies/{study}/metadata", headers={"Accept": accept}, timeout=120)
    return response.status_code, response.content.count(b"a \\\"text" if "json" in accept else b"a &quot;text")


def test_metadata_of_any_length_share_their_memory(make_subject):
    """Each takes some 100 MiB while it is made: four answers, with four of them each."""
    node = make_subject()
    study = instances.new_uid()
    many = [annotated(study, 100_000) for _ in range(4)]
    clients.store_all(node, many)
    clients.indexed(node, many, 60)
    accepts = ["application/dicom+json", 'multipart/related; type="application/dicom+xml"'] * 2
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda accept: metadata_of(node, study, accept), accepts))
    assert answers == [(200, 4 * 100_000 * 6)] * 4
    peak = node.memory("VmHWM")
    print(f"peak memory {peak >> 20} MiB")
    assert peak < 400 << 20, f"{peak >> 20} MiB"


def test_metadata_that_no_memory_is_given_are_refused_and_the_object_is_not(make_subject):
    node = make_subject()
    one = annotated(instances.new_uid(), 300_000)
    clients.store_all(node, [one])
    clients.indexed(node, [one], 60)
    response = node.http.get(node.dicomweb + one.path + "/metadata", timeout=60)
    assert (response.status_code, response.json()["code"]) == (500, "METADATA_TOO_LONG")
    assert retrieved_sha256(node, one) == one.sha256
    assert node.memory("VmHWM") < LIMIT
