"""The command line: exit codes, what is printed, what is refused at the start."""

import json
import os
import re
import subprocess

import pytest

import clients
import instances
from peers import Archive
from processes import free_port
from subject import binary

pytestmark = pytest.mark.relaypacs
USAGE, STORAGE, CONFIGURATION = 2, 75, 78


def relaypacs(*arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RELAYPACS_")}
    return subprocess.run(
        [str(binary()), *map(str, arguments)], capture_output=True, text=True, timeout=30, env=clean | environment
    )


@pytest.fixture
def refused(make_subject):
    """Starts a node that must not start; its exit code and its one sentence."""

    def start(config):
        node = make_subject(config, start=False)
        done = node.run("serve", check=False)
        return done.returncode, done.stderr + done.stdout

    return start


# What stops the start with 78

REFUSED = {
    "unknown-key": ({"node": {"nmae": "x"}}, "nmae"),
    "unknown-section": ({"nonsense": {"a": 1}}, "nonsense"),
    "bad-ae-title": ({"dicom": {"ae_title": ["THIS IS FAR TOO LONG"]}}, "ae_title"),
    "bad-size": ({"spool": {"segment_size": "many"}}, "segment_size"),
    "bad-duration": ({"limits": {"artim": "soon"}}, "artim"),
    "open-listener": ({"dicom": {"listen": ["0.0.0.0:0"], "admission": "any"}}, "open_listener"),
    "one-address-twice": (
        {"dicom": {"listen": ["127.0.0.1:65501"]}, "http": {"listen": ["127.0.0.1:65501"]}},
        "another door",
    ),
    "unknown-destination-in-rule": ({"rules": [{"name": "r", "to": ["nowhere"]}]}, "nowhere"),
    "destination-without-host": ({"destinations": [{"name": "d", "kind": "dimse", "ae_title": "X"}]}, "d"),
    "stow-without-url": ({"destinations": [{"name": "d", "kind": "stow", "verify": "query"}]}, "url"),
    "same-name-twice": (
        {
            "destinations": [
                {"name": "d", "kind": "dimse", "ae_title": "X", "host": "127.0.0.1", "port": 1},
                {"name": "d", "kind": "dimse", "ae_title": "Y", "host": "127.0.0.1", "port": 2},
            ]
        },
        "d",
    ),
    "missing-secret": (
        {
            "destinations": [
                {
                    "name": "d",
                    "kind": "stow",
                    "url": "http://127.0.0.1/",
                    "verify": "query",
                    "username": "u",
                    "password_file": "/nonexistent",
                },
            ]
        },
        "password_file",
    ),
    "metrics-without-token": ({"telemetry": {"listen": "0.0.0.0:0"}}, "token_file"),
    "database-url": ({"database": {"url": "mysql://x"}}, "url"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_configuration_stops_the_start(refused, name):
    config, named = REFUSED[name]
    code, said = refused(config)
    assert code == CONFIGURATION, said
    assert named in said
    assert "panicked" not in said


def test_a_secret_that_others_can_read_stops_the_start(refused, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not so secret")
    secret.chmod(0o644)
    code, said = refused(
        {
            "destinations": [
                {
                    "name": "d",
                    "kind": "stow",
                    "url": "http://127.0.0.1/",
                    "verify": "query",
                    "username": "u",
                    "password_file": str(secret),
                }
            ]
        }
    )
    assert code == CONFIGURATION and "password_file" in said and "not so secret" not in said


@pytest.mark.root
def test_a_spool_on_tmpfs_is_refused(refused):
    code, said = refused({"spool": {"dir": f"/dev/shm/conformance-spool-{os.getpid()}"}})
    assert code == CONFIGURATION and "tmpfs" in said


def test_a_missing_configuration_file_is_told():
    done = relaypacs("check-config", "--config", "/nonexistent/relaypacs.toml")
    assert done.returncode == CONFIGURATION and "relaypacs.toml" in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["serve", "--nonsense"], ["key", "add"], ["key", "add", "x"], ["find"]]
)
def test_wrong_usage_is_2(arguments):
    done = relaypacs(*arguments)
    assert done.returncode == USAGE and "Usage" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["key", "add", "", "--scope", "admin"], "1 to 64"),
        (["key", "add", "x" * 65, "--scope", "admin"], "1 to 64"),
        (["key", "add", "two\nlines", "--scope", "admin"], "control character"),
        (["key", "add", "x", "--scope", "admin", "--expires", "yesterday"], "2027-01-31"),
        (["key", "add", "x", "--scope", "admin", "--expires", "0d"], "ahead"),
        (["key", "add", "x", "--scope", "admin", "--expires", "2020-01-01"], "ahead"),
        (["destination", "backfill", "x", "--since", "yesterday"], "2027-01-31"),
        (["destination", "add", "x"], "ae_title"),
        (["destination", "add", "", "--ae-title", "X", "--host", "x", "--port", "1"], "1 to 64"),
        (["peer", "add", "X", "--allow", "everywhere"], "address or network"),
    ],
    ids=lambda value: "-".join(value)[:50].encode("unicode_escape").decode() if isinstance(value, list) else None,
)
def test_a_value_that_cannot_be_is_wrong_usage_too(make_subject, arguments, told):
    done = make_subject(start=False).run(*arguments, check=False)
    assert done.returncode == USAGE and told in done.stderr, done.stderr


