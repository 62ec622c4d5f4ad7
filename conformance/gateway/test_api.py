"""The REST API: what an administrator does to a running node, seen by an HTTP client and by peers."""

import pytest

import clients
import instances
from crash.sinks import DimseArchive, Sink
from gateway.test_auth import bearer, request
from subject import RelayPacs
from waiting import wait_until

pytestmark = pytest.mark.relaypacs


@pytest.fixture(scope="module")
def node():
    node = RelayPacs({"dicom": {"admission": "known"}})
    try:
        yield node.start()
    finally:
        node.remove()


@pytest.fixture(scope="module")
def admin(node):
    """Asks with a key that may do what administrators do."""
    key = node.add_key("admin", "admin", "api:read")

    def ask(method, path, **options):
        return request(node, method, "/api/v1" + path, headers=bearer(key), **options)

    return ask


def test_a_study_goes_through_a_peer_and_a_destination_that_were_added_by_the_api(node, admin):
    one = instances.instance()
    with Sink(DimseArchive) as archive:
        destination = {
            "name": "pacs",
            "kind": "dimse",
            "ae_title": "ARCHIVE",
            "host": "127.0.0.1",
            "port": archive.port,
            "timeout": "5s",
        }
        assert admin("POST", "/destinations", json=destination).status_code == 201
        assert admin("POST", "/destinations/pacs/echo").json()["answer"].startswith("C-ECHO answered 0000")
        assert admin("POST", "/peers", json={"ae_title": "API_CT", "allow": ["127.0.0.0/8"]}).status_code == 201
        clients.store_all(node, [one], calling="API_CT")

        def verified():
            (line,) = [item for item in admin("GET", "/destinations").json()["items"] if item["name"] == "pacs"]
            return line["verified"] == 1

        wait_until(verified, "the API says that the archive has it", 30)
        assert archive.uids() == {one.sop_instance: one.sha256}
        assert admin("DELETE", "/destinations/pacs").status_code == 204
        assert admin("DELETE", "/peers/API_CT").status_code == 204


def test_a_key_that_was_made_by_the_api_works_until_it_is_revoked_there(node, admin):
    made = admin("POST", "/keys", json={"name": "viewer", "scopes": ["dicomweb:read"]})
    assert made.status_code == 201
    key = made.json()["key"]
    assert request(node, "GET", "/dicom-web/studies", headers=bearer(key)).status_code in (200, 204)
    (line,) = [item for item in admin("GET", "/keys").json()["items"] if item["name"] == "viewer"]
    assert key.split("_")[1] == line["id"] and "sha256" not in line
    assert admin("DELETE", f"/keys/{line['id']}").status_code == 204
    assert request(node, "GET", "/dicom-web/studies", headers=bearer(key)).status_code == 401


BAD = {
    "no-json": (dict(data="{", headers={"Content-Type": "application/json"}), 400, "INVALID_BODY"),
    "not-json": (dict(data="ae_title=CT", headers={"Content-Type": "text/plain"}), 415, "UNSUPPORTED_MEDIA_TYPE"),
    "unknown-member": (dict(json={"ae_title": "CT", "admin": True}), 400, "INVALID_BODY"),
    "too-long": (dict(json={"ae_title": "A" * 17}), 400, "INVALID_BODY"),
    "backslash": (dict(json={"ae_title": "A\\B"}), 422, "INVALID_AE_TITLE"),
    "no-network": (dict(json={"ae_title": "CT", "allow": ["everywhere"]}), 422, "INVALID_PEER"),
    "large": (dict(json={"ae_title": "CT", "allow": ["10.0.0.0/8"] * 100_000}), 413, "BODY_TOO_LARGE"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_a_problem_with_a_code_and_changes_nothing(node, case):
    options, status, code = BAD[case]
    headers = bearer(node.add_key("admin", "admin")) | options.pop("headers", {})
    response = request(node, "POST", "/api/v1/peers", headers=headers, **options)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code)
    assert response.headers["Content-Type"] == "application/problem+json" and problem["trace_id"]
    listed = request(node, "GET", "/api/v1/peers", headers=headers).json()["items"]
    assert not [peer for peer in listed if peer["ae_title"].startswith(("CT", "A"))]


@pytest.mark.parametrize("name", ["/etc/shadow", "../relaypacs.db", "secrets/destinations/web", "", "."])
def test_no_file_of_the_node_but_those_for_destinations_can_be_named(node, admin, name):
    destination = {"name": "thief", "kind": "stow", "url": "http://127.0.0.1:9/dicom-web", "token_file": name}
    response = admin("POST", "/destinations", json=destination)
    assert (response.status_code, response.json()["code"]) == (422, "INVALID_DESTINATION")
    assert "thief" not in [item["name"] for item in admin("GET", "/destinations").json()["items"]]


def test_every_answer_says_its_version_and_is_harmless_in_a_browser(node, admin):
    for response in (
        admin("GET", "/system"),
        admin("GET", "/nothing"),
        admin("PUT", "/system"),
        request(node, "GET", "/api/v1/system"),
    ):
        assert response.headers["API-Version"] == "1.0", response.url
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"


def test_an_address_without_a_version_names_its_successor(node):
    response = request(node, "GET", "/api/peers", headers=bearer(node.key))
    assert (response.status_code, response.json()["code"]) == (410, "UNVERSIONED")
    assert response.headers["Link"] == '</api/v1/peers>; rel="successor-version"'
    assert response.headers["Deprecation"].startswith("@") and response.headers["Sunset"].endswith("GMT")


def test_the_document_lists_every_operation_with_the_scope_it_asks_for_and_a_key_without_it_is_refused(node, admin):
    document = admin("GET", "/openapi.json").json()
    without = bearer(node.add_key("none", "dicomweb:read"))
    operations = [(path, method, what) for path, of in document["paths"].items() for method, what in of.items()]
    assert len(operations) > 10
    for path, method, operation in operations:
        address = "/api/v1" + path.replace("{", "").replace("}", "")
        assert request(node, method.upper(), address).status_code == 401, operation["operationId"]
        refused = request(node, method.upper(), address, headers=without)
        assert (refused.status_code, refused.json()["code"]) == (403, "SCOPE_MISSING"), operation["operationId"]
        assert operation["x-scope"] in refused.json()["detail"]
