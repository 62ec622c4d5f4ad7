"""The short form of the campaign; and that it notices what it looks for."""

import pytest

from crash import downstream
from crash.proxy import KINDS
from crash.sinks import DimseArchive

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


@pytest.mark.timeout(330)
@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_everything_arrives_once_through_a_network_that_fails(kind):
    # An object that fails several times in a row is put off longer each time; mostly it takes half a minute.
    figures = downstream.through_faults(kind, count=400, longest=20_000, seconds=280)
    assert figures["twice"] <= 6
    assert sum(figures["faults"].values()) >= len(KINDS)


def test_who_is_well_keeps_its_rate_beside_a_dead_one_and_a_flapping_one():
    """Rounds so short say little about a twentieth; a worker that waits for another's archive they show."""
    assert downstream.one_dead(seconds=1, least=1, most=6)["ratio"] >= 0.8
    assert downstream.one_flapping(turn=0.7, seconds=1.5, least=1, most=6, drain=2)["ratio"] >= 0.8


class Forgetful(DimseArchive):
    """Loses one object in fifty, and commits to it all the same."""

    def remember(self, uid, digest):
        super().remember(uid, digest)
        if len(self.held) % 50 == 0:
            self.held[uid] = None

    def uids(self):
        return {uid: digest for uid, digest in super().uids().items() if digest}


class Corrupting(DimseArchive):
    def remember(self, uid, digest):
        super().remember(uid, digest if len(self.held) % 50 else digest[::-1])


class Repeating(DimseArchive):
    def remember(self, uid, digest):
        for _ in range(1 + (len(self.held) % 50 == 0)):
            super().remember(uid, digest)


def test_what_is_lost_changed_or_sent_twice_is_noticed(monkeypatch):
    def through(archive):
        monkeypatch.setitem(downstream.DOORS, "dimse", (downstream.dimse, archive))
        return downstream.through_faults("dimse", count=100, longest=10**9)

    with pytest.raises(AssertionError, match="not there"):
        through(Forgetful)
    with pytest.raises(AssertionError, match="changed"):
        through(Corrupting)
    figures = through(Repeating) | {"objects": downstream.MANY, "twice": 201}
    assert not downstream.fault_lines("C-STORE", figures)[1].holds


def test_who_is_slowed_down_beside_an_ill_one_is_noticed():
    @downstream.contextlib.contextmanager
    def harmful(beside):
        with downstream.dead(beside):
            for name in beside.WELL:
                beside.sinks[name].ask("slower")
            yield
            for name in beside.WELL:
                beside.sinks[name].ask("faster")

    assert downstream.one_dead(seconds=1, least=1, most=1, ill=harmful)["ratio"] < downstream.ASKED