def test_a_date_is_a_time(make_subject):
    node = make_subject(start=False)
    node.run("key", "add", "dated", "--scope", "admin", "--expires", "2999-12-31")
    (key,) = node.lines("key", "list")
    assert key["expires_at"].startswith("2999-12-31T00:00:00")


def test_check_config_finds_a_rule_whose_destination_exists_nowhere(make_subject):
    node = make_subject({"rules": [{"name": "r", "to": ["later"]}]}, start=False)
    done = node.run("check-config", check=False)
    assert done.returncode == CONFIGURATION and "later" in done.stderr
    node.run("destination", "add", "later", "--ae-title", "X", "--host", "127.0.0.1", "--port", "104")
    assert node.run("check-config").returncode == 0
    node.start()


def test_help_and_version_are_printed():
    assert relaypacs("--help").returncode == 0
    assert re.match(r"relaypacs \d+\.\d+\.\d+", relaypacs("--version").stdout)


# check-config, healthcheck, migrate


def test_check_config_prints_what_is_in_force(make_subject, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2-and-more")
    secret.chmod(0o600)
    node = make_subject(
        {
            "destinations": [
                {
                    "name": "web",
                    "kind": "stow",
                    "url": "http://127.0.0.1:1/",
                    "verify": "query",
                    "username": "u",
                    "password_file": str(secret),
                }
            ]
        },
        start=False,
    )
    done = node.run("check-config")
    assert f"127.0.0.1:{node.dicom_port}" in done.stdout and "web" in done.stdout
    assert "hunter2" not in done.stdout


def test_the_environment_overrides_the_file(make_subject):
    node = make_subject(start=False)
    done = node.run(
        "check-config", env=os.environ | {"RELAYPACS__DICOM__AE_TITLE": "FROMENV", "RELAYPACS__LIMITS__ARTIM": "7s"}
    )
    assert "FROMENV" in done.stdout
    bad = node.run("check-config", check=False, env=os.environ | {"RELAYPACS__DICOM__NONSENSE": "1"})
    assert bad.returncode == CONFIGURATION and "nonsense" in bad.stderr.lower()


def test_healthcheck_tells_by_its_exit_code(make_subject):
    node = make_subject()
    assert node.run("healthcheck").returncode == 0
    node.stop()
    assert node.run("healthcheck", check=False).returncode == 1


def test_a_second_node_on_a_data_folder_is_refused_wherever_its_spool_is(make_subject):
    node = make_subject()
    one = instances.instance()
    clients.store_all(node, [one])
    elsewhere = os.environ | {
        "RELAYPACS__SPOOL__DIR": str(node.folder / "elsewhere"),
        "RELAYPACS__DICOM__LISTEN": "127.0.0.1:0",
        "RELAYPACS__HTTP__LISTEN": "127.0.0.1:0",
    }
    second = node.run("serve", check=False, env=elsewhere)
    assert second.returncode == 1 and "node.data_dir" in second.stderr
    assert not (node.folder / "elsewhere").exists()
    clients.indexed(node, [one])
    assert node.run("healthcheck").returncode == 0


def test_a_node_whose_socket_was_removed_is_not_said_not_to_run(make_subject):
    node = make_subject()
    (socket,) = (node.folder / "data").rglob("control.sock")
    socket.unlink()
    for command in (["healthcheck"], ["key", "list"]):
        done = node.run(*command, check=False)
        assert done.returncode == 1 and "control.sock" in done.stderr and "no node runs" not in done.stderr


@pytest.mark.sql
def test_no_table_is_taken_from_a_running_node(make_subject):
    node = make_subject()
    refused = node.run("migrate", "down", "--to", "0", check=False)
    assert refused.returncode == 1 and "stop it" in refused.stderr
    assert node.run("migrate", "status").returncode == 0
    one = instances.instance()
    clients.store_all(node, [one])
    clients.indexed(node, [one])


@pytest.mark.parametrize("version", ["99", "-1", "yesterday"])
def test_migrating_to_a_version_that_does_not_exist_is_wrong_usage(make_subject, version):
    done = make_subject(start=False).run("migrate", "down", f"--to={version}", check=False)
    assert done.returncode == USAGE and "there are 0, 1" in done.stderr


def test_a_cause_is_said_once(make_subject):
    node = make_subject(start=False)
    done = node.run("echo", f"NOBODY@127.0.0.1:{free_port()}", check=False)
    assert done.returncode == 1 and done.stderr.count("refused") == 1, done.stderr


@pytest.mark.sql
def test_migrations_go_up_and_down(make_subject):
    node = make_subject(start=False)
    assert node.run("migrate", "up").returncode == 0
    assert node.run("migrate", "status").returncode == 0
    assert node.run("migrate", "down", "--to", "0").returncode == 0
    assert node.run("migrate", "up").returncode == 0
    node.start()


@pytest.mark.sql
def test_a_database_that_is_behind_stops_a_start_that_may_not_migrate(make_subject):
    node = make_subject({"database": {"migrate_on_start": False}}, start=False)
    done = node.run("serve", check=False)
    assert done.returncode == CONFIGURATION and "migrate" in done.stderr + done.stdout


# destination, peer, key


@pytest.mark.sql
def test_a_destination_is_added_used_paused_and_removed(make_subject):
    from gateway.support import send, wait_verified

    with Archive() as archive:
        node = make_subject()
        before = send(node, 3)
        # It takes what is routed from then on, and routing follows the answer.
        clients.wait_until(lambda: node.lines("spool", "status")[0]["unrouted"] == 3, "they are routed")
        node.run(
            "destination",
            "add",
            "archive",
            "--ae-title",
            archive.ae_title,
            "--host",
            "127.0.0.1",
            "--port",
            archive.port,
        )
        many = send(node, 3)
        wait_verified(node, "archive", many)
        assert not set(archive.uids()) & {one.sop_instance for one in before}, "it takes what comes from then on"
        assert node.run("destination", "echo", "archive").returncode == 0
        node.run("destination", "backfill", "archive", "--since", "1h")
        # A report of commitment that meets a node that restarts is asked for again only after verify_deadline.
        wait_verified(node, "archive", before)
        node.run("destination", "pause", "archive")
        assert node.destination("archive")["paused"]
        paused = send(node, 2)
        clients.wait_until(lambda: node.destination("archive")["queued"] == 2, "they wait")
        refused = node.run("destination", "remove", "archive", check=False)
        assert refused.returncode == 1, "removed although deliveries are open"
        node.restart()
        assert node.destination("archive")["paused"], "forgotten by the restart"
        node.run("destination", "resume", "archive")
        wait_verified(node, "archive", paused)
        assert node.run("destination", "remove", "archive").returncode == 0
        assert node.lines("destination", "list") == []


@pytest.mark.sql
def test_entries_of_the_file_are_read_only_for_the_command_line(make_subject):
    with Archive() as archive:
        node = make_subject({"destinations": [archive.destination()], "dicom": {"peers": [{"ae_title": "CT_1"}]}})
        assert node.destination("archive")["from_file"]
        assert node.run("destination", "remove", "archive", check=False).returncode == 1
        again = ["destination", "add", "archive", "--ae-title", "X", "--host", "127.0.0.1", "--port", "1"]
        assert node.run(*again, check=False).returncode == 1
        assert node.run("peer", "remove", "CT_1", check=False).returncode == 1


@pytest.mark.sql
def test_a_peer_is_added_and_removed(make_subject):
    node = make_subject({"dicom": {"admission": "known"}})

    def let_in():
        try:
            return clients.echo(node, calling="CT_5") == 0
        except AssertionError:
            return False

    assert not let_in()
    node.run("peer", "add", "CT_5", "--allow", "127.0.0.0/8")
    assert let_in()
    assert [line["ae_title"] for line in node.lines("peer", "list")] == ["CT_5"]
    node.restart()
    assert let_in()
    node.run("peer", "remove", "CT_5")
    assert not let_in()


def test_an_unknown_destination_is_told(make_subject):
    node = make_subject()
    for command in (["echo", "nowhere"], ["pause", "nowhere"], ["remove", "nowhere"]):
        done = node.run("destination", *command, check=False)
        assert done.returncode == 1 and "nowhere" in done.stderr


# echo, send, find


def test_send_tells_what_became_of_each_file(subject, tmp_path):
    good, bad = instances.study(3), instances.instance()
    paths = []
    for number, one in enumerate(good):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(one.part10)
    target = f"{subject.ae_title}@127.0.0.1:{subject.dicom_port}"
    lines = subject.lines("send", target, *paths)
    assert len(lines) == 3
    held = subject.held()
    assert all(held[one.sop_instance] == [one.sha256] for one in good)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(bad.part10[:-9])
    notes = tmp_path / "notes.txt"
    notes.write_text("no DICOM")
    done = subject.run("send", target, paths[0], broken, notes, "--json", check=False)
    assert done.returncode == 1
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3


def test_send_takes_folders_and_another_calling_title(subject, tmp_path):
    folder = tmp_path / "study"
    (folder / "deeper").mkdir(parents=True)
    many = instances.study(4)
    for number, one in enumerate(many):
        (folder / ("deeper" if number % 2 else ".") / f"{number}").write_bytes(one.part10)
    subject.run("send", f"{subject.ae_title}@127.0.0.1:{subject.dicom_port}", folder, "--calling", "SENDER")
    assert {one.sop_instance for one in many} <= set(subject.held())


def test_send_believes_the_data_set_not_the_file_meta(subject, tmp_path):
    """Real files often disagree; storescu and the node's own doors go by the data set."""
    one = instances.instance()
    path = tmp_path / "renamed.dcm"
    path.write_bytes(instances.replace(one, sop_instance=instances.new_uid()).part10)
    subject.run("send", f"{subject.ae_title}@127.0.0.1:{subject.dicom_port}", path)
    assert subject.held()[one.sop_instance] == [one.sha256]


def test_a_peer_that_is_not_there_is_told(subject):
    for command in (["echo"], ["find", "--level", "STUDY", "-k", "PatientID"]):
        done = subject.run(command[0], f"X@127.0.0.1:{free_port()}", *command[1:], check=False)
        assert done.returncode == 1 and done.stderr and "panicked" not in done.stderr


@pytest.mark.parametrize("target", ["nonsense", "X@127.0.0.1", "@127.0.0.1:1", "X@:1", "X@127.0.0.1:99999"])
def test_a_malformed_address_is_wrong_usage(target):
    assert relaypacs("echo", target).returncode == USAGE


# The data folder


def test_a_command_on_a_folder_that_no_node_has_used_makes_none(make_subject):
    node = make_subject(start=False)
    for command in (["spool", "verify"], ["spool", "status"], ["destination", "list"], ["key", "list"], ["reindex"]):
        done = node.run(*command, check=False)
        assert done.returncode == 1 and "no node has run" in done.stderr, done
    assert not (node.folder / "data").exists()
    assert node.add_key("first", "dicomweb:read")
    node.run("spool", "verify")


def test_a_data_folder_that_anybody_may_write_to_is_refused(make_subject):
    node = make_subject(start=False)
    (node.folder / "data").mkdir()
    (node.folder / "data").chmod(0o777)
    done = node.run("serve", check=False)
    assert done.returncode == CONFIGURATION and "chmod o-w" in done.stderr, done


def test_what_the_node_writes_is_for_its_own_user_alone(make_subject):
    node = make_subject()
    clients.store_all(node, instances.study(1))
    modes = {path: path.stat().st_mode & 0o077 for path in (node.folder / "data").rglob("*")}
    assert modes and not any(modes.values()), {str(path): oct(mode) for path, mode in modes.items() if mode}
