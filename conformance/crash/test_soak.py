"""The short form of `make soak`, and that growth is noticed."""

import pytest

from crash import soak

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


def test_everything_at_once_goes_well_and_is_freed():
    figures = soak.mixed(0.2, retention="1s")
    assert figures["objects"] > 50 and figures["freed"] > 0
    assert all(figures["questions"].values())


def test_growth_and_brevity_are_said():
    flat = {
        "minutes": 60,
        "objects": 70_000,
        "freed": 69_000,
        "questions": {"QIDO-RS": 9},
        "p99": {"QIDO-RS": 0.1},
        "resident": [50 << 20, 60 << 20, 60 << 20, 61 << 20],
        "peak": 62 << 20,
        "files": [40, 44, 44, 45],
        "most_files": 48,
    }
    assert all(line.holds for line in soak.lines({"60 minutes": flat}))
    for breach in (
        {"resident": [50 << 20, 60 << 20, 62 << 20, 64 << 20]},
        {"files": [40, 44, 60, 80]},
        {"minutes": 10},
        {"freed": 0},
    ):
        assert not all(line.holds for line in soak.lines({"60 minutes": flat | breach})), breach
