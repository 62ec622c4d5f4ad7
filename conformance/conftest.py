"""Fixtures of all suites, and the rules of a run: what counts as a failure, what a subject may miss."""

import os
import pathlib
import tomllib

import pytest

HERE = pathlib.Path(__file__).resolve().parent
REQUIRE_ALL = os.environ.get("RELAYPACS_REQUIRE_ALL") == "1"


def pytest_addoption(parser):
    parser.addoption(
        "--database",
        choices=["sqlite", "postgres"],
        default=os.environ.get("RELAYPACS_TEST_DATABASE", "sqlite"),
        help="what the node keeps its index in; postgres starts a private server",
    )


def pytest_configure(config):
    os.environ["RELAYPACS_TEST_DATABASE"] = config.getoption("--database")
    if os.environ.get("SUBJECT", "relaypacs") == "relaypacs":
        import subject

        if not subject.binary().exists():
            raise pytest.UsageError(f"{subject.binary()} does not exist: build it, or set RELAYPACS_BIN")


def pytest_collection_modifyitems(config, items):
    import subject

    if subject.CHOSEN != "relaypacs":
        only_node = [entry for entry in items if entry.get_closest_marker("relaypacs")]
        config.hook.pytest_deselected(items=only_node)
        items[:] = [entry for entry in items if entry not in only_node]
    if subject.CHOSEN == "orthanc":
        excuse(items, tomllib.loads((HERE / "deviations_orthanc.toml").read_text()))


def short_name(nodeid):
    """Folder, file and test; a slash in the parameters does not count."""
    test, bracket, parameters = nodeid.partition("[")
    return "/".join(test.split("/")[-2:]) + bracket + parameters


def excuse(items, deviations):
    """Marks what a peer is known to do otherwise. There is no such table for the node."""
    names = {short_name(entry.nodeid): entry for entry in items}
    for test, deviation in deviations.items():
        for name, entry in names.items():
            if name == test or name.startswith(test + "["):
                entry.add_marker(
                    pytest.mark.xfail(
                        reason=deviation["reason"],
                        strict=deviation.get("strict", True),
                        run=deviation.get("run", True),
                    )
                )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        import subject

        report.sections += [(f"log of {each.name}", each.log_tail()) for each in subject.RUNNING]
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and RELAYPACS_REQUIRE_ALL=1 counts that as a failure: {report.longrepr}"
    return report


@pytest.fixture(scope="module")
def subject(request):
    """The chosen subject, one for each module; the module's CONFIG is laid over its configuration."""
    from subject import create

    running = create(getattr(request.module, "CONFIG", None))
    try:
        yield running.start()
        check_alive(running)
    finally:
        running.remove()


@pytest.fixture
def make_subject():
    """Starts further subjects with configurations of their own."""
    from subject import create

    made = []

    def make(config=None, start=True, **options):
        made.append(create(config, **options))
        return made[-1].start() if start else made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.remove()


def check_alive(running):
    if running.process is not None:
        assert running.process.poll() is None, f"{running.name} died:\n{running.log_tail()}"
