"""PS3.18 §10.4: WADO-RS. Stored bytes, metadata, and the words around them."""

import re

import pytest
import requests

import clients
import instances
from clients import ANY_DICOM, parts_of, wado
from instances import elements, encode, instance, of, split_part10, study

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)


@pytest.fixture(scope="module")
def stored(subject):
    """Two series of one study, 3 + 2 instances."""
    first = study(3)
    second = study(2, StudyInstanceUID=first[0].study, PatientID=first[0].elements.PatientID)
    clients.store_all(subject, first + second)
    clients.indexed(subject, first + second)
    return first + second


@pytest.fixture(scope="module")
def single(subject, stored):
    return stored[0]


def data_sets(files):
    return sorted(split_part10(file)[1] for file in files)


# Resources (PS3.18 §10.4.1)


@pytest.mark.item(116)
def test_a_study_comes_whole(subject, stored):
    files = clients.retrieve(subject, f"/studies/{stored[0].study}")
    assert data_sets(files) == sorted(one.data_set for one in stored)


@pytest.mark.item(116)
def test_a_series_comes_whole(subject, stored):
    files = clients.retrieve(subject, f"/studies/{stored[0].study}/series/{stored[0].series}")
    assert data_sets(files) == sorted(one.data_set for one in stored[:3])


@pytest.mark.item(116)
def test_an_instance_comes_alone(subject, single):
    (file,) = clients.retrieve(subject, single.path)
    assert split_part10(file)[1] == single.data_set


@pytest.mark.item(116)
def test_each_part_tells_its_type_and_transfer_syntax(subject, single):
    ((headers, _),) = parts_of(wado(subject, single.path))
    assert re.match(r"application/dicom\b", headers["content-type"])
    assert EXPLICIT in headers["content-type"] or subject.name != "relaypacs"


@pytest.mark.item(116)
@pytest.mark.parametrize(
    "accept",
    [
        'multipart/related; type="application/dicom"',
        "multipart/related; type=application/dicom",
        'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1',
        'multipart/related; type="application/dicom"; transfer-syntax="*"',
        "*/*",
        "multipart/related",
        'image/png;q=0.1, multipart/related; type="application/dicom"; transfer-syntax=*;q=0.5',
        f'multipart/related; type="application/dicom"; transfer-syntax={DEFLATED}, {ANY_DICOM}',
    ],
)
def test_an_explicit_object_meets_these_wishes(subject, single, accept):
    response = wado(subject, single.path, accept=accept)
    assert response.status_code == 200, response.text[:200]
    ((_, file),) = parts_of(response)
    assert split_part10(file)[1] == single.data_set


@pytest.mark.item(116)
@pytest.mark.relaypacs
def test_a_single_instance_may_come_without_multipart(subject, single):
    """PS3.18 §8.7.3.4: application/dicom is the single-part form."""
    response = wado(subject, single.path, accept="application/dicom; transfer-syntax=*")
    if response.status_code == 200:
        assert response.headers["Content-Type"].startswith("application/dicom")
        assert split_part10(response.content)[1] == single.data_set
    else:
        assert response.status_code == 406


@pytest.fixture(scope="module")
def compressed(subject):
    """What is not Explicit VR Little Endian."""
    others = [instance(syntax) for syntax in (IMPLICIT, BIG, DEFLATED)]
    clients.store_all(subject, others)
    clients.indexed(subject, others)
    return others


@pytest.mark.item(116)
def test_an_asterisk_gets_the_stored_transfer_syntax(subject, compressed):
    for one in compressed:
        (file,) = clients.retrieve(subject, one.path)
        meta, data = split_part10(file)
        assert meta[0x10].rstrip(b"\0").decode() == one.transfer_syntax
        assert data == one.data_set


@pytest.mark.item(116)
def test_a_transfer_syntax_that_cannot_be_had_is_406(subject, single):
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.203'
    assert wado(subject, single.path, accept=accept).status_code == 406


@pytest.mark.item(116)
@pytest.mark.relaypacs
def test_until_there_is_transcoding_the_default_syntax_is_had_only_where_stored(subject, compressed):
    """PS3.18 §8.7.3.5.2: without the parameter Explicit VR Little Endian is meant. It is never another one."""
    for one in compressed:
        response = wado(subject, one.path, accept='multipart/related; type="application/dicom"')
        assert response.status_code in (200, 406)
        if response.status_code == 200:
            ((_, file),) = parts_of(response)
            assert split_part10(file)[0][0x10].rstrip(b"\0").decode() == EXPLICIT


@pytest.mark.item(107)
@pytest.mark.parametrize(
    "accept", ["text/html", "image/png", 'multipart/related; type="text/plain"', "application/pdf"]
)
def test_a_media_type_that_cannot_be_had_is_406(subject, single, accept):
    assert wado(subject, single.path, accept=accept).status_code == 406


