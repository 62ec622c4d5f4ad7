"""PS3.4 Annex A: the Verification service."""

import subprocess

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

import clients


@pytest.mark.item(39)
def test_c_echo_succeeds(subject):
    assert clients.echo(subject) == 0x0000


@pytest.mark.item(39)
def test_c_echo_of_dcmtk_succeeds(subject):
    host, port = subject.address
    command = ["echoscu", "-aec", subject.ae_title, "--repeat", "5", host, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.item(39)
def test_c_echo_of_pynetdicom_succeeds_again_and_again(subject):
    application = AE("PYNETDICOM")
    application.add_requested_context(Verification)
    association = application.associate(*subject.address, ae_title=subject.ae_title)
    assert association.is_established
    assert [association.send_c_echo(message_id).Status for message_id in (1, 2, 65535)] == [0, 0, 0]
    association.release()
    assert association.is_released


@pytest.mark.item(39)
@pytest.mark.relaypacs
def test_the_nodes_own_echo_tells_its_result(subject):
    host, port = subject.address
    assert subject.run("echo", f"{subject.ae_title}@{host}:{port}").returncode == 0
    refused = subject.run("echo", f"NOBODY@{host}:{port}", check=False)
    assert refused.returncode == 1 and refused.stderr
