"""PS3.18 §10.5: STOW-RS."""

import json
import socket
import uuid
import xml.etree.ElementTree as ElementTree

import pytest
import requests

import clients
import instances
from clients import multipart, stow, values
from instances import encode, instance, split_part10, study
from waiting import wait_until

REFERENCED, FAILED, OTHER_FAILURES = "00081199", "00081198", "0008119A"
REASON, WARNING, RETRIEVE_URL = "00081197", "00081196", "00081190"
CLASS, INSTANCE = "00081150", "00081155"


def items(response, tag):
    """The items of a sequence of the answer; [] when it is absent or empty."""
    return response.json().get(tag, {}).get("Value", [])


def uids(response, tag):
    return sorted(values(item, INSTANCE)[0] for item in items(response, tag))


@pytest.mark.item(111, 112)
def test_all_stored_is_200_and_references_each(subject):
    many = study(3)
    response = stow(subject, many)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/dicom+json")
    assert uids(response, REFERENCED) == sorted(one.sop_instance for one in many)
    for item in items(response, REFERENCED):
        assert values(item, CLASS) == [many[0].sop_class]
    assert FAILED not in response.json(), "FailedSOPSequence without a failure"


@pytest.mark.item(112)
def test_the_answer_tells_where_to_retrieve(subject):
    """RetrieveURL of the study, and of each instance; both lead somewhere."""
    one = instance()
    response = stow(subject, [one], study=one.study)
    (url,) = values(response.json(), RETRIEVE_URL)
    assert url.endswith(f"/studies/{one.study}")
    (item,) = items(response, REFERENCED)
    (instance_url,) = values(item, RETRIEVE_URL)
    assert instance_url.endswith(one.path)
    got = subject.http.get(instance_url, headers={"Accept": clients.ANY_DICOM}, timeout=30)
    assert got.status_code == 200


@pytest.mark.item(112)
@pytest.mark.relaypacs
def test_urls_come_from_the_configuration_not_from_host(make_subject):
    node = make_subject({"http": {"public_url": "https://pacs.example/gateway"}})
    one = instance()
    body, content_type = multipart([one.part10])
    response = node.http.post(
        node.dicomweb + "/studies",
        data=body,
        timeout=30,
        headers={"Content-Type": content_type, "Accept": "application/dicom+json", "Host": "evil.example"},
    )
    (item,) = items(response, REFERENCED)
    assert values(item, RETRIEVE_URL) == [f"https://pacs.example/gateway/dicom-web{one.path}"]


@pytest.mark.item(111, 112)
def test_some_stored_is_202_with_a_reason_for_the_rest(subject):
    good, other = instance(), instance()
    bad = other.with_data_set(other.data_set[:-9])
    response = stow(subject, [good, bad])
    assert response.status_code == 202
    assert uids(response, REFERENCED) == [good.sop_instance]
    failures = items(response, FAILED) + items(response, OTHER_FAILURES)
    assert len(failures) == 1
    reason = values(failures[0], REASON)[0]
    assert 0xA700 <= reason <= 0xA9FF or 0xC000 <= reason <= 0xCFFF or reason == 0x0110, f"{reason:04X}"


@pytest.mark.item(111, 112)
def test_none_stored_is_409(subject):
    one = instance()
    response = stow(subject, [one.with_data_set(one.data_set[:-9])])
    assert response.status_code == 409
    assert REFERENCED not in response.json()
    assert len(items(response, FAILED) + items(response, OTHER_FAILURES)) == 1


@pytest.mark.item(112)
def test_a_part_without_identity_is_an_other_failure(subject):
    """PS3.18 §I.2.2: nothing can be said about it in FailedSOPSequence."""
    good = instance()
    response = stow(subject, [good.part10, b"this is no DICOM file at all" * 10])
    assert response.status_code == 202
    assert uids(response, REFERENCED) == [good.sop_instance]
    assert len(items(response, OTHER_FAILURES)) == 1
    assert values(items(response, OTHER_FAILURES)[0], REASON)


