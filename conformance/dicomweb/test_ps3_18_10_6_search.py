"""PS3.18 §10.6: QIDO-RS. Matching follows PS3.4 §C.2.2.2 (dimse/test_ps3_04_c_matching.py)."""

import re
import urllib.parse

import pytest

import clients
import corpus
import instances
from clients import qido, search, values
from corpus import uid

pytestmark = pytest.mark.sql
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
STUDY_DEFAULTS = [
    "00080020",
    "00080030",
    "00080050",
    "00080061",
    "00080090",
    "00100010",
    "00100020",
    "00100030",
    "00100040",
    STUDY,
    "00200010",
    "00201206",
    "00201208",
]
SERIES_DEFAULTS = ["00080060", SERIES, "00200011", "00201209"]
INSTANCE_DEFAULTS = ["00080016", INSTANCE, "00200013", "00280010", "00280011", "00280100"]


@pytest.fixture(scope="module", autouse=True)
def loaded(subject):
    everything = corpus.all_instances()
    clients.store_all(subject, everything)
    clients.indexed(subject, everything)


def names(matches):
    known = {uid(name): name for name in corpus.STUDIES}
    return sorted(known.get(values(match, STUDY)[0], "?") for match in matches)


def studies(subject, **keys):
    return names(qido(subject, "/studies", keys))


@pytest.mark.item(101)
@pytest.mark.parametrize(
    "path, tag, expected",
    [
        ("/studies", STUDY, 10),
        ("/series", SERIES, 11),
        ("/instances", INSTANCE, 14),
        (f"/studies/{uid('brain')}/series", SERIES, 2),
        (f"/studies/{uid('brain')}/instances", INSTANCE, 5),
        (f"/studies/{uid('brain')}/series/{uid('brain', 'axial')}/instances", INSTANCE, 3),
    ],
    ids=["studies", "series", "instances", "study-series", "study-instances", "series-instances"],
)
def test_all_six_resources_answer(subject, path, tag, expected):
    matches = qido(subject, path, {"limit": 100})
    assert len(matches) == expected
    assert len({values(match, tag)[0] for match in matches}) == expected


@pytest.mark.item(101)
@pytest.mark.parametrize("key", ["PatientID", "00100020", "%50atientID", "0010%30020"])
def test_keyword_tag_and_percent_encoding_are_the_same(subject, key):
    response = subject.http.get(f"{subject.dicomweb}/studies?{key}=Q%2D002", timeout=30)
    assert response.status_code == 200
    assert names(response.json()) == ["kanji"]


@pytest.mark.item(101)
def test_percent_encoded_values_are_decoded(subject):
    for name in ("Mül*", "*=*山田*", "Люкc*"):
        url = f"{subject.dicomweb}/studies?PatientName={urllib.parse.quote(name)}"
        assert subject.http.get(url, timeout=30).status_code == 200
        assert len(subject.http.get(url, timeout=30).json()) >= 1


@pytest.mark.item(101)
@pytest.mark.parametrize("path", ["RequestAttributesSequence.ScheduledProcedureStepID", "00400275.00400009"])
def test_a_dotted_path_into_a_sequence_is_matched_or_refused(subject, path):
    """An attribute that is not indexed is answered with 400 (then nothing is ignored silently)."""
    response = search(subject, f"/studies/{uid('brain')}/series", {path: "SPS1"})
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert [values(match, SERIES)[0] for match in response.json()] == [uid("brain", "axial")]


@pytest.mark.item(102)
@pytest.mark.parametrize(
    "path, defaults",
    [
        (f"/studies?StudyInstanceUID={uid('brain')}", STUDY_DEFAULTS),
        (f"/studies/{uid('brain')}/series", SERIES_DEFAULTS),
        (f"/studies/{uid('brain')}/instances", INSTANCE_DEFAULTS),
    ],
    ids=["study", "series", "instance"],
)
def test_the_default_attributes_are_returned(subject, path, defaults):
    for match in qido(subject, path):
        assert [tag for tag in defaults if tag not in match] == []


@pytest.mark.item(102)
def test_the_retrieve_url_leads_to_the_object(subject):
    (match,) = qido(subject, f"/studies/{uid('kanji')}/instances")
    (url,) = values(match, "00081190")
    response = subject.http.get(url, headers={"Accept": clients.ANY_DICOM}, timeout=30)
    assert response.status_code == 200


@pytest.mark.item(102)
@pytest.mark.parametrize(
    "query",
    [
        "includefield=StudyDescription&includefield=00100010",
        "includefield=StudyDescription,PatientName",
        "includefield=00081030%2C00100010",
        "includefield=all",
    ],
)
def test_includefield_adds_attributes(subject, query):
    (match,) = qido(subject, f"/studies?PatientID=Q-002&{query}")
    assert values(match, "00081030") == ["Knee"] and "00100010" in match


@pytest.mark.item(102)
def test_an_attribute_of_a_higher_level_can_be_included(subject):
    matches = qido(subject, f"/studies/{uid('brain')}/series", {"includefield": "StudyDescription"})
    assert [values(match, "00081030") for match in matches] == [["Brain without contrast"]] * 2


