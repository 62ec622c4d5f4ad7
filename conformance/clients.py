"""What a sender or a viewer does, in one call each: C-STORE with exact bytes, C-FIND, STOW, QIDO, WADO."""

import email.parser
import email.policy
import uuid

from pydicom.dataset import Dataset
from pynetdicom import AE

from pdu import VERIFICATION, RawAssociation
from waiting import wait_until

CALLING = "CONFORMANCE"
PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"


def contexts_for(instances, limit=127):
    """One presentation context for each pair of SOP class and transfer syntax, as {pair: id}."""
    pairs = dict.fromkeys((one.sop_class, one.transfer_syntax) for one in instances)
    assert len(pairs) <= limit, "more pairs than presentation contexts"
    return {pair: 2 * index + 1 for index, pair in enumerate(pairs)}


def associate(subject, instances, calling=CALLING, **options):
    """An association that offers what the instances need; returns it and the ids of the contexts."""
    ids = contexts_for(instances)
    association = RawAssociation(subject.address)
    proposed = [(number, sop_class, [syntax]) for (sop_class, syntax), number in ids.items()]
    association.associate(proposed, called=subject.ae_title, calling=calling, **options)
    return association, ids


def store(subject, instances, calling=CALLING, timeout=60.0):
    """C-STORE of all on one association; the replies in order, None where the context was refused."""
    replies = []
    association, ids = associate(subject, instances, calling)
    with association:
        for number, one in enumerate(instances, 1):
            context = ids[one.sop_class, one.transfer_syntax]
            if association.accepted.results[context][0] != 0:
                replies.append(None)
                continue
            replies.append(
                association.store(context, one.sop_class, one.sop_instance, one.data_set, number & 0xFFFF or 1, timeout)
            )
        association.release()
    return replies


def store_all(subject, instances, **options):
    """C-STORE that must succeed throughout."""
    for reply in store(subject, instances, **options):
        assert reply is not None and reply.status == 0, reply


def echo(subject, calling=CALLING):
    """The status of a C-ECHO on an association of its own."""
    with RawAssociation(subject.address) as association:
        association.associate([(1, VERIFICATION, ["1.2.840.10008.1.2"])], called=subject.ae_title, calling=calling)
        status = association.echo().status
        association.release()
        return status


def query(level, **keys):
    """A C-FIND identifier; a key's value None is a zero-length key."""
    identifier = Dataset()
    if level is not None:
        identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, "" if value is None else value)
    return identifier


def find(subject, identifier, model=STUDY_ROOT, **options):
    """All answers as (status, data set or None), by pynetdicom."""
    application = AE(CALLING)
    application.add_requested_context(model)
    association = application.associate(*subject.address, ae_title=subject.ae_title, **options)
    assert association.is_established, "no association"
    try:
        return [(status.get("Status"), answer) for status, answer in association.send_c_find(identifier, model)]
    finally:
        association.release()


def found(subject, identifier, model=STUDY_ROOT):
    """The matches of a C-FIND that must end in success."""
    answers = find(subject, identifier, model)
    assert answers[-1][0] == 0x0000, f"final status {answers[-1][0]:04X}"
    assert answers[-1][1] is None, "the final answer carries a data set"
    return [answer for _, answer in answers[:-1]]


def indexed(subject, instances, seconds=30.0):
    """Waits until a query sees all the instances: the index follows the acknowledgement."""
    for study in {one.study for one in instances}:
        expected = {one.sop_instance for one in instances if one.study == study}
        wait_until(
            lambda study=study, expected=expected: expected <= sop_instances(subject, study),
            f"the index holds study {study}",
            seconds,
        )


def sop_instances(subject, study):
    """The SOP Instance UIDs that QIDO tells of a study."""
    return {match["00080018"]["Value"][0] for match in qido(subject, f"/studies/{study}/instances")}


# DICOMweb


def multipart(parts, media_type="application/dicom", boundary=None, **parameters):
    """(body, Content-Type) of a multipart/related request; `parts` are bytes or (headers, bytes)."""
    boundary = boundary or uuid.uuid4().hex
    chunks = []
    for part in parts:
        headers, content = part if isinstance(part, tuple) else ({"Content-Type": media_type}, part)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        chunks.append(f"--{boundary}\r\n{lines}\r\n".encode() + content + b"\r\n")
    extra = "".join(f"; {name}={value}" for name, value in parameters.items())
    content_type = f'multipart/related; type="{media_type}"; boundary={boundary}{extra}'
    return b"".join(chunks) + f"--{boundary}--\r\n".encode(), content_type


def stow(subject, parts, study=None, accept="application/dicom+json", timeout=120, **options):
    """POST of Part 10 files; the response."""
    parts = [part.part10 if hasattr(part, "part10") else part for part in parts]
    body, content_type = multipart(parts, **options)
    path = f"/studies/{study}" if study else "/studies"
    return subject.http.post(
        subject.dicomweb + path, data=body, timeout=timeout, headers={"Content-Type": content_type, "Accept": accept}
    )


def stow_all(subject, parts, **options):
    response = stow(subject, parts, **options)
    assert response.status_code == 200, f"{response.status_code} {response.text[:400]}"
    return response


def parts_of(response):
    """The parts of a multipart response as (headers, body); the body's bytes are exact (RFC 2046 §5.1.1)."""
    message = email.parser.HeaderParser(policy=email.policy.HTTP).parsestr(
        f"Content-Type: {response.headers['Content-Type']}\n\n"
    )
    assert message.get_content_type() == "multipart/related", response.headers["Content-Type"]
    delimiter = b"\r\n--" + message.get_boundary().encode()
    pieces = (b"\r\n" + response.content).split(delimiter)
    assert pieces[-1].startswith(b"--"), "no closing delimiter"
    parts = []
    for piece in pieces[1:-1]:
        head, body = piece.split(b"\r\n\r\n", 1)
        headers = email.parser.HeaderParser(policy=email.policy.HTTP).parsestr(head.decode().strip() + "\n\n")
        parts.append(({name.lower(): value for name, value in headers.items()}, body))
    return parts


ANY_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def wado(subject, path, accept=ANY_DICOM, timeout=120, **headers):
    return subject.http.get(subject.dicomweb + path, headers={"Accept": accept} | headers, timeout=timeout)


def retrieve(subject, path, **options):
    """The Part 10 files at a path, in the transfer syntaxes in which they are stored."""
    response = wado(subject, path, **options)
    assert response.status_code == 200, f"{response.status_code} {response.text[:300]}"
    return [body for _, body in parts_of(response)]


def search(subject, path, params=None, accept="application/dicom+json", **headers):
    """A QIDO request; the response."""
    return subject.http.get(subject.dicomweb + path, params=params, headers={"Accept": accept} | headers, timeout=60)


def qido(subject, path, params=None):
    """The matches of a QIDO request that must succeed."""
    response = search(subject, path, params)
    assert response.status_code in (200, 204), f"{response.status_code} {response.text[:300]}"
    return response.json() if response.status_code == 200 else []


def values(match, tag):
    """The values of an attribute in DICOM JSON; [] when it is absent or empty."""
    return match.get(tag, {}).get("Value", [])
