"""The figures of docs/durability.md: written from docs/durability.json, which each finished part brings up to date."""

import json

from subject import CHECKOUT

FIGURES = CHECKOUT / "docs/durability.json"
PAGE = CHECKOUT / "docs/durability.md"
BEGIN = "<!-- figures: written by `make crash`, from durability.json -->"
END = "<!-- end of figures -->"


def store(name, summary):
    figures = json.loads(FIGURES.read_text()) | {name: summary}
    FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), figures))


def page(text, figures):
    """`text` with its figures replaced."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + "\n\n" + "\n".join(section(name, part) for name, part in figures.items()) + END + after


def section(name, part):
    head = f"### {part['title']}\n\n`make crash PART={name}`, {part['minutes']} minutes, on {part['at']}, {part['version']}.\n"
    rows = [
        f"| {line['asked']} | {line['measured']} | {'yes' if line['holds'] else '**no**'} |" for line in part["lines"]
    ]
    return "\n".join([head, "| Asked | Measured | Holds |", "|---|---|---|", *rows, ""])
