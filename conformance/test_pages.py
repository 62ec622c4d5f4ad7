"""The pages with measured figures say what was measured."""

import json
import pathlib
import sys

from crash import page as durability

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from bench import page as performance  # noqa: E402


def test_the_page_on_durability_says_what_its_figures_say():
    text = durability.PAGE.read_text()
    assert durability.page(text, json.loads(durability.FIGURES.read_text())) == text, "run `make crash`"


def test_the_page_on_performance_says_what_its_figures_say():
    figures = json.loads(performance.FIGURES.read_text())
    text = performance.PAGE.read_text()
    assert performance.page(text, figures) == text, "run `make bench`"
    assert performance.chart(figures) == performance.CHART.read_text(), "run `make bench`"
