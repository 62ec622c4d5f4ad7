"""docs/performance.md: its table, and the chart beside it, from the journal by way of docs/performance.json."""

import json
import statistics

from bench import CHECKOUT
from bench.asked import ASKED

FIGURES = CHECKOUT / "docs/performance.json"
PAGE = CHECKOUT / "docs/performance.md"
CHART = CHECKOUT / "docs/performance.svg"
BEGIN = "<!-- figures: written by `make bench`, from performance.json -->"
END = "<!-- end of figures -->"
UNITS = {
    "per_second": "/s",
    "p99_ms": "ms p99",
    "p50_ms": "ms p50",
    "peak_mib": "MiB",
    "mb": "MB",
    "seconds": "s",
    "lag_seconds": "s",
    "cpu_per_gb": "s CPU/GB",
}


def rows(journal):
    """For each line that is asked: the medians, the ratio of each round's pair, whether it holds; None: not measured."""
    return [row(journal, asked) for asked in ASKED]


def row(journal, asked):
    ours = {n: figures[asked.figure] for n, figures in journal.figures(asked.case, "relaypacs").items()}
    theirs = {}
    if asked.versus:
        case = asked.other_case or asked.case
        theirs = {n: figures[asked.figure] for n, figures in journal.figures(case, asked.versus).items()}
    paired = [ours[n] / theirs[n] for n in ours if n in theirs and theirs[n]]
    measured = (statistics.median(paired) if paired else None) if asked.versus else median(ours)
    holds = None if measured is None else (measured >= asked.bound if asked.at_least else measured <= asked.bound)
    return {
        "case": asked.case,
        "figure": UNITS[asked.figure],
        "asked": wording(asked),
        "node": median(ours),
        "other": median(theirs),
        "ratio": statistics.median(paired) if paired else None,
        "rounds": len(ours),
        "holds": holds if asked.bound else None,
        "origin": journal.origin(asked.case),
        "whole": len(paired if asked.versus else ours) >= journal.rounds,
    }


def wording(asked):
    versus = asked.other_case or asked.versus
    if not asked.bound:
        return f"beside {versus}"
    return f"{'≥' if asked.at_least else '≤'} {asked.bound:g}" + (f" × {versus}" if versus else "")


def median(by_round):
    return statistics.median(by_round.values()) if by_round else None


def store(journal):
    figures = merged(json.loads(FIGURES.read_text()), rows(journal))
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), figures))
    CHART.write_text(chart(figures))
    return figures


def merged(before, now):
    """What was measured now, and of what was not the last word on it."""

    def identity(row):
        return row["case"], row["figure"], row["asked"]

    known = {identity(row): row for row in before}
    return [row if row["whole"] else known.get(identity(row), row) for row in now]


def page(text, figures):
    """`text` with its table replaced."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    head = "| Case | Figure | Asked | Node | The other | Ratio | Rounds | Holds |\n|---|---|---|---|---|---|---|---|\n"
    return before + BEGIN + "\n\n" + head + "".join(map(line, figures)) + "\n" + origins(figures) + "\n" + END + after


def origins(figures):
    """Which binary the rows are of: one, unless parts were measured at different times."""
    cases = {}
    for row in figures:
        cases.setdefault(row["origin"], {})[row["case"]] = None
    (usual, _), *others = sorted(cases.items(), key=lambda item: -len(item[1]))
    text = f"Measured with {usual}.\n"
    return text + "".join(f"With {origin or 'none yet'}: {', '.join(names)}.\n" for origin, names in others)


def line(row):
    holds = {True: "yes", False: "**no**", None: "not measured"}[row["holds"]]
    if row["asked"].startswith("beside"):
        holds = ""
    cells = [row["case"], row["figure"], row["asked"], number(row["node"]), number(row["other"]), number(row["ratio"])]
    return f"| {' | '.join(cells)} | {row['rounds']} | {holds} |\n"


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def chart(figures):
    """Bars of all rates that have something beside them: the node and the other, as shares of the larger."""
    chosen = [row for row in figures if row["figure"] == "/s" and row["ratio"] is not None]
    height = 26 * len(chosen) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" font-family="sans-serif" font-size="12">',
        '<text x="10" y="18" font-weight="bold">Per second: the node (dark) and what it is compared with (light)</text>',
    ]
    for place, row in enumerate(chosen):
        y = 30 + 26 * place
        most = max(row["node"], row["other"])
        label = f"{row['case']} / {row['asked'].split('× ')[-1]}"
        parts.append(f'<text x="10" y="{y + 14}">{label}</text>')
        for offset, value, colour in ((0, row["node"], "#1b4f72"), (10, row["other"], "#a9cce3")):
            width = 460 * value / most
            parts.append(f'<rect x="260" y="{y + offset}" width="{width:.1f}" height="9" fill="{colour}"/>')
            parts.append(f'<text x="{265 + width:.1f}" y="{y + offset + 9}" font-size="10">{number(value)}</text>')
    return "\n".join([*parts, "</svg>", ""])
