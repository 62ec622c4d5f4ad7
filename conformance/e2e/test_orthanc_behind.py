"""The node in front of a real archive: real studies through it into Orthanc, and what Orthanc then holds."""

import pathlib
import subprocess
from typing import NamedTuple

import pytest

import clients
import instances
from e2e.comparison import difference
from real_files.collection import EXPECTED, expected, files, read
from real_files.doors import STORED
from subject import Orthanc, RelayPacs
from waiting import wait_until
from web_sink import WebSink

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(300)]
TABLE = expected() if EXPECTED.exists() else {}
REAL = [file for file in files() if not file.malformed and TABLE.get(file.sha256, {}).get("c_store") == STORED]

if not REAL:
    pytestmark.append(pytest.mark.skip(reason="NO TEST DATA: set RELAYPACS_TESTDATA to the collection of real files"))


def distinct(candidates):
    """One file for each instance: several of the collection share their UID."""
    return list({file.instance.sop_instance: file for file in reversed(candidates)}.values())


KEPT = distinct([file for file in REAL if TABLE[file.sha256]["archive"] == "keeps"])
# Other content under a UID that came before would be a conflict, which goes nowhere.
UIDS = {file.instance.sop_instance for file in KEPT}
ELSEWHERE = [
    file
    for file in distinct([file for file in REAL if TABLE[file.sha256]["archive"] != "keeps"])
    if file.instance.sop_instance not in UIDS
]


class OwnFile(NamedTuple):
    name: str
    instance: instances.Instance


@pytest.fixture(scope="module", params=["dimse", "stow"])
def chain(request):
    """(node, Orthanc, sink): what SINK_1 sends goes to the sink, all else to Orthanc."""
    archive, sink, node = Orthanc(), WebSink(keep=True), RelayPacs()
    if request.param == "dimse":
        pacs = {
            "name": "pacs",
            "kind": "dimse",
            "ae_title": "ORTHANC",
            "host": "127.0.0.1",
            "port": archive.dicom_port,
            "verify": "commitment",
        }
    else:
        pacs = {"name": "pacs", "kind": "stow", "url": archive.dicomweb, "verify": "query"}
    others = ["STORESCU", "DCMSEND", "RELAYPACS", "CONFORMANCE"]
    node.configure(
        node.config
        | {
            "destinations": [pacs | {"timeout": "20s"}, sink.destination("sink")],
            "rules": [
                {"name": "archive", "when": {"calling_ae_title": others}, "to": ["pacs"]},
                {"name": "sink", "when": {"calling_ae_title": ["SINK_*"]}, "to": ["sink"]},
            ],
        }
    )
    # Orthanc reports storage commitment on a new association, to the address that it knows for our title.
    archive.reconfigure({"DicomModalities": {"node": ["RELAYPACS", "127.0.0.1", node.dicom_port]}})
    try:
        archive.start()
        yield node.start(), archive, sink
    finally:
        node.remove()
        archive.remove()
        sink.stop()


def on_disk(folder, chosen):
    """The files under names that tools take."""
    folder.mkdir()
    paths = []
    for number, file in enumerate(chosen):
        path = folder / f"{number:04}.dcm"
        path.write_bytes(file.data)
        paths.append(path)
    return paths


def run(*command, check=True):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done


def native(file):
    return file.instance.transfer_syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def part10(file):
    return file.data[128:132] == b"DICM"


def known_to_dcmtk(file):
    """Its storescu sends no classes that are newer than it (Surface Scan Mesh and the like)."""
    return not file.instance.sop_class.startswith("1.2.840.10008.5.1.4.1.1.66.7")


def arrives(chain, chosen):
    """Everything sent is verified, and Orthanc holds what was sent."""
    node, archive, _ = chain
    wanted = {file.instance.sop_instance for file in chosen}
    ids = wait_until(lambda: (found := archive.instances()) and wanted <= set(found) and found, "Orthanc has all", 90)
    wrong = []
    for file in chosen:
        found = difference(file.instance, archive.file(ids[file.instance.sop_instance]))
        if found:
            wrong.append((file.name, found))
    assert wrong == []
    wait_until(lambda: settled(node, "pacs", wanted), "all are verified", 90)


def settled(node, destination, wanted):
    states = {
        entry["sop_instance_uid"]: delivery["state"]
        for entry in node.lines("spool", "list")
        for delivery in entry["deliveries"]
        if delivery["destination"] == destination
    }
    return all(states.get(uid) == "verified" for uid in wanted)


