"""Who may use the HTTP door: keys, scopes, and nobody else."""

import base64

import pytest
import requests

import clients
import instances

pytestmark = pytest.mark.relaypacs

READING = [
    "/dicom-web/studies",
    "/dicom-web/series",
    "/dicom-web/instances",
    "/dicom-web/studies/1.2.3",
    "/dicom-web/studies/1.2.3/metadata",
    "/dicom-web/studies/1.2.3/series",
    "/dicom-web/studies/1.2.3/instances",
    "/dicom-web/studies/1.2.3/series/1.2.4",
    "/dicom-web/studies/1.2.3/series/1.2.4/metadata",
    "/dicom-web/studies/1.2.3/series/1.2.4/instances",
    "/dicom-web/studies/1.2.3/series/1.2.4/instances/1.2.5",
    "/dicom-web/studies/1.2.3/series/1.2.4/instances/1.2.5/metadata",
]
WRITING = ["/dicom-web/studies", "/dicom-web/studies/1.2.3"]


def request(node, method, path, **options):
    """Without the fixture's credentials."""
    session = requests.Session()
    session.trust_env = False
    return session.request(method, f"http://127.0.0.1:{node.http_port}{path}", timeout=30, **options)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.item(123)
@pytest.mark.parametrize("method, path", [("GET", path) for path in READING] + [("POST", path) for path in WRITING])
def test_no_credentials_is_401_on_every_route(subject, method, path):
    response = request(subject, method, path)
    assert response.status_code == 401
    assert "WWW-Authenticate" in response.headers
    problem = response.json()
    assert response.headers["Content-Type"].startswith("application/problem+json")
    assert problem["status"] == 401 and problem["code"].isupper() and problem["title"] and problem["type"]


WRONG = {
    "unknown": "Bearer rp_0000000000_" + "a" * 43,
    "no-key": "Bearer nonsense",
    "empty": "Bearer ",
    "scheme": "Negotiate abc",
    "basic": "Basic " + base64.b64encode(b"admin:admin").decode(),
    "broken-basic": "Basic !!!",
    "long": "Bearer rp_" + "a" * 6000,
    "not-latin": "Bearer rp_\xff\xfe",
}


@pytest.mark.item(123)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_credentials_are_401(subject, name):
    response = request(subject, "GET", "/dicom-web/studies", headers={"Authorization": WRONG[name].encode("latin-1")})
    assert response.status_code == 401


@pytest.mark.item(123)
def test_a_changed_secret_is_401(subject):
    key = subject.key
    changed = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert request(subject, "GET", "/dicom-web/studies", headers=bearer(changed)).status_code == 401
    assert request(subject, "GET", "/dicom-web/studies", headers=bearer(key)).status_code in (200, 204)


@pytest.mark.item(123)
def test_a_key_works_as_basic_too(subject):
    """For clients that know only Basic: the key's id and the whole key."""
    identifier = subject.key.split("_")[1]
    response = request(subject, "GET", "/dicom-web/studies", auth=(identifier, subject.key))
    assert response.status_code in (200, 204)
    assert request(subject, "GET", "/dicom-web/studies", auth=("someone", subject.key)).status_code == 401


@pytest.mark.item(123)
def test_a_scope_that_is_missing_is_403(subject):
    reader = subject.add_key("reader", "dicomweb:read")
    writer = subject.add_key("writer", "dicomweb:write")
    assert request(subject, "GET", "/dicom-web/studies", headers=bearer(reader)).status_code in (200, 204)
    body, content_type = clients.multipart([instances.instance().part10])
    post = lambda key: request(  # noqa: E731
        subject, "POST", "/dicom-web/studies", data=body, headers=bearer(key) | {"Content-Type": content_type}
    )
    assert post(reader).status_code == 403
    assert post(writer).status_code == 200
    for path in READING:
        assert request(subject, "GET", path, headers=bearer(writer)).status_code == 403, path


@pytest.mark.item(123)
def test_a_refused_body_is_not_read(subject):
    """401 comes before gigabytes do."""
    import socket

    with socket.create_connection(("127.0.0.1", subject.http_port), timeout=10) as connection:
        connection.sendall(
            b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n"
            b'Content-Type: multipart/related; type="application/dicom"; boundary=b\r\n\r\n'
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


@pytest.mark.item(123)
def test_a_revoked_key_is_401_at_once(subject):
    key = subject.add_key("passing", "dicomweb:read")
    assert request(subject, "GET", "/dicom-web/studies", headers=bearer(key)).status_code in (200, 204)
    subject.run("key", "revoke", key.split("_")[1])
    assert request(subject, "GET", "/dicom-web/studies", headers=bearer(key)).status_code == 401


@pytest.mark.item(123)
def test_an_expired_key_is_401(subject):
    arguments = ["key", "add", "short", "--scope", "dicomweb:read", "--expires", "1s"]
    key = subject.run(*arguments).stdout.strip()
    clients.wait_until(
        lambda: request(subject, "GET", "/dicom-web/studies", headers=bearer(key)).status_code == 401, "it expires", 10
    )


@pytest.mark.item(123)
def test_keys_are_listed_without_their_secrets(subject):
    lines = subject.lines("key", "list")
    assert {"conformance"} <= {line["name"] for line in lines}
    assert subject.key not in str(lines) and subject.key.split("_", 2)[2] not in str(lines)


@pytest.mark.item(123)
def test_no_key_is_kept_in_the_clear(subject):
    secret = subject.key.split("_", 2)[2].encode()
    for path in (subject.folder / "data").rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path
    assert secret not in subject.log.read_bytes()


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_asks_for_no_credentials(subject, path):
    assert request(subject, "GET", path).status_code == 200


def test_metrics_are_on_their_own_listener_only(subject):
    assert request(subject, "GET", "/metrics").status_code in (401, 404)
    clients.store_all(subject, [instances.instance()])
    text = subject.metrics()
    for name in ("relaypacs_instances_received_total", "relaypacs_association_active", "relaypacs_spool_objects"):
        assert name in text


def test_readiness_names_each_dependency(subject):
    response = request(subject, "GET", "/health/ready")
    assert response.status_code == 200
    for word in ("log", "database"):
        assert word in response.text


def test_old_addresses_are_gone_and_say_where_to(subject):
    response = request(subject, "GET", "/api/studies")
    assert response.status_code in (401, 404, 410)
