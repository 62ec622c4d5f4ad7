"""The short form of the campaign: some of the calls, some of the times."""

import errno
import os
import time

import pytest

from crash import faults, image
from crash.faulty import Fault
from crash.kill import Lost

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]
EIO, ENOSPC = errno.EIO, errno.ENOSPC


@pytest.fixture(scope="module")
def built():
    made = image.Image(faults.before, faults.CONFIG)
    yield made
    made.remove()


FAULTS = [
    Fault("log", "read", EIO, 1, lasting=True),
    Fault("log", "read", EIO, 3),
    Fault("log", "write", ENOSPC, 3),
    Fault("log", "write", EIO, 4),
    Fault("log", "write", EIO, 2, lasting=True),
    Fault("log", "tear", EIO, 6),
    Fault("log", "sync", EIO, 8),
    Fault("log", "allocate", ENOSPC, 1, lasting=True),
    Fault("large", "create", ENOSPC, 2, lasting=True),
    Fault("large", "write", EIO, 3),
    Fault("large", "sync", EIO, 8),
    Fault("queue", "write", ENOSPC, 3),
    Fault("queue", "sync", EIO, 10),
    Fault("database", "write", ENOSPC, 5, lasting=True),
    Fault("database", "sync", EIO, 2),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_fails_costs_nothing_that_was_acknowledged(built, fault):
    with built.patient() as node:
        assert faults.Trial(node, built, fault).run()["hit"], "the call was never made"


@pytest.mark.root
@pytest.mark.parametrize("kind", faults.DISKS)
def test_a_disk_filled_to_the_last_is_taken_up_again_when_there_is_room(kind):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    assert faults.fill(kind, 1)["acknowledged"] > 10


class Careless(faults.Trial):
    """Takes what was refused, or never sent, for acknowledged."""

    def end(self):
        super().end()
        self.acknowledged[self.image.newcomer.sop_instance] = faults.Template(700).make()


def test_a_loss_is_noticed(built):
    with built.patient() as node, pytest.raises(Lost, match="1 of"):
        Careless(node, built, Fault("log", "write", EIO, 3)).run()


class Deaf(faults.Trial):
    """Sees a sync fail where the node did not."""

    def end(self):
        super().end()
        self.faulty.hits.append((time.monotonic() - 60, "log"))


def test_a_sync_that_failed_and_stopped_nothing_is_noticed(built):
    with built.patient() as node, pytest.raises(AssertionError, match="a sync failed, and it went on"):
        Deaf(node, built, Fault("log", "sync", EIO, 10_000)).run()


