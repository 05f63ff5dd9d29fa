"""What counting each handler's runs costs: `python -m bench.stats` prints the ratio of throughput with and without it.

One service is loaded over Redis, in turn as it is and without the lines that count, for some hundredths of a second
each: they are taken out of the source of one of two versions of the function that runs handlers. A rate is one over
the CPU time that the service needs for a message, sockets included, so that other work on the machine weighs little; a
ratio is the median of all pairs of rounds. `null` is the same function twice: how far a ratio can be trusted.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from bench.hotpath import PAYLOAD
from daebus import Daebus, dispatch, request
from daebus.client import DaebusCaller
from daebus.dispatch import Dispatcher
from daebus.link import new_id, open_link
from daebus.redisserver import PrivateServer
from daebus.resp import command, publish
from daebus.settings import RedisSettings, parse_url

COUNTING = """\
        tally = call.work.tally  # as `tally.ran`, without a further call
        tally.times.append(monotonic() - call.began)
        if len(tally.times) >= UNSORTED:
            tally.sort()
"""
AT_ONCE, BATCHES, ROUNDS, LIMIT = 50, 10, 300, 30.0


def handle(*, counts: bool) -> Any:
    """Return `Dispatcher.handle`, as it is or without the lines that count; compiled anew in both cases."""
    source = inspect.getsource(Dispatcher.handle)
    if source.count(COUNTING) != 1:
        raise SystemExit("the lines that count were not found in Dispatcher.handle: adapt bench/stats.py")
    names: dict[str, Any] = {}
    exec(textwrap.dedent(source if counts else source.replace(COUNTING, "")), vars(dispatch), names)  # noqa: S102
    return names["handle"]


def serve() -> None:
    """Run the service; its action `use` changes the function."""
    app = Daebus(__name__)
    versions = {"with": handle(counts=True), "without": handle(counts=False), "null": handle(counts=False)}

    @app.action("use")
    def use() -> None:
        Dispatcher.handle = versions[request.payload["version"]]  # type: ignore[method-assign]

    @app.action("echo", inline=True)
    def echo() -> object:
        return request.payload

    @app.listen("bench.news", inline=True)
    def news(_payload: object) -> None:
        """Take a broadcast."""

    app.run(service="bench")


class Load:
    """The connections that load the service."""

    def __init__(self, settings: RedisSettings, pid: int) -> None:
        self._pid = pid
        self._caller = DaebusCaller("bench", redis_url=settings.url, timeout=LIMIT)
        self._caller.send_request("use", {"version": "with"}, wait=True)
        self._replies = f"caller:{new_id()}"
        self._subscribed, self._publishing = (open_link(settings, "load", monotonic() + LIMIT) for _ in range(2))
        self._subscribed.ask(monotonic() + LIMIT, command("SUBSCRIBE", self._replies))
        message = {"action": "echo", "payload": PAYLOAD, "reply_to": self._replies, "request_id": new_id()}
        self.request = publish(b"bench", json.dumps(message).encode())
        self.broadcast = publish(b"bench.news", json.dumps(PAYLOAD).encode())

    def seconds(self, version: str, messages: list[bytes]) -> float:
        """Send messages some times; return the seconds of CPU time that the service needed. The last is a request."""
        self._caller.send_request("use", {"version": version})
        self._send(messages)  # the interpreter learns the changed path
        before = cpu_seconds(self._pid)
        for _ in range(BATCHES):
            self._send(messages)
        return cpu_seconds(self._pid) - before

    def _send(self, messages: list[bytes]) -> None:
        self._publishing.ask(monotonic() + LIMIT, *messages)
        answers = messages.count(self.request)
        while answers > 0:
            answers -= len(self._subscribed.wait(monotonic() + LIMIT))

    def compare(self, first: str, second: str, messages: list[bytes]) -> tuple[float, float]:
        """Return the microseconds of a message with the second version, and the ratio of the throughputs."""
        pairs = []
        for number in range(ROUNDS):
            order = (first, second) if number % 2 else (second, first)
            took = {version: self.seconds(version, messages) for version in order}
            pairs.append((took[first], took[second]))
        each = median(bare for _counted, bare in pairs) / BATCHES / len(messages) * 1e6
        return each, median(bare / counted for counted, bare in pairs)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def running(settings: RedisSettings) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service for the length of a block."""
    environment = {**os.environ, "DAEBUS_REDIS_URL": settings.url}
    words = [sys.executable, "-m", "bench.stats", "serve"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def main() -> None:
    """Be the service, or print the table."""
    if sys.argv[1:] == ["serve"]:
        serve()
        return
    with ExitStack() as stack:
        settings = parse_url(stack.enter_context(PrivateServer()).url, "the server's address")
        load = Load(settings, stack.enter_context(running(settings)).pid)
        subjects: list[tuple[str, list[bytes]]] = [
            ("a request", [load.request] * AT_ONCE),
            ("a broadcast", [load.broadcast] * (AT_ONCE - 1) + [load.request]),
        ]
        for what, messages in subjects:
            each, ratio = load.compare("with", "without", messages)
            _each, null = load.compare("null", "without", messages)
            print(f"{what:<12} {each:6.2f} us without; throughput with the counting: {ratio:.4f} (null {null:.4f})")


if __name__ == "__main__":
    main()
