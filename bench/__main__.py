"""`bench/run`: sets up what it needs, measures everything side by side in one run, and prints one table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path

from .environment import PEER_PACKAGES, UPSTREAM_PACKAGES, WEB_PACKAGES, Environment, prepare, versions
from .processes import MeasurementError
from .rows import ROWS, SCENES, Row
from .scenes import QUICK, Scene, Settings
from .table import Line, Results, measured_line, render
from .web_rows import WEB_ROWS, WEB_SCENES

ALL_ROWS = (*ROWS, *WEB_ROWS)


def main() -> int:
    options = parse_options()
    rows = chosen_rows(options.only)
    settings = chosen_settings(options)
    environment = prepare(say)
    core = None if options.no_pin else pin_to_quietest_core()
    results = measure(environment, settings, scenes_of(rows))
    lines = [measured_line(row, results) for row in rows]
    print(render(lines))
    print(f"\n{describe(environment, settings, core)}")
    for reason in reasons_for(results):
        print(reason)
    if options.json:
        options.json.write_text(as_json(lines, results, settings, environment, core))
    return 1 if results.failures else 0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


# ---- options ----


def parse_options() -> argparse.Namespace:
    names = ", ".join(row.name for row in ALL_ROWS)
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__, epilog=f"rows: {names}")
    parser.add_argument("--quick", action="store_true", help="two short rounds; rough figures")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="just these rows; * stands for anything")
    parser.add_argument("--rounds", type=positive, metavar="N", help="how many rounds the medians are of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there, too")
    parser.add_argument("--no-pin", action="store_true", help="use all cores; the goals are for one core")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def chosen_rows(patterns: list[str] | None) -> list[Row]:
    unknown = [pattern for pattern in patterns or () if not any(fnmatchcase(row.name, pattern) for row in ALL_ROWS)]
    if unknown:
        names = ", ".join(row.name for row in ALL_ROWS)
        raise SystemExit(f"bench/run: no row {', '.join(unknown)}; there are {names}")
    return [row for row in ALL_ROWS if any(fnmatchcase(row.name, pattern) for pattern in patterns or ("*",))]


def chosen_settings(options: argparse.Namespace) -> Settings:
    settings = QUICK if options.quick else Settings()
    return replace(settings, rounds=options.rounds) if options.rounds else settings


def scenes_of(rows: list[Row]) -> dict[str, Scene]:
    wanted = {name for row in rows for name in row.scenes.values()}
    return {name: scene for name, scene in (SCENES | WEB_SCENES).items() if name in wanted}


# ---- one core ----


def pin_to_quietest_core() -> int | None:
    """Everything that is started from here on stays on the core that others use least just now."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    before = idle_ticks()
    time.sleep(0.5)
    after = idle_ticks()
    core = max(allowed, key=lambda number: after[number] - before[number])
    os.sched_setaffinity(0, {core})
    return core


def idle_ticks() -> dict[int, int]:
    lines = Path("/proc/stat").read_text().splitlines()
    fields = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
    return {int(words[0][3:]): int(words[4]) for words in fields}


# ---- measuring ----


def measure(environment: Environment, settings: Settings, scenes: dict[str, Scene]) -> Results:
    """Round after round through all scenes, every other one backwards; stops in time, between two scenes."""
    results = Results()
    started = time.monotonic()
    for number in range(settings.rounds):
        say(f"round {number + 1} of {settings.rounds} ({time.monotonic() - started:.0f} s)")
        for name in list(scenes) if number % 2 == 0 else reversed(scenes):
            if time.monotonic() - started > settings.total_seconds:
                results.reasons.setdefault(name, "out of time")
                continue
            measure_scene(name, scenes[name], number, environment, settings, results)
    return results


def measure_scene(
    name: str, scene: Scene, number: int, environment: Environment, settings: Settings, results: Results
) -> None:
    missing = [environment.missing[need] for need in scene.needs if need in environment.missing]
    if missing:
        results.reasons[name] = missing[0]
        return
    if scene.once and number > 0:
        return
    try:
        results.rounds.setdefault(name, {})[number] = scene.measure(environment, settings)
    except (MeasurementError, OSError, subprocess.SubprocessError) as error:
        say(f"{name}: {error}")
        results.reasons[name] = str(error)
        results.failures.append(name)


# ---- what is said beside the table ----


def describe(environment: Environment, settings: Settings, core: int | None) -> str:
    where = "all cores" if core is None else f"core {core} alone"
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores"
    words = [
        f"Medians of {settings.rounds} rounds; a ratio is the median of each round's own.",
        "limit: the same work in C, or bare Python where it idles, is imported or started.",
        "inline: the least that Python can do; pool: upstream's thread pool without the rest of upstream.",
        "waitress, gunicorn (gthread): with Flask; uvicorn: with Starlette, uvloop and httptools; websockets: asyncio",
        "tasks or threads. WebSocket peers echo text as it is; Daebus, ours and upstream, reads and writes JSON.",
        f"{system}; on {where}; load {os.getloadavg()[0]:.1f}.",
        "; ".join(versions(environment).values())
        + "; "
        + ", ".join((*UPSTREAM_PACKAGES, *PEER_PACKAGES, *WEB_PACKAGES))
        + ".",
    ]
    return "\n".join(words)


def reasons_for(results: Results) -> list[str]:
    """Each reason once, with all that it kept from being measured."""
    scenes: dict[str, list[str]] = {}
    for name, reason in results.reasons.items():
        scenes.setdefault(reason, []).append(name)
    return [f"Not measured, or not in every round: {', '.join(names)}: {reason}" for reason, names in scenes.items()]


def as_json(lines: list[Line], results: Results, settings: Settings, environment: Environment, core: int | None) -> str:
    rows = [
        {
            "row": line.row.name,
            "what": line.row.what,
            "unit": line.row.unit,
            "values": line.values,
            "goals": [
                {"goal": str(verdict.goal), "ratio": verdict.ratio, "reached": verdict.reached}
                for verdict in line.verdicts
            ],
        }
        for line in lines
    ]
    document = {
        "rows": rows,
        "rounds": results.rounds,
        "reasons": results.reasons,
        "settings": asdict(settings),
        "versions": versions(environment),
        "core": core,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def end_by_exception(_signal: int, _frame: object) -> None:
    """A request to end unwinds the measurement, so that no server or service outlives it."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_by_exception)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; everything it started has been ended")
        sys.exit(130)