def test_storescu_as_packaged_delivers_into_the_archive(chain, tmp_path):
    node = chain[0]
    chosen = [file for file in KEPT if native(file) and part10(file) and known_to_dcmtk(file)][:80]
    assert len(chosen) >= 40
    paths = on_disk(tmp_path / "in", chosen)
    # -R: propose only what the files need, each with the uncompressed syntaxes.
    run("storescu", "-R", "-aet", "STORESCU", "-aec", node.ae_title, "127.0.0.1", node.dicom_port, *paths)
    arrives(chain, chosen)


def test_dcmsend_delivers_compressed_objects_as_they_are(chain, tmp_path):
    node = chain[0]
    known = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)} | {"1.2.840.10008.1.2.5"}
    chosen = [file for file in KEPT if file.instance.transfer_syntax in known and part10(file)][:60]
    assert len(chosen) >= 15
    paths = on_disk(tmp_path / "in", chosen)
    run("dcmsend", "--decompress-never", "-aet", "DCMSEND", "-aec", node.ae_title, "127.0.0.1", node.dicom_port, *paths)
    arrives(chain, chosen)


def test_the_projects_own_files_arrive_as_the_readme_shows(chain):
    node = chain[0]
    paths = sorted((pathlib.Path(__file__).resolve().parent.parent.parent / "testdata").glob("*.dcm"))
    lines = node.lines("send", f"{node.ae_title}@127.0.0.1:{node.dicom_port}", *map(str, paths))
    assert len(lines) == len(paths) > 10
    arrives(chain, [OwnFile(path.name, read(path.read_bytes())) for path in paths])


def test_the_nodes_own_send_delivers_into_the_archive(chain, tmp_path):
    node = chain[0]
    chosen = [file for file in KEPT if part10(file)]
    paths = on_disk(tmp_path / "in", chosen)
    lines = node.lines("send", f"{node.ae_title}@127.0.0.1:{node.dicom_port}", *paths)
    assert len(lines) == len(chosen)
    arrives(chain, chosen)


def test_what_the_archive_cannot_hold_goes_to_another_sink(chain):
    node, archive, sink = chain
    for file in ELSEWHERE:
        reply = clients.store(node, [file.instance], calling="SINK_1")[0]
        assert reply.status == 0, file.name
    wanted = {file.instance.sop_instance: file.instance.sha256 for file in ELSEWHERE}
    wait_until(lambda: wanted.items() <= sink.uids().items(), "the sink has all", 60)
    assert not archive.died()


def test_findscu_qido_and_the_nodes_find_see_the_studies(chain):
    node = chain[0]
    study = KEPT[0].instance.study
    clients.store_all(node, [KEPT[0].instance])
    wait_until(lambda: clients.qido(node, f"/studies?StudyInstanceUID={study}"), "QIDO sees it")
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    done = run("findscu", "-S", "-aec", node.ae_title, *keys, "127.0.0.1", node.dicom_port)
    assert study in done.stdout + done.stderr
    (match,) = node.lines(
        "find", f"{node.ae_title}@127.0.0.1:{node.dicom_port}", "--level", "STUDY", "-k", f"StudyInstanceUID={study}"
    )
    assert match["0020000D"]["Value"] == [study]


def test_the_archive_answers_for_what_the_node_delivered(chain):
    """The same question at the archive and at the node has the same answer."""
    node, archive, _ = chain
    study = KEPT[0].instance.study

    def instances_at(subject):
        return {match["00080018"]["Value"][0] for match in clients.qido(subject, f"/studies/{study}/instances")}

    wait_until(lambda: instances_at(archive) and instances_at(archive) == instances_at(node), "both agree", 30)


def test_an_archive_that_is_away_gets_everything_when_it_is_back(chain):
    node, archive, _ = chain
    archive.kill()
    many = instances.study(20)
    clients.store_all(node, many)
    assert node.destination("pacs")["queued"] + node.destination("pacs")["deferred"] >= 1
    archive.start()
    wanted = {one.sop_instance for one in many}
    wait_until(lambda: wanted <= set(archive.instances()), "Orthanc has what came while it was away", 90)
    wait_until(lambda: settled(node, "pacs", wanted), "and all of it is verified", 90)