@pytest.mark.item(107)
def test_the_accept_parameter_of_the_query_wins(subject, single):
    response = subject.http.get(
        subject.dicomweb + single.path, params={"accept": ANY_DICOM}, headers={"Accept": "text/html"}, timeout=30
    )
    assert response.status_code == 200


# Metadata (PS3.18 §10.4.1.1.2)


@pytest.mark.item(110)
@pytest.mark.parametrize("level, expected", [("study", 5), ("series", 3), ("instance", 1)])
def test_metadata_comes_at_each_level(subject, stored, level, expected):
    one = stored[0]
    path = {
        "study": f"/studies/{one.study}",
        "series": f"/studies/{one.study}/series/{one.series}",
        "instance": one.path,
    }
    response = wado(subject, path[level] + "/metadata", accept="application/dicom+json")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/dicom+json")
    data = response.json()
    assert len(data) == expected
    assert {entry["00080018"]["Value"][0] for entry in data} <= {each.sop_instance for each in stored}


@pytest.mark.item(108, 110)
def test_metadata_is_the_whole_data_set_without_bulk(subject):
    ds = elements(PatientName="Yamada^Tarou=山田^太郎", ImageType=["ORIGINAL", "PRIMARY", ""], PatientWeight="72.5")
    ds.private_block(0x0009, "CONFORMANCE", create=True).add_new(0x01, "LO", "private")
    from pydicom import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.CodeValue = "1"
    ds.ProcedureCodeSequence = Sequence([item])
    one = of(ds)
    clients.store_all(subject, [one])
    clients.indexed(subject, [one])
    (data,) = wado(subject, one.path + "/metadata", accept="application/dicom+json").json()
    assert list(data) == sorted(data)
    assert data["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]}
    assert data["00080008"]["Value"][:2] == ["ORIGINAL", "PRIMARY"]
    assert data["00080008"]["Value"][2:] in ([], [None])
    assert data["00101030"] == {"vr": "DS", "Value": [72.5]}
    assert data["00081032"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["1"]}}]
    assert data["00091001"]["Value"] == ["private"]
    assert data["00280010"] == {"vr": "US", "Value": [8]}
    assert not [tag for tag in data if tag.endswith("0000") or tag.startswith("0002")]
    pixels = data.get("7FE00010", {})
    assert "InlineBinary" not in pixels and "Value" not in pixels


@pytest.mark.item(110)
@pytest.mark.relaypacs
def test_metadata_of_any_encoding_is_the_same(subject):
    ds = elements()
    answers = []
    for syntax in (EXPLICIT, IMPLICIT, BIG, DEFLATED):
        ds.SOPInstanceUID = instances.new_uid()
        one = of(ds, syntax)
        clients.store_all(subject, [one])
        clients.indexed(subject, [one])
        (data,) = wado(subject, one.path + "/metadata", accept="application/dicom+json").json()
        for volatile in ("00080018", "7FE00010", "00081190"):
            data.pop(volatile, None)
        answers.append(data)
    assert answers[0] == answers[1] == answers[2] == answers[3]


@pytest.mark.item(109)
def test_a_bulk_data_uri_leads_to_the_bytes(subject):
    """Where metadata links its bulk data, the link works; who does not link leaves the element out."""
    one = instance(pixel_bytes=4000)
    clients.store_all(subject, [one])
    clients.indexed(subject, [one])
    (data,) = wado(subject, one.path + "/metadata", accept="application/dicom+json").json()
    uri = data.get("7FE00010", {}).get("BulkDataURI")
    if uri:
        response = subject.http.get(
            uri, headers={"Accept": 'multipart/related; type="application/octet-stream"'}, timeout=30
        )
        assert response.status_code == 200
        ((_, body),) = parts_of(response)
        assert body == one.elements.PixelData


@pytest.mark.item(107)
def test_metadata_comes_as_xml_when_asked_for(subject, single):
    response = wado(subject, single.path + "/metadata", accept='multipart/related; type="application/dicom+xml"')
    assert response.status_code == 200
    ((headers, body),) = parts_of(response)
    assert headers["content-type"].startswith("application/dicom+xml")
    assert single.sop_instance.encode() in body


# Errors and HTTP (PS3.18 §8)


@pytest.mark.item(119)
@pytest.mark.parametrize("suffix", ["", "/metadata"])
def test_an_unknown_uid_is_404(subject, single, suffix):
    accept = "application/dicom+json" if suffix else ANY_DICOM
    for path in (
        "/studies/1.2.3.4",
        f"/studies/{single.study}/series/1.2.3",
        f"/studies/{single.study}/series/{single.series}/instances/1.2.3",
        f"/studies/1.2.3/series/{single.series}/instances/{single.sop_instance}",
    ):
        assert wado(subject, path + suffix, accept=accept).status_code == 404, path


