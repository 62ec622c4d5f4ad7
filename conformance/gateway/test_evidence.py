"""A UID is evidence of our bytes only where the archive did not list it before (reliability: Delivery): real and
scripted archives that already hold something under the UID of what they are sent."""

import pytest

import clients
import instances
from gateway.support import send, states, to, wait_verified
from peers import Archive
from subject import Orthanc
from waiting import wait_until
from web_sink import WebSink

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


@pytest.fixture
def orthanc():
    running = Orthanc().start()
    yield running
    running.remove()


def another(one):
    """Another object under the same UIDs, of the same patient: Orthanc identifies by all of them."""
    same = {"SOPInstanceUID": one.sop_instance, "StudyInstanceUID": one.study, "SeriesInstanceUID": one.series}
    same["PatientID"] = one.elements.PatientID
    return one.with_data_set(instances.encode(instances.elements(StudyDescription="Another", **same)))


def delivery(node, one):
    (entry,) = (entry for entry in node.lines("spool", "list") if entry["sop_instance_uid"] == one.sop_instance)
    return next(iter(entry["deliveries"]), None)


def stays_and_is_told(node, one):
    """It is not verified, whatever the archive answers; it stays, and a person is told. So after a restart."""
    wait_until(lambda: delivery(node, one), "it is routed")
    name = delivery(node, one)["destination"]
    for restart in (False, True):
        if restart:
            node.restart()
        wait_until(lambda: "can't be proven" in (node.destination(name)["reason"] or ""), "it is told", 40)
        wait_verified(node, name, send(node, 3))
        found = delivery(node, one)
        assert found["state"] == "sent" and found["reason"], found
        assert node.held()[one.sop_instance] == [one.sha256]


def orthanc_destination(archive, kind, **changes):
    if kind == "stow":
        return {"name": "pacs", "kind": "stow", "url": archive.dicomweb, "verify": "query", "timeout": "20s", **changes}
    dimse = {"name": "pacs", "kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": archive.dicom_port}
    return dimse | {"verify": "query", "timeout": "20s"} | changes


# Something else is there


@pytest.mark.parametrize("verify", ["commitment", "query"])
@pytest.mark.parametrize("get", [True, False], ids=["get", "no-get"])
def test_an_archive_that_kept_another_object_proves_nothing_by_its_uid(make_subject, verify, get):
    with Archive(keep=True, get=get) as archive:
        archive.keeps_first = True
        one = instances.instance()
        archive.hold(another(one))
        node = make_subject(to(archive.destination(verify=verify)))
        clients.store_all(node, [one])
        stays_and_is_told(node, one)
        assert archive.uids()[one.sop_instance] != one.sha256


def test_a_web_archive_that_kept_another_object_proves_nothing_by_its_uid(make_subject):
    with WebSink(keep=True) as sink:
        one = instances.instance()
        sink.received.append(received(another(one)))
        sink.drop = lambda new: new.sop_instance == one.sop_instance
        node = make_subject(to(sink.destination()))
        clients.store_all(node, [one])
        stays_and_is_told(node, one)


def received(one):
    with Archive() as archive:
        archive.hold(one)
        return archive.received[0]


@pytest.mark.parametrize("kind", ["dimse", "dimse+query_url", "stow"])
def test_orthanc_that_kept_another_object_proves_nothing_by_its_uid(make_subject, orthanc, kind):
    """Orthanc answers 0000 and keeps the old one: `OverwriteInstances` is false by default."""
    one = instances.instance()
    clients.store_all(orthanc, [another(one)])
    more = {"query_url": orthanc.dicomweb} if "+" in kind else {}
    node = make_subject(to(orthanc_destination(orthanc, kind.partition("+")[0], **more)))
    clients.store_all(node, [one])
    stays_and_is_told(node, one)


# The same is there


@pytest.mark.parametrize("verify", ["commitment", "query"])
def test_the_same_bytes_that_were_there_are_proven_by_comparison(make_subject, verify):
    with Archive(keep=True, get=True) as archive:
        archive.keeps_first = True
        many = instances.study(5)
        for one in many[:3]:
            archive.hold(one)
        node = make_subject(to(archive.destination(verify=verify)))
        clients.store_all(node, many)
        wait_verified(node, "archive", many)
        assert sorted(set(archive.gets)) == sorted(one.sop_instance for one in many[:3])


