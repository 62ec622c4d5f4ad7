"""Senders that know what they were told: C-STORE over raw sockets and STOW-RS, each in a thread of its own."""

import random
import struct
import threading
import uuid

import requests

import clients
import instances
from pdu import Closed, RawAssociation

UID_LENGTH = 44


def fresh_uid():
    """A UID of always the same length, so that it can be put in place."""
    return f"2.25.{uuid.uuid4().int % 10**38 + 10**38}"


class Template:
    """An encoded object with a hole for its SOP Instance UID: a new object costs no encoding."""

    def __init__(self, pixel_bytes, **given):
        uid = fresh_uid()
        self.model = instances.instance(pixel_bytes=pixel_bytes, SOPInstanceUID=uid, **given)
        assert len(uid) == UID_LENGTH
        self.head, self.tail = self.model.data_set.split(uid.encode())

    def make(self):
        uid = fresh_uid()
        # The pixels differ too: the end of the object is not known from another.
        mark = struct.pack("<Q", random.getrandbits(64))
        data = self.head + uid.encode() + self.tail[:-8] + mark
        return instances.replace(self.model, sop_instance=uid, data_set=data)


def ended(threads, seconds=30):
    """Waits for each of them; one that hangs is a failure of the node, which let it."""
    for each in threads:
        each.join(seconds)
        assert not each.is_alive(), f"{type(each).__name__} hangs"


class Sender(threading.Thread):
    """Sends until it is told to stop or the node is gone. `offered` is what it ever began to send, `open` what of that
    got no success.

    A refusal is an error, unless it was told to stop.
    """

    # Seconds between an answer and what is sent next.
    pause = 0

    def __init__(self, subject, pen, templates, stopping):
        super().__init__(daemon=True)
        self.subject, self.pen, self.templates, self.stopping = subject, pen, templates, stopping
        self.offered, self.open, self.acknowledged, self.error = {}, {}, 0, None

    def next(self):
        one = random.choice(self.templates).make()
        self.offered[one.sop_instance] = one.sha256
        self.open[one.sop_instance] = one
        return one

    def acknowledge(self, one):
        self.pen.write(one.sop_instance, one.sha256)
        del self.open[one.sop_instance]
        self.acknowledged += 1
        self.stopping.wait(self.pause)

    def run(self):
        while not self.stopping.is_set():
            try:
                self.session()
            except (Closed, OSError, requests.RequestException):
                # The node died, or it has not listened yet.
                self.stopping.wait(0.02)
            except Exception as error:  # noqa: BLE001 - reported by the rig
                if not self.stopping.is_set():
                    self.error = error
                    return
        self.pen.close()


class StoreSender(Sender):
    """C-STORE after C-STORE on one association."""

    def session(self):
        model = self.templates[0].model
        with RawAssociation(self.subject.address, timeout=20) as association:
            association.associate(
                [(1, model.sop_class, [model.transfer_syntax])], called=self.subject.ae_title, calling="CRASH"
            )
            while not self.stopping.is_set():
                one = self.next()
                reply = association.store(1, one.sop_class, one.sop_instance, one.data_set)
                assert reply.status == 0, f"C-STORE {reply.status:04X}"
                self.acknowledge(one)
            association.release()


class StowSender(Sender):
    """Three objects a request."""

    def session(self):
        several = [self.next() for _ in range(3)]
        body, content_type = clients.multipart([one.part10 for one in several])
        with requests.Session() as http:
            http.trust_env = False
            http.headers["Authorization"] = f"Bearer {self.subject.key}"
            response = http.post(
                self.subject.dicomweb + "/studies",
                data=body,
                timeout=20,
                headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
            )
        assert response.status_code == 200, f"STOW {response.status_code}"
        answered = {clients.values(item, "00081155")[0] for item in response.json()["00081199"]["Value"]}
        for one in several:
            if one.sop_instance in answered:
                self.acknowledge(one)
