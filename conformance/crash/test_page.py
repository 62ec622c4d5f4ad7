"""docs/durability.md says what docs/durability.json holds."""

import json

from crash import page


def test_the_page_says_what_the_figures_say():
    text = page.PAGE.read_text()
    assert page.page(text, json.loads(page.FIGURES.read_text())) == text, "run `make crash`, or page.store"
