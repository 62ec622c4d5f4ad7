"""The project's own synthetic files (testdata/): they are what their generator makes, stored or refused as they say."""

import pathlib
import subprocess
import sys

import pytest

import clients
from instances import split_part10
from real_files.collection import read
from real_files.doors import STORED, c_store, stow

pytestmark = pytest.mark.relaypacs
FOLDER = pathlib.Path(__file__).resolve().parent.parent.parent / "testdata"
GOOD = sorted(FOLDER.glob("*.dcm"))
BAD = sorted(FOLDER.glob("bad/*.dcm"))


def test_the_files_are_what_the_generator_makes():
    assert GOOD and BAD
    done = subprocess.run([sys.executable, str(FOLDER / "generate.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.item(51, 52)
@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_file_is_stored_by_either_door_and_comes_back(subject, path):
    one = read(path.read_bytes())
    assert c_store(subject, one)[0] == STORED
    assert stow(subject, path.read_bytes()) == STORED
    clients.indexed(subject, [one])
    (file,) = clients.retrieve(subject, one.path)
    assert split_part10(file)[1] == one.data_set


@pytest.mark.item(43)
@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_by_either_door(subject, path):
    data = path.read_bytes()
    assert c_store(subject, read(data))[0] == "refused C000"
    assert stow(subject, data) == "refused C000"
    assert clients.echo(subject) == 0