@pytest.mark.item(103)
def test_pages_cover_everything_once(subject):
    seen = []
    for offset in range(0, 20, 3):
        seen += [values(match, INSTANCE)[0] for match in qido(subject, "/instances", {"limit": 3, "offset": offset})]
    assert len(seen) == len(set(seen)) == 14


@pytest.mark.item(103)
def test_the_order_is_the_same_each_time(subject):
    order = [[values(match, INSTANCE)[0] for match in qido(subject, "/instances")] for _ in range(3)]
    assert order[0] == order[1] == order[2]


@pytest.mark.item(103)
@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=-1", "offset=1.5", "limit=1e12&offset=-1", "limit="])
def test_a_bad_page_is_400(subject, query):
    assert search(subject, f"/studies?{query}").status_code == 400


@pytest.mark.item(103, 105)
@pytest.mark.relaypacs
def test_a_page_that_is_cut_short_is_told(make_subject):
    small = make_subject({"limits": {"query_results": 5}})
    many = instances.study(8)
    clients.store_all(small, many)
    clients.wait_until(lambda: len(qido(small, f"/studies/{many[0].study}/instances?offset=3")) == 5, "8 are indexed")
    for query in ("", "?limit=1000000000000"):
        response = search(small, f"/studies/{many[0].study}/instances{query}")
        assert response.status_code == 200 and len(response.json()) == 5
        assert re.match(r"299 \S+ .*additional results", response.headers["Warning"], re.I)
    assert "Warning" not in search(small, f"/studies/{many[0].study}/instances?limit=2").headers


@pytest.mark.item(104)
@pytest.mark.parametrize(
    "path", ["/studies?PatientID=NOBODY", "/studies/1.2.3.4.5/series", "/instances?SOPInstanceUID=1.2.3"]
)
def test_no_match_is_an_empty_list(subject, path):
    response = search(subject, path)
    assert response.status_code == 204 and not response.content or response.status_code == 200 and response.json() == []


@pytest.mark.item(105)
def test_unsupported_fuzzy_matching_is_literal_with_a_warning(subject):
    response = search(subject, "/studies", {"PatientName": "Empty^Dates", "fuzzymatching": "true"})
    assert response.status_code == 200 and names(response.json()) == ["undated"]
    assert response.headers["Warning"].startswith("299 ")
    response = search(subject, "/studies", {"PatientName": "Empty^Dates", "fuzzymatching": "false"})
    assert response.status_code == 200 and "Warning" not in response.headers


@pytest.mark.item(106)
@pytest.mark.parametrize("separator", [",", "\\", "%5C", "%2C"])
def test_a_list_of_uids_matches_each(subject, separator):
    listed = separator.join([uid("brain"), uid("kanji")])
    assert names(qido(subject, f"/studies?StudyInstanceUID={listed}")) == ["brain", "kanji"]


@pytest.mark.item(106)
@pytest.mark.parametrize(
    "keys, expected",
    [
        (dict(StudyDate="20240101-20240131"), ["accents", "brain"]),
        (dict(StudyDate="-20191231"), ["upper"]),
        (dict(StudyTime="08-09"), ["abdomen", "accents", "brain"]),
        (dict(AccessionNumber="ACC-?001"), ["accents", "brain", "cyrillic", "hanzi", "kanji"]),
        (dict(PatientID="Q-001"), ["abdomen", "brain"]),
        (dict(PatientID="q-001"), ["upper"]),
        (dict(ModalitiesInStudy="MR"), ["brain", "hanzi", "kanji"]),
        (dict(PatientID="Q_006%[x]"), ["literal"]),
        (dict(StudyDescription="*[a-z]*"), ["literal"]),
        (dict(AccessionNumber="ACC_*"), ["literal"]),
        (dict(PatientName="Yamada*"), ["kanji"]),
        (dict(PatientName="=山田^太郎"), ["kanji"]),
        (dict(PatientID=""), sorted(corpus.STUDIES)),
        (dict(PatientID="Q-001", StudyDate="20240305"), ["abdomen"]),
        (dict(PatientID="' OR 1=1--"), []),
        (dict(PatientID="%"), []),
        (dict(PatientID="_______"), []),
    ],
    ids=str,
)
def test_matching_is_that_of_c_find(subject, keys, expected):
    assert studies(subject, limit=100, **keys) == expected


@pytest.mark.item(106)
@pytest.mark.parametrize("key", ["NoSuchKeyword", "00091234x", "0010002", "patientid", "99990001"])
def test_an_unknown_attribute_is_400(subject, key):
    assert search(subject, "/studies", {key: "x"}).status_code == 400


@pytest.mark.item(106)
@pytest.mark.parametrize(
    "keys", ["StudyDate=yesterday", "StudyDate=20241341", "StudyTime=99", "StudyInstanceUID=../../x"]
)
def test_a_value_that_its_vr_forbids_is_400(subject, keys):
    assert search(subject, f"/studies?{keys}").status_code == 400


