"""A destination that left the configuration file while deliveries wait for it: they hold their objects."""

import pytest
import requests

from gateway.support import all_in_state, send, to
from processes import free_port
from waiting import wait_until

pytestmark = pytest.mark.relaypacs


def dead(name):
    port = free_port()
    return {"name": name, "kind": "dimse", "ae_title": "DEAD", "host": "127.0.0.1", "port": port, "verify": "none"}


def gone(node):
    return [line for line in node.lines("destination", "list") if line["kind"] == "gone"]


def test_what_waits_for_a_destination_that_is_gone_is_shown_and_can_be_given_up(make_subject):
    node = make_subject(to(dead("archive")))
    many = send(node, 3)
    wait_until(lambda: all_in_state(node, "archive", many, "queued"), "they wait")
    node.stop()
    node.configure(node.config | {"destinations": []})
    assert [(line["name"], line["queued"], line["up"]) for line in gone(node)] == [("archive", 3, False)]
    node.start()
    assert [(line["name"], line["queued"], line["up"]) for line in gone(node)] == [("archive", 3, False)]
    ready = requests.get(f"http://127.0.0.1:{node.http_port}/health/ready", timeout=5).text
    assert "degraded" in ready and "it is not configured" in ready
    assert 'relaypacs_destination_up{destination="archive"} 0' in node.metrics()
    assert node.run("destination", "requeue", "archive", check=False).returncode != 0
    node.run("destination", "cancel", "archive", "--all")
    assert not gone(node) and all_in_state(node, "archive", many, "cancelled")
    assert node.run("destination", "cancel", "nobody", "--all", check=False).returncode != 0
    assert {one.sop_instance for one in many} <= set(node.held())