def test_the_same_bytes_that_a_web_archive_had_are_proven_by_comparison(make_subject):
    with WebSink(keep=True) as sink:
        many = instances.study(4)
        sink.received.append(received(many[1]))
        node = make_subject(to(sink.destination()))
        clients.store_all(node, many)
        wait_verified(node, "web", many)
        assert any(path == "/dicom-web" + many[1].path for _, path, _ in sink.requests)
        assert not any(path == "/dicom-web" + many[0].path for _, path, _ in sink.requests)


@pytest.mark.parametrize("kind", ["dimse", "dimse+query_url", "stow"])
def test_the_same_bytes_that_orthanc_had_are_proven_by_comparison(make_subject, orthanc, kind):
    implicit = "1.2.840.10008.1.2"
    many = instances.study(2) + instances.study(2, transfer_syntax=implicit) + [nested()]
    clients.store_all(orthanc, many)
    more = {"query_url": orthanc.dicomweb} if "+" in kind else {}
    node = make_subject(to(orthanc_destination(orthanc, kind.partition("+")[0], **more)))
    clients.store_all(node, many)
    wait_verified(node, "pacs", many)


def nested():
    """With a sequence and an item of undefined length, which a peer may write otherwise."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", instances.new_uid()
    item.is_undefined_length_sequence_item = True
    elements = instances.elements()
    elements.ReferencedImageSequence = Sequence([item])
    elements["ReferencedImageSequence"].is_undefined_length = True
    return instances.of(elements)


# What asking costs, and what it must not


def test_one_question_is_enough_for_what_goes_together(make_subject):
    with Archive() as archive:
        node = make_subject(to(archive.destination(associations=1)))
        wait_verified(node, "archive", send(node, 40))
        node.run("destination", "pause", "archive")
        asked = len(archive.queries)
        many = send(node, 96)
        node.run("destination", "resume", "archive")
        wait_verified(node, "archive", many)
        assert len(archive.queries) - asked <= 96 // 32 + 4
        assert not archive.gets and len(archive.received) == 136


def test_an_archive_that_cannot_be_asked_is_believed(make_subject):
    with Archive(find=False) as archive:
        node = make_subject(to(archive.destination()))
        wait_verified(node, "archive", send(node, 5))


def test_a_question_that_fails_does_not_stop_deliveries_but_leaves_a_doubt(make_subject):
    with Archive(get=True, keep=True) as archive:
        archive.find_status = 0xC001
        node = make_subject(to(archive.destination()))
        many = send(node, 3)
        wait_until(lambda: len(archive.received) == 3, "they arrive all the same", 90)
        wait_verified(node, "archive", many, 60)
        assert set(archive.gets) == {one.sop_instance for one in many}


def test_what_we_sent_ourselves_before_a_crash_is_not_doubted(make_subject):
    """The archive has it, we were killed before its answer: nothing was listed before, and that is remembered."""
    import threading

    with Archive() as archive:
        node = make_subject(to(archive.destination()))
        archive.hang = threading.Event()
        (one,) = send(node, 1)
        wait_until(lambda: archive.queries and archive.associations >= 1, "it is on its way")
        wait_until(lambda: archive.arrived, "its bytes are there")
        node.kill()
        hang, archive.hang = archive.hang, None
        hang.set()
        wait_until(lambda: one.sop_instance in archive.uids(), "the archive keeps it")
        node.start()
        wait_verified(node, "archive", [one])
        assert len(archive.received) == 2 and not archive.gets


def test_without_retrieval_even_the_same_bytes_stay_sent(make_subject):
    with Archive() as archive:
        one = instances.instance()
        archive.hold(one)
        node = make_subject(to(archive.destination()))
        clients.store_all(node, [one])
        wait_until(lambda: states(node, "archive").get(one.sop_instance) == "sent", "it is sent")
        stays_and_is_told(node, one)