@pytest.mark.item(106)
def test_a_series_key_does_not_select_studies_silently(subject):
    """A key of a lower level than the resource is matched, or refused; it is not passed over."""
    response = search(subject, "/studies", {"SeriesInstanceUID": uid("brain", "axial")})
    assert response.status_code == 400 or names(response.json()) == ["brain"]


# Representation (PS3.18 §8.7, §F)


@pytest.mark.item(107)
@pytest.mark.parametrize(
    "accept, expected",
    [
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("text/html, application/dicom+json;q=0.5", "application/dicom+json"),
        ("application/dicom+json;q=0.1, */*;q=0.05", "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', "multipart/related"),
        ('application/dicom+json;q=0.2, multipart/related; type="application/dicom+xml";q=0.9', "multipart/related"),
        ('multipart/related; type="application/dicom+xml";q=0.2, application/dicom+json', "application/dicom+json"),
    ],
)
def test_the_best_acceptable_media_type_is_chosen(subject, accept, expected):
    response = search(subject, "/studies?PatientID=Q-002", accept=accept)
    assert response.status_code == 200, response.text[:200]
    assert expected in response.headers["Content-Type"]


@pytest.mark.item(107)
@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/dicom", "application/dicom+json;q=0"])
def test_no_acceptable_media_type_is_406(subject, accept):
    assert search(subject, "/studies?PatientID=Q-002", accept=accept).status_code == 406


@pytest.mark.item(107)
def test_the_accept_parameter_of_the_query_wins(subject):
    """PS3.18 §8.3.3.1."""
    accept = urllib.parse.quote('multipart/related; type="application/dicom+xml"')
    response = search(subject, f"/studies?PatientID=Q-002&accept={accept}")
    assert response.status_code == 200 and "multipart/related" in response.headers["Content-Type"]


@pytest.mark.item(107)
def test_xml_answers_are_the_native_model(subject):
    import xml.etree.ElementTree as ElementTree

    response = search(subject, "/studies?PatientID=Q-002", accept='multipart/related; type="application/dicom+xml"')
    ((headers, body),) = clients.parts_of(response)
    assert headers["content-type"].startswith("application/dicom+xml")
    root = ElementTree.fromstring(body)
    by_tag = {node.get("tag"): node for node in root}
    assert "".join(by_tag["0020000D"].itertext()).strip() == uid("kanji")
    name = by_tag["00100010"]
    assert "山田" in "".join(name.itertext()) and "Ideographic" in ElementTree.tostring(name).decode()


@pytest.mark.item(108)
def test_json_has_sorted_8_hex_keys_and_a_vr_each(subject):
    for match in qido(subject, "/instances", {"includefield": "all"}):
        keys = list(match)
        assert keys == sorted(keys)
        for tag, element in match.items():
            assert re.fullmatch(r"[0-9A-F]{8}", tag) and re.fullmatch(r"[A-Z]{2}", element["vr"])
            assert not tag.endswith("0000"), "a group length"
            assert set(element) <= {"vr", "Value", "BulkDataURI", "InlineBinary"}


@pytest.mark.item(108)
def test_json_values_have_their_types(subject):
    (match,) = qido(subject, f"/studies?StudyInstanceUID={uid('kanji')}")
    assert match["00100010"] == {
        "vr": "PN",
        "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}],
    }
    assert match["00201208"] == {"vr": "IS", "Value": [1]}
    assert match["00080020"] == {"vr": "DA", "Value": ["20230615"]}
    (undated,) = qido(subject, f"/studies?StudyInstanceUID={uid('undated')}")
    assert undated["00080020"] == {"vr": "DA"}, "an empty element has no Value"
    (image,) = qido(subject, f"/studies/{uid('kanji')}/instances")
    assert image["00280010"] == {"vr": "US", "Value": [8]}


@pytest.mark.item(108)
def test_json_is_utf_8(subject):
    response = search(subject, "/studies?PatientID=Q-001")
    assert "Müller" in response.content.decode("utf-8")
    (match, _) = response.json()
    assert values(match, "00080005") in ([], ["ISO_IR 192"])


@pytest.mark.item(75)
def test_computed_attributes_are_exact(subject):
    (match,) = qido(subject, f"/studies?StudyInstanceUID={uid('brain')}")
    assert sorted(values(match, "00080061")) == ["CT", "MR"]
    assert (values(match, "00201206"), values(match, "00201208")) == ([2], [5])


@pytest.mark.item(119)
@pytest.mark.parametrize(
    "path", ["/studies/abc/series", "/studies/%2e%2e%2f/series", f"/studies/{uid('brain')}/series/x..y/instances"]
)
def test_an_invalid_uid_in_the_path_is_400(subject, path):
    assert search(subject, path).status_code in (400, 404)
    assert search(subject, path).status_code != 500


@pytest.mark.item(106)
def test_new_objects_are_seen_though_answers_are_cached(subject):
    """The indexer empties the cache: a repeated question never gets a stale answer for good."""
    one = instances.instance(PatientID="CACHED")
    assert qido(subject, "/studies?PatientID=CACHED") == []
    clients.store_all(subject, [one])
    clients.wait_until(lambda: len(qido(subject, "/studies?PatientID=CACHED")) == 1, "the new study is seen")