@pytest.mark.item(119)
@pytest.mark.parametrize("bad", ["1..2", "abc", "1" * 65, "%2e%2e%2f%2e%2e%2fetc", "1.2%00.3", "1.2%0d%0a"])
def test_an_invalid_uid_is_400(subject, bad):
    assert wado(subject, f"/studies/{bad}").status_code == 400


@pytest.mark.item(119)
def test_dots_in_the_path_lead_nowhere(subject):
    for path in ("/studies/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/studies/..%2f..%2fetc%2fpasswd"):
        request = requests.Request("GET", subject.dicomweb + "/x", headers={"Accept": "*/*"})
        prepared = subject.http.prepare_request(request)
        prepared.url = subject.dicomweb + path
        assert subject.http.send(prepared, timeout=30).status_code in (400, 401, 403, 404)


@pytest.mark.item(120)
def test_head_is_get_without_the_body(subject, single):
    response = subject.http.head(subject.dicomweb + single.path, headers={"Accept": ANY_DICOM}, timeout=30)
    assert response.status_code in (200, 405) and not response.content
    if response.status_code == 200:
        assert response.headers["Content-Type"].startswith("multipart/related")


@pytest.mark.item(120)
@pytest.mark.parametrize(
    "path, method",
    [("/studies", "DELETE"), ("/studies", "PUT"), ("/series", "POST"), ("/studies/1.2.3/series", "POST")],
)
def test_a_method_that_is_not_there_is_405_and_tells_which_are(subject, path, method):
    response = subject.http.request(method, subject.dicomweb + path, timeout=30)
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


@pytest.mark.item(120)
def test_options_tells_the_methods(subject):
    response = subject.http.options(subject.dicomweb + "/studies", timeout=30)
    assert response.status_code in (200, 204, 405)
    assert "GET" in response.headers["Allow"] and "POST" in response.headers["Allow"]


@pytest.mark.item(121)
def test_ranges_are_right_where_they_are_claimed(subject, single):
    accept = "application/dicom; transfer-syntax=*"
    whole = wado(subject, single.path, accept=accept)
    claimed = whole.headers.get("Accept-Ranges", "none")
    if claimed == "none" or whole.status_code != 200:
        assert wado(subject, single.path, accept=ANY_DICOM, Range="bytes=0-9").status_code == 200
        return
    part = wado(subject, single.path, accept=accept, Range="bytes=128-131")
    assert part.status_code == 206 and part.content == b"DICM"
    assert part.headers["Content-Range"] == f"bytes 128-131/{len(whole.content)}"
    assert wado(subject, single.path, accept=accept, Range="bytes=99999999-").status_code == 416


@pytest.mark.item(121)
def test_an_etag_is_honoured_where_it_is_claimed(subject, single):
    response = wado(subject, single.path)
    if tag := response.headers.get("ETag"):
        assert wado(subject, single.path, **{"If-None-Match": tag}).status_code == 304
        assert wado(subject, single.path, **{"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.item(116)
@pytest.mark.relaypacs
def test_a_conflict_never_hides_the_first_object(subject):
    first = instance()
    second = first.with_data_set(
        encode(
            elements(
                SOPInstanceUID=first.sop_instance,
                StudyInstanceUID=first.study,
                SeriesInstanceUID=first.series,
                PatientID="OTHER",
            )
        )
    )
    clients.store_all(subject, [first])
    clients.indexed(subject, [first])
    clients.store_all(subject, [second])
    (file,) = clients.retrieve(subject, first.path)
    assert split_part10(file)[1] == first.data_set


@pytest.mark.item(116)
def test_dicomweb_client_retrieves_what_is_stored(subject, single):
    """An independent, strict client."""
    from dicomweb_client.api import DICOMwebClient

    client = DICOMwebClient(url=subject.dicomweb, session=subject.http)
    (found,) = client.search_for_studies(search_filters={"StudyInstanceUID": single.study})
    assert found["0020000D"]["Value"] == [single.study]
    metadata = client.retrieve_instance_metadata(single.study, single.series, single.sop_instance)
    assert metadata["00080018"]["Value"] == [single.sop_instance]
    retrieved = client.retrieve_instance(
        single.study, single.series, single.sop_instance, media_types=(("application/dicom", "*"),)
    )
    assert retrieved.PixelData == single.elements.PixelData
    one = instance()
    from pydicom import dcmread
    from pydicom.filebase import DicomBytesIO

    client.store_instances([dcmread(DicomBytesIO(one.part10))])
    clients.indexed(subject, [one])
