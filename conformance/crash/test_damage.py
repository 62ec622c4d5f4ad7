"""The short form of the campaign: some of the cuts, flips, lost files and storms."""

import shutil

import pytest

from crash import damage, image, projections, spool_files, storm
from crash.kill import Lost

pytestmark = [pytest.mark.relaypacs, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def few():
    built = image.Image(damage.few)
    yield built
    built.remove()


@pytest.mark.parametrize("how", damage.CUTS)
def test_a_log_that_is_cut_off_loses_nothing_silently(few, how):
    assert damage.cut_off(few, how, 200)["named"] >= 5


def test_of_flipped_bits_each_is_noticed_or_harmless_and_a_resend_heals():
    figures = damage.on(image.Image(damage.many), lambda built: damage.flips(built, 2, seed=0))
    assert figures["named"] > 200 and figures["harmless"] > 20


def test_a_damaged_queue_is_known_again_from_the_log():
    damage.on(projections.past(), lambda built: projections.queue(built, flips=2, cuts=1, few=1))


def test_no_object_goes_with_the_database(few):
    projections.database(few, flips=1)


def test_what_is_acknowledged_while_copies_rot_is_held():
    assert storm.storm(5, seed=0)["acknowledged"] > 50


def test_an_object_that_is_gone_and_not_named_is_noticed(few):
    with few.patient() as node:
        spool = few.lay(node)
        # As if it had never been: neither log nor queue nor index have it.
        shutil.rmtree(spool / "queue")
        for path in node.database_files():
            path.unlink()
        last = [record for record in spool_files.records(spool) if record.is_object][-1]
        damage.wiped(spool, last.path, last.offset)
        with pytest.raises(Lost, match="1 of 5 neither held nor named"):
            image.examine(node, few, {last.sop_instance})


def test_an_object_that_is_held_with_other_bytes_is_noticed(few):
    uid, one = next(iter(few.objects.items()))
    with few.patient() as node:
        few.lay(node)
        few.objects[uid] = one.with_data_set(one.data_set + b"other")
        try:
            with pytest.raises(Lost):
                image.examine(node, few, {uid})
        finally:
            few.objects[uid] = one