@pytest.mark.item(113)
def test_an_instance_of_another_study_than_the_paths_fails(subject):
    right, wrong = instance(), instance()
    response = stow(subject, [right, wrong], study=right.study)
    assert response.status_code == 202
    assert uids(response, REFERENCED) == [right.sop_instance]
    assert uids(response, FAILED) == [wrong.sop_instance]
    assert stow(subject, [wrong], study=right.study).status_code == 409
    assert clients.wado(subject, wrong.path).status_code == 404


@pytest.mark.item(112)
@pytest.mark.relaypacs
def test_a_class_that_is_not_storage_fails_with_0122(subject):
    one = instance(SOPClassUID="1.2.840.10008.1.3.10")
    response = stow(subject, [one])
    assert response.status_code == 409
    assert values(items(response, FAILED)[0], REASON) == [0x0122]


@pytest.mark.item(112)
@pytest.mark.relaypacs
def test_an_unknown_transfer_syntax_fails_with_c122(subject):
    one = instances.replace(instance(), transfer_syntax="1.2.3.4.5.6")
    response = stow(subject, [one])
    assert response.status_code == 409
    assert values(items(response, FAILED)[0], REASON) == [0xC122]


@pytest.mark.item(112)
@pytest.mark.relaypacs
def test_the_data_set_says_which_object_it_is(subject):
    """File meta that disagrees is common in real files, and replaced anyway."""
    one = instance()
    lying = instances.replace(one, sop_instance=instances.new_uid(), sop_class="1.2.840.10008.5.1.4.1.1.4")
    response = stow(subject, [lying])
    assert response.status_code == 200 and uids(response, REFERENCED) == [one.sop_instance]
    clients.indexed(subject, [one])
    (file,) = clients.retrieve(subject, one.path)
    meta, data = split_part10(file)
    assert meta[3].rstrip(b"\0").decode() == one.sop_instance and data == one.data_set
    assert meta[2].rstrip(b"\0").decode() == one.sop_class


@pytest.mark.item(112)
def test_the_same_object_twice_is_success_twice(subject):
    one = instance()
    for _ in range(2):
        response = stow(subject, [one])
        assert response.status_code == 200 and uids(response, REFERENCED) == [one.sop_instance]


@pytest.mark.item(112)
def test_the_answer_comes_as_xml_when_asked_for(subject):
    one = instance()
    response = stow(subject, [one], accept="application/dicom+xml")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/dicom+xml")
    root = ElementTree.fromstring(response.content)
    assert root.tag.endswith("NativeDicomModel")
    tags = {attribute.get("tag") for attribute in root.iter() if attribute.get("tag")}
    assert REFERENCED in tags and FAILED not in tags
    assert one.sop_instance in response.text


@pytest.mark.item(107)
def test_an_answer_that_nobody_can_give_is_406(subject):
    assert stow(subject, [instance()], accept="image/png").status_code == 406


# The request (PS3.18 §8.7, RFC 2387, RFC 2046)


@pytest.mark.item(111)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "application/dicom+json", "multipart/form-data; boundary=x"]
)
def test_another_media_type_is_415(subject, content_type):
    response = subject.http.post(
        subject.dicomweb + "/studies", data=b"{}", headers={"Content-Type": content_type}, timeout=30
    )
    assert response.status_code == 415


@pytest.mark.item(111)
def test_no_media_type_is_an_error(subject):
    response = requests.Request("POST", subject.dicomweb + "/studies", data=b"{}").prepare()
    response.headers.update(subject.http.headers)
    response.headers.pop("Content-Type", None)
    assert subject.http.send(response, timeout=30).status_code in (400, 415)


@pytest.mark.item(111)
def test_parts_of_another_type_are_not_taken(subject):
    response = stow(subject, [({"Content-Type": "image/jpeg"}, b"\xff\xd8\xff\xd9")], media_type="image/jpeg")
    assert response.status_code in (409, 415)


