"""What counting each handler's runs costs: `python -m bench.stats` prints the ratio of throughput with and without it.

The hot path (see `bench.hotpath`) runs in turn as it is and without the lines that count, a few milliseconds each: they
are taken out of the source of one of two versions of the function that runs handlers. A ratio is the median of all
pairs; `null` is the function without them twice, which says how far a ratio can be trusted. Sockets are left out, and
so is Redis: of what a message costs a service, the hot path is less than half, and the ratio that much closer to 1.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from statistics import median
from time import perf_counter
from types import MethodType
from typing import Any

from bench.hotpath import BATCH, PAYLOAD, REQUEST, Path, wire
from daebus import dispatch
from daebus.dispatch import Dispatcher

COUNTING = """\
        tally = call.work.tally
        tally.runs += 1
        if tally.runs >= tally.next_timed:
            tally.took(monotonic() - call.began, slow=call.work.slow)
"""
PAIRS, REPEATS = 2000, 4


def path(*, counts: bool) -> Path:
    """Return the hot path with or without the lines that count; the function is compiled anew in both cases."""
    source = inspect.getsource(Dispatcher.handle)
    if source.count(COUNTING) != 1:
        raise SystemExit("the lines that count were not found in Dispatcher.handle: adapt bench/stats.py")
    names: dict[str, Any] = {}
    exec(textwrap.dedent(source if counts else source.replace(COUNTING, "")), vars(dispatch), names)  # noqa: S102
    made = Path()
    made.dispatcher.handle = MethodType(names["handle"], made.dispatcher)  # type: ignore[method-assign]
    return made


def seconds(made: Path, data: bytes) -> float:
    """Return how long some batches take."""
    began = perf_counter()
    for _ in range(REPEATS):
        made.run(data)
    return perf_counter() - began


def compare(data: bytes, *, counts: bool) -> tuple[float, float]:
    """Return the microseconds of a message without the counting, and the ratio of the throughputs."""
    first, second = path(counts=counts), path(counts=False)
    pairs = []
    for number in range(PAIRS):
        order = (first, second) if number % 2 else (second, first)
        took = {one: seconds(one, data) for one in order}
        pairs.append((took[first], took[second]))
    each = min(bare for _counted, bare in pairs) / REPEATS / BATCH * 1e6
    return each, median(bare / counted for counted, bare in pairs)


def main() -> None:
    """Print the table."""
    request, broadcast = json.dumps(REQUEST).encode(), json.dumps(PAYLOAD).encode()
    for what, data in (("a request", wire(b"svc", request)), ("a broadcast", wire(b"news", broadcast))):
        each, ratio = compare(data, counts=True)
        _each, null = compare(data, counts=False)
        print(f"{what:<12} {each:6.2f} us without; throughput with the counting: {ratio:.4f} (null {null:.4f})")


if __name__ == "__main__":
    main()
