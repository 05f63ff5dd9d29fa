"""What one message costs a service in Python, without sockets: `python -m bench.hotpath` prints microseconds.

The parts that every Python service must pay (parsing Redis' protocol, JSON in and out) are measured alone beside the
whole path, so that what is left is Daebus itself. `--profile` prints where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
from collections.abc import Callable
from time import monotonic, perf_counter

import hiredis

from daebus import Daebus, request
from daebus.bus import Bus
from daebus.dispatch import Dispatcher
from daebus.engine import Engine, _Reading
from daebus.inbox import Inbox
from daebus.jsontext import dumps, loads
from daebus.settings import RedisSettings
from daebus.work import Work

PAYLOAD = {"text": "hello world hello world", "n": 5, "list": [1, 2, 3], "more": "abcdefghijklmnopqrs"}
UUID = "0a7d2a4c-2b53-4d6a-9a8f-6d1b3a0c9b1e"
REQUEST = {"action": "echo", "payload": PAYLOAD, "reply_to": f"caller:{UUID}", "request_id": UUID, "service": "svc"}
BATCH, REPEATS, ROUNDS = 50, 200, 8

app = Daebus("hotpath")


@app.action("echo")
def echo() -> object:
    """Answer with what was sent."""
    return request.payload


@app.listen("news")
def news(_payload: object) -> None:
    """Take a broadcast."""


class Path:
    """The whole path of a service but its sockets."""

    def __init__(self) -> None:
        self.bus = Bus(RedisSettings(), "svc")
        self.dispatcher = Dispatcher("svc", app.records("action"), self.bus.flush)
        inbox = Inbox(self.dispatcher, self.bus, {}, "")
        inbox.open()
        self.engine = Engine(10, self.bus.flush, lambda: None)
        self.engine._reader = self.reading = _Reading()
        self.engine._read_at = monotonic() + 1e9
        self.bus.engine = self.engine
        listened = [Work(record) for record in app.records("listen")]
        self.bus.listen(inbox.plan_request, inbox.plan_message, listened)

    def run(self, data: bytes) -> None:
        """Read and handle what would come with one reading, and throw the answers away."""
        self.engine.put(self.bus._sorted(parsed(data)))
        self.engine._run_ready(self.reading)
        self.bus._outbox.clear()
        self.bus._outbox_bytes = 0


def parsed(data: bytes) -> list[object]:
    """Return the messages in what Redis sent."""
    reader = hiredis.Reader()
    reader.feed(data)
    messages = []
    while (message := reader.gets()) is not False:
        messages.append(message)
    return messages


def wire(channel: bytes, data: bytes) -> bytes:
    """Return a batch of one message as Redis sends it."""
    one = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(data), data)
    return one * BATCH


def cost(work: Callable[[], object], messages: int) -> float:
    """Return microseconds for one message: the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = perf_counter()
        for _ in range(REPEATS):
            work()
        best = min(best, perf_counter() - began)
    return best / REPEATS / messages * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="print where the time of a request goes")
    profile = parser.parse_args().profile
    path, data = Path(), json.dumps(REQUEST).encode()
    requests, broadcasts = wire(b"svc", data), wire(b"news", json.dumps(PAYLOAD).encode())
    for what, microseconds in (
        ("Redis' protocol, parsed by hiredis", cost(lambda: parsed(requests), BATCH)),
        ("JSON in, of a request", cost(lambda: loads(data), 1)),
        ("JSON out, of its answer", cost(lambda: dumps(PAYLOAD), 1)),
        ("a request, all of it", cost(lambda: path.run(requests), BATCH)),
        ("a broadcast, all of it", cost(lambda: path.run(broadcasts), BATCH)),
    ):
        print(f"{what:<38} {microseconds:6.2f} us")
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(cost, lambda: path.run(requests), BATCH)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
