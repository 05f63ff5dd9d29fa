"""From the rounds' figures to the table: medians, ratios, and whether each goal is reached."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from .rows import Goal, Row
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
class Verdict:
    """One goal, with the ratio to what it is against."""

    goal: Goal
    ratio: float | None
    reached: bool | None


@dataclass(frozen=True)
class Line:
    """A row with its figures by column, and the verdict on each of its goals."""

    row: Row
    values: dict[str, float | None]
    verdicts: tuple[Verdict, ...]


def measured_line(row: Row, results: Results) -> Line:
    values = {column: results.median(scene, row.figure_of(column)) for column, scene in row.scenes.items()}
    verdicts = tuple(verdict(goal, row, values["ours"], results) for goal in row.goals)
    return Line(row, values, verdicts)


def verdict(goal: Goal, row: Row, ours: float | None, results: Results) -> Verdict:
    ratio = paired_ratio(goal, row, results) if goal.columns else None
    judged = ratio if goal.columns else ours
    reached = None if judged is None else goal.reached(judged)
    return Verdict(goal, ratio, False if row.scenes["ours"] in results.failures else reached)


def paired_ratio(goal: Goal, row: Row, results: Results) -> float | None:
    """The median of each round's own ratio, so that a slow spell of the machine weighs on both sides."""
    ours = results.values(row.scenes["ours"], row.figure_of("ours"))
    others = [results.values(row.scenes[column], row.figure_of(column)) for column in goal.columns]
    rounds = set(ours).intersection(*others)
    ratios = [ours[number] / goal.best(other[number] for other in others) for number in rounds]
    return statistics.median(ratios) if ratios else None


def render(lines: list[Line]) -> str:
    """A Markdown table, aligned so that it reads as plain text too."""
    cells = [list(COLUMNS), *(cells for line in lines for cells in cells_of(line))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(aligned(row, widths) for row in (cells[0], rule, *cells[1:]))


def aligned(cells: list[str], widths: list[int]) -> str:
    padded = (
        cell.ljust(width) if not column else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def cells_of(line: Line) -> list[list[str]]:
    """A line of the table for each goal; the figures stand in the first."""
    row = line.row
    peers = [f"{name} {shown(value, row.unit)}" for name, value in line.values.items() if name not in FIXED_COLUMNS]
    upstream, limit, ours = (
        shown(line.values[name], row.unit) if name in line.values else "–" for name in FIXED_COLUMNS
    )
    figures = [row.what, upstream, ", ".join(peers) or "–", limit, ours]
    verdicts = [verdict_cells(verdict) for verdict in line.verdicts] or [["–", "–", "–"]]
    return [[*(figures if number == 0 else [""] * len(figures)), *cells] for number, cells in enumerate(verdicts)]


def verdict_cells(verdict: Verdict) -> list[str]:
    reached = {True: "yes", False: "no", None: NOT_MEASURED}[verdict.reached]
    return [shown_ratio(verdict.ratio), str(verdict.goal), reached]


def shown(value: float | None, unit: str) -> str:
    """Three digits are more than such a machine can tell apart."""
    if value is None:
        return NOT_MEASURED
    digits = 0 if value >= 100 or value == int(value) else 1
    number = f"{round(value, digits) + 0.0:,.{digits}f}"  # the sum takes the sign from a zero
    return f"{number} {unit}" if unit and unit != "/s" else f"{number}{unit}"


def shown_ratio(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"1/{1 / ratio:.0f}" if ratio < 0.05 else f"{ratio:.3g}"