@pytest.mark.item(115)
@pytest.mark.parametrize("boundary", ["", '; boundary=""', "; boundary=" + "x" * 1_000])
def test_a_missing_or_impossible_boundary_is_400(subject, boundary):
    body, _ = multipart([instance().part10])
    response = subject.http.post(
        subject.dicomweb + "/studies",
        data=body,
        timeout=30,
        headers={"Content-Type": f'multipart/related; type="application/dicom"{boundary}'},
    )
    assert response.status_code == 400


def send(subject, body, content_type):
    return subject.http.post(
        subject.dicomweb + "/studies",
        data=body,
        timeout=60,
        headers={"Content-Type": content_type, "Accept": "application/dicom+json"},
    )


@pytest.mark.item(115)
@pytest.mark.parametrize(
    "form",
    [
        'multipart/related; type="application/dicom"; boundary={b}',
        'multipart/related; type="application/dicom"; boundary="{b}"',
        "multipart/related; type=application/dicom; boundary={b}",
        'multipart/related; boundary={b}; type="application/dicom"',
        'Multipart/Related; Type="Application/DICOM"; Boundary={b}',
        'multipart/related;type="application/dicom";boundary={b}',
    ],
)
def test_the_content_type_may_be_written_in_any_legal_way(subject, form):
    one = instance()
    boundary = uuid.uuid4().hex
    body, _ = multipart([one.part10], boundary=boundary)
    assert send(subject, body, form.format(b=boundary)).status_code == 200


@pytest.mark.item(115)
@pytest.mark.parametrize("boundary", ["a", "with.dots-and_more'()+_,./:=?", "x" * 70])
def test_any_legal_boundary_is_understood(subject, boundary):
    body, _ = multipart([instance().part10], boundary=boundary)
    content_type = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    assert send(subject, body, content_type).status_code == 200


@pytest.mark.item(115)
def test_preamble_and_epilogue_are_passed_over(subject):
    body, content_type = multipart([instance().part10])
    assert send(subject, b"to be ignored\r\n" + body + b"and this", content_type).status_code == 200


@pytest.mark.item(115)
def test_part_headers_may_be_of_any_case_and_unknown(subject):
    headers = {"content-type": "Application/Dicom", "X-Unknown": "1", "Content-Location": "http://somewhere/1"}
    body, content_type = multipart([(headers, instance().part10)])
    assert send(subject, body, content_type).status_code == 200


@pytest.mark.item(115)
def test_bare_line_feeds_are_tolerated_or_refused(subject):
    body, content_type = multipart([instance().part10])
    boundary = content_type.rsplit("=", 1)[1].encode()
    head = b"--" + boundary + b"\nContent-Type: application/dicom\n\n"
    file = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
    response = send(subject, head + file + b"\n--" + boundary + b"--\n", content_type)
    assert response.status_code in (200, 400)


@pytest.mark.item(115)
def test_a_missing_final_boundary_is_400(subject):
    one = instance()
    body, content_type = multipart([one.part10])
    assert send(subject, body[: -len(content_type.rsplit("=", 1)[1]) - 8], content_type).status_code == 400


@pytest.mark.item(115)
def test_no_part_at_all_is_400(subject):
    body, content_type = multipart([])
    assert send(subject, body, content_type).status_code == 400
    assert send(subject, b"", content_type).status_code == 400


@pytest.mark.item(115)
def test_the_delimiter_in_pixel_data_does_not_end_the_part(subject):
    """Only CRLF, two hyphens and the boundary do (RFC 2046 §5.1.1)."""
    boundary = uuid.uuid4().hex
    one = instance(PatientComments=f"--{boundary}", pixel_bytes=1000)
    body, content_type = multipart([one.part10], boundary=boundary)
    assert send(subject, body, content_type).status_code == 200
    clients.indexed(subject, [one])
    (file,) = clients.retrieve(subject, one.path)
    assert split_part10(file)[1] == one.data_set


