"""No patient data in logs, metrics, error texts or comments; no stranger's words as metric labels."""

import re

import pytest

import clients
import instances
from gateway.support import to, wait_verified
from pdu import VERIFICATION, RawAssociation, associate_rq
from peers import Archive

pytestmark = pytest.mark.relaypacs
CANARY = "ZZPHI^CANARY"


def test_nothing_of_a_patient_reaches_log_or_metrics(make_subject):
    with Archive() as archive:
        node = make_subject(to(archive.destination(), telemetry={"log_filter": "debug,sled=warn,sqlx=warn"}))
        given = dict(
            PatientName=CANARY,
            PatientID="ZZPHI-ID",
            AccessionNumber="ZZPHI-ACC",
            StudyDescription="ZZPHI description",
            InstitutionName="ZZPHI hospital",
            ReferringPhysicianName="ZZPHI^DOCTOR",
            PatientComments="ZZPHI comments",
        )
        many = instances.study(3, **given)
        clients.store_all(node, many)
        clients.stow_all(node, instances.study(2, **given))
        wait_verified(node, "archive", many)
        broken = many[0].with_data_set(many[0].data_set[:-5])
        clients.store(node, [broken])
        answers = [clients.stow(node, [broken]).text, clients.stow(node, [many[0]], study="1.2.3").text]
        clients.qido(node, f"/studies?PatientName={CANARY}")
        answers.append(clients.search(node, "/studies?PatientName=ZZPHI&StudyDate=ZZPHI").text)
        clients.found(node, clients.query("STUDY", PatientName="ZZPHI*", StudyInstanceUID=None))
        log, metrics = node.log.read_text(), node.metrics()
    for text in [log, metrics, *answers]:
        assert "ZZPHI" not in text
    for one in many:
        assert one.sop_instance not in log and one.study not in log, "UIDs of patients' objects in the log"
        assert one.sop_instance not in metrics and one.study not in metrics


def test_titles_of_strangers_are_no_metric_labels(make_subject):
    node = make_subject({"dicom": {"admission": "known", "peers": [{"ae_title": "KNOWN"}]}})
    for title in ("STRANGER1", "STRANGER2", 'EVIL"}\\n{"'):
        with RawAssociation(node.address) as association:
            association.send(
                associate_rq([(1, VERIFICATION, ["1.2.840.10008.1.2"])], called=node.ae_title, calling=title)
            )
            assert association.verdict()[0] == "reject"
    assert clients.echo(node, calling="KNOWN") == 0
    metrics = node.metrics()
    assert "STRANGER" not in metrics and "EVIL" not in metrics
    assert 'peer="unknown"' in metrics and 'peer="KNOWN"' in metrics


def test_the_log_is_one_json_object_a_line(make_subject):
    import json

    node = make_subject()
    clients.store_all(node, [instances.instance()])
    node.stop()
    lines = [line for line in node.log.read_text().splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert isinstance(json.loads(line), dict)
        assert not re.search(r"\x1b\[", line)
