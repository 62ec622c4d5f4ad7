"""A node that delivers to itself would find there what it sent, take it for proven, and free it."""

import pytest

from gateway.support import all_in_state, send
from waiting import wait_until

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


def itself(node, kind, host, tmp_path):
    """`destination add` of the node to itself, which would prove everything that it is sent."""
    add = ["destination", "add", "loop", "--kind", kind, "--verify", "query"]
    if kind == "dimse":
        return [*add, "--ae-title", node.ae_title, "--host", host, "--port", node.dicom_port]
    token = tmp_path / "token"
    token.write_text(node.add_key("loop", "dicomweb:read", "dicomweb:write"))
    token.chmod(0o600)
    return [*add, "--url", f"http://{host}:{node.http_port}/dicom-web", "--token-file", token]


@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_the_node_is_no_destination_of_its_own(make_subject, tmp_path, kind):
    node = make_subject({"spool": {"retention": "0s"}})
    refused = node.run(*itself(node, kind, "127.0.0.1", tmp_path), check=False)
    assert refused.returncode != 0 and "is this node itself" in refused.stderr, refused
    # By another address of this machine it is found out when it is connected.
    node.run(*itself(node, kind, "0.0.0.0", tmp_path))
    many = send(node, 2)
    wait_until(lambda: not node.destination("loop")["up"], "the destination is down")
    assert "itself" in node.destination("loop")["reason"]
    assert all_in_state(node, "loop", many, "queued")