@pytest.mark.item(115)
def test_a_chunked_body_is_taken(subject):
    many = study(4)
    body, content_type = multipart([one.part10 for one in many])
    chunks = (body[at : at + 777] for at in range(0, len(body), 777))
    assert send(subject, chunks, content_type).status_code == 200


@pytest.mark.item(115)
@pytest.mark.relaypacs
def test_thousands_of_parts_cost_no_memory_of_their_own(subject):
    """Ten thousand, with one bad among them, are a line of hostile/http.py (C65)."""
    many = [instance(pixel_bytes=128) for _ in range(10)]
    files = [one.part10 for one in many]
    boundary = "many"
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()

    def body():
        for number in range(2_000):
            yield head + files[number % 10] + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    before = subject.memory()
    response = send(subject, body(), f'multipart/related; type="application/dicom"; boundary={boundary}')
    assert response.status_code == 200
    assert len(items(response, REFERENCED)) in (10, 2_000)
    assert subject.memory("VmHWM") - before < 24 << 20


@pytest.mark.item(51)
def test_what_is_stored_comes_back_byte_for_byte(subject):
    for one in (instance(pixel_bytes=100_000), instance("1.2.840.10008.1.2"), instance("1.2.840.10008.1.2.2")):
        clients.stow_all(subject, [one])
        clients.indexed(subject, [one])
        (file,) = clients.retrieve(subject, one.path)
        assert split_part10(file)[1] == one.data_set


@pytest.mark.item(51)
@pytest.mark.relaypacs
def test_the_preamble_and_meta_of_the_sender_are_replaced(subject):
    """A preamble may hold another file's head (CVE-2019-11687)."""
    one = instance()
    clients.stow_all(subject, [b"MZ" + b"\x90" * 126 + one.part10[128:]])
    clients.indexed(subject, [one])
    (file,) = clients.retrieve(subject, one.path)
    assert file[:128] == bytes(128) and split_part10(file)[1] == one.data_set


@pytest.mark.item(114)
@pytest.mark.parametrize("media_type", ["application/dicom+json", "application/dicom+xml"])
def test_metadata_with_bulk_data_is_taken_or_415(subject, media_type):
    """Optional in the request; who does not take it says so."""
    metadata = [{"00080018": {"vr": "UI", "Value": [instances.new_uid()]}}]
    content = json.dumps(metadata).encode() if media_type.endswith("json") else b"<NativeDicomModel/>"
    response = stow(subject, [({"Content-Type": media_type}, content)], media_type=media_type)
    assert response.status_code in (409, 415)


@pytest.mark.item(119)
@pytest.mark.parametrize("bad", ["1..2", "abc", "1" * 65, "%2e%2e%2f", "1.2%00"])
def test_an_invalid_study_uid_in_the_path_is_400(subject, bad):
    assert stow(subject, [instance()], study=bad).status_code in (400, 404)


@pytest.mark.item(111)
@pytest.mark.relaypacs
def test_a_body_over_the_limit_is_413_before_it_is_read(make_subject):
    node = make_subject({"limits": {"http_body": "1 MiB"}})
    with socket.create_connection(("127.0.0.1", node.http_port), timeout=10) as connection:
        head = (
            "POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + node.key + "\r\n"
            'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n'
            "Content-Length: 9223372036854775807\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")

    def endless():
        yield b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        for _ in range(4096):
            yield bytes(4096)

    try:
        response = send(node, endless(), 'multipart/related; type="application/dicom"; boundary=b')
        assert response.status_code == 413
    except requests.ConnectionError:
        pass  # answered and closed before all was sent
    assert node.process.poll() is None


@pytest.mark.item(112)
def test_the_same_object_by_both_doors_is_one_object(subject):
    one = instance()
    clients.store_all(subject, [one])
    clients.stow_all(subject, [one])
    clients.indexed(subject, [one])
    wait_until(lambda: len(clients.qido(subject, f"/studies/{one.study}/instances")) == 1, "one instance")
    assert encode(one.elements) == one.data_set
