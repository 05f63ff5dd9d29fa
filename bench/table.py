"""From the rounds' figures to the table: medians, ratios, and whether each goal is reached."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .rows import Row
from .scenes import Figures

COLUMNS = ("what", "upstream", "peer", "limit", "ours", "ratio", "goal", "reached")
FIXED_COLUMNS = ("upstream", "limit", "ours")
NOT_MEASURED = "not measured"


@dataclass
class Results:
    """Each scene's figures round by round, or why there are none."""

    rounds: dict[str, dict[int, Figures]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def values(self, scene: str, figure: str) -> dict[int, float]:
        return {number: figures[figure] for number, figures in self.rounds.get(scene, {}).items() if figure in figures}

    def median(self, scene: str, figure: str) -> float | None:
        values = self.values(scene, figure).values()
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Line:
    """A row with its figures: `values` by column, the ratio to what the goal is against, and the verdict."""

    row: Row
    values: dict[str, float | None]
    ratio: float | None
    reached: bool | None


def measured_line(row: Row, results: Results) -> Line:
    values = {column: results.median(scene, row.figure_of(column)) for column, scene in row.scenes.items()}
    ratio = paired_ratio(row, results)
    judged = ratio if row.goal and row.goal.against else values["ours"]
    reached = row.goal.reached(judged) if row.goal and judged is not None else None
    if row.goal and row.scenes["ours"] in results.failures:
        reached = False
    return Line(row, values, ratio, reached)


def paired_ratio(row: Row, results: Results) -> float | None:
    """The median of each round's own ratio, so that a slow spell of the machine weighs on both sides."""
    if row.goal is None or not row.goal.against:
        return None
    ours = results.values(row.scenes["ours"], row.figure_of("ours"))
    other = results.values(row.scenes[row.goal.against], row.figure_of(row.goal.against))
    ratios = [ours[number] / other[number] for number in ours.keys() & other.keys()]
    return statistics.median(ratios) if ratios else None


def render(lines: list[Line]) -> str:
    """A Markdown table, aligned so that it reads as plain text too."""
    cells = [list(COLUMNS), *(cells_of(line) for line in lines)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(aligned(row, widths) for row in (cells[0], rule, *cells[1:]))


def aligned(cells: list[str], widths: list[int]) -> str:
    padded = (
        cell.ljust(width) if not column else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def cells_of(line: Line) -> list[str]:
    row = line.row
    peers = [f"{name} {shown(value, row.unit)}" for name, value in line.values.items() if name not in FIXED_COLUMNS]
    upstream, limit, ours = (
        shown(line.values[name], row.unit) if name in line.values else "–" for name in FIXED_COLUMNS
    )
    verdict = {True: "yes", False: "no", None: "–" if row.goal is None else NOT_MEASURED}[line.reached]
    goal = str(row.goal) if row.goal else "–"
    return [row.what, upstream, ", ".join(peers) or "–", limit, ours, shown_ratio(line.ratio), goal, verdict]


def shown(value: float | None, unit: str) -> str:
    """Three digits are more than such a machine can tell apart."""
    if value is None:
        return NOT_MEASURED
    digits = 0 if value >= 100 or value == int(value) else 1
    number = f"{value:,.{digits}f}"
    return f"{number} {unit}" if unit and unit != "/s" else f"{number}{unit}"


def shown_ratio(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"1/{1 / ratio:.0f}" if ratio < 0.05 else f"{ratio:.3g}"
