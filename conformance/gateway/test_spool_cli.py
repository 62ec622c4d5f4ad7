"""`relaypacs spool`: what is held, whether it is whole, and out of it as files."""

import json

import pytest
from pydicom import dcmread

import clients
import instances
from gateway.support import flip_a_bit
from instances import sha256, split_part10

pytestmark = pytest.mark.relaypacs


@pytest.fixture(scope="module")
def many(subject):
    stored = instances.study(5) + [
        instances.instance("1.2.840.10008.1.2.1.99"),
        instances.instance(pixel_bytes=3_000_000),
    ]
    clients.store_all(subject, stored[:3] + stored[5:])
    clients.stow_all(subject, stored[3:5])
    return stored


def test_list_names_each_object_with_its_digest(subject, many):
    lines = {line["sop_instance_uid"]: line for line in subject.lines("spool", "list")}
    assert {one.sop_instance: one.sha256 for one in many} == {
        uid: line["data_set_sha256"] for uid, line in lines.items()
    }
    for one in many:
        assert lines[one.sop_instance]["transfer_syntax_uid"] == one.transfer_syntax
        assert lines[one.sop_instance]["size"] > len(one.data_set)


def test_the_text_for_people_names_them_too(subject, many):
    text = subject.run("spool", "list").stdout
    assert all(one.sop_instance in text for one in many)


def test_status_says_how_many_objects_are_held(subject, many):
    (status,) = subject.lines("spool", "status")
    assert status["objects"] == len(many) and status["bytes"] >= sum(len(one.data_set) for one in many)
    assert subject.run("spool", "status").stdout


def test_verify_rehashes_everything(subject, many):
    *damaged, total = subject.lines("spool", "verify")
    assert damaged == [] and total["verified"] == len(many) and total["damaged_entries"] == 0


@pytest.mark.item(51)
def test_export_writes_part_10_files(subject, many, tmp_path):
    subject.run("spool", "export", tmp_path / "out")
    files = {}
    for path in (tmp_path / "out").rglob("*.dcm"):
        data = path.read_bytes()
        meta, data_set = split_part10(data)
        files[meta[3].rstrip(b"\0").decode()] = sha256(data_set)
        assert dcmread(path).file_meta.MediaStorageSOPInstanceUID == meta[3].rstrip(b"\0").decode()
        assert "/" not in path.name and ".." not in path.name
    assert files == {one.sop_instance: one.sha256 for one in many}


@pytest.mark.parametrize("size", [20_000, 600_000], ids=["in-the-log", "in-a-file"])
@pytest.mark.parametrize("running", [True, False], ids=["asked-of-the-node", "without-a-node"])
def test_export_writes_every_intact_object_and_lists_the_damaged_one(make_subject, tmp_path, size, running):
    node = make_subject({"spool": {"inline_limit": "256 KiB"}})
    before, bad, after = instances.study(2), instances.instance(pixel_bytes=size), instances.study(3)
    clients.store_all(node, [*before, bad, *after])
    node.stop()
    flip_a_bit(node, bad)
    if running:
        node.start()
    done = node.run("spool", "export", tmp_path / "out", "--json", check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr
    assert [line["sop_instance_uid"] for line in lines if "damaged" in line] == [bad.sop_instance]
    written = {sha256(split_part10(path.read_bytes())[1]) for path in (tmp_path / "out").iterdir()}
    assert written == {one.sha256 for one in before + after}
    said = node.run("spool", "export", tmp_path / "again", check=False).stdout
    assert bad.sop_instance in said and "SHA-256" in said


def test_export_does_not_write_into_a_folder_that_is_in_use(subject, many, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert subject.run("spool", "export", tmp_path, check=False).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_commands_work_while_no_node_runs(make_subject):
    node = make_subject()
    one = instances.instance()
    clients.store_all(node, [one])
    node.stop()
    assert node.held() == {one.sop_instance: [one.sha256]}
    assert node.run("spool", "verify").returncode == 0
    node.start()
    assert node.held() == {one.sop_instance: [one.sha256]}
