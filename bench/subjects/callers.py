"""Python callers, each with one request in flight, in one process; the result is one line of JSON.

Arguments: the kind (threads, tasks, bare, dbus or nats), how many callers, how many seconds, and where: a TCP
port for upstream's callers, "-" for ours (the environment says it), the path of Redis' socket for a bare
caller, the address of the D-Bus or NATS server. The bare caller is the least that Python can do: two sockets,
hiredis and json.
"""

# The peers' libraries are only in the benchmark's own environment.
# mypy: disable-error-code="import-not-found,no-any-return,unused-ignore"

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

WARM_UP_SECONDS = 0.3
TIMEOUT_SECONDS = 20
PAYLOAD: dict[str, object] = {
    "device": "kitchen-lamp",
    "reading": 21.5,
    "unit": "celsius",
    "tag": "0000000001",
    "text": "a line of text to pass on",
}
"""The C load's payload, so that all callers send the same 112 bytes."""

Echo = Callable[[dict[str, object]], object]
AsyncEcho = Callable[[dict[str, object]], Awaitable[object]]


class Window:
    """The latencies (in seconds) of what was answered after the warm-up and before the end."""

    def __init__(self, seconds: float) -> None:
        self.opens = perf_counter() + WARM_UP_SECONDS
        self.closes = self.opens + seconds
        self.seconds = seconds
        self.latencies: list[float] = []

    def record(self, started: float, answer: object) -> bool:
        """Check and count one answer; false when it is time to stop."""
        now = perf_counter()
        if answer != PAYLOAD:
            raise SystemExit(f"callers: a wrong answer: {answer!r}")
        if self.opens <= now < self.closes:
            self.latencies.append(now - started)
        return now < self.closes

    def result(self) -> dict[str, float]:
        if not self.latencies:
            raise SystemExit("callers: nothing was answered in time")
        ordered = sorted(self.latencies)
        p50, p99 = (ordered[int((len(ordered) - 1) * share)] * 1e6 for share in (0.5, 0.99))
        return {"p50": p50, "p99": p99, "rate": len(ordered) / self.seconds, "count": len(ordered)}


def call_until_closed(window: Window, echo: Echo) -> None:
    going = True
    while going:
        started = perf_counter()
        going = window.record(started, echo(PAYLOAD))


async def await_until_closed(window: Window, echo: AsyncEcho) -> None:
    going = True
    while going:
        started = perf_counter()
        going = window.record(started, await echo(PAYLOAD))


def run_threads(echo: Echo, callers: int, seconds: float) -> Window:
    window = Window(seconds)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call_until_closed(window, echo)
        except BaseException as failure:  # noqa: BLE001 - the top of a thread: the main thread raises it again
            failures.append(failure)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
    return window


async def run_tasks(echo: AsyncEcho, callers: int, seconds: float) -> Window:
    window = Window(seconds)
    await asyncio.gather(*(await_until_closed(window, echo) for _ in range(callers)))
    return window


def use_bare(_callers: int, seconds: float, path: str) -> Window:
    import hiredis

    # Its type information allows one word only.
    pack: Callable[[tuple[str, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

    def connect(*command: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connection.sendall(pack(command))
        return connection

    publisher, replies, reader = (
        connect("CLIENT", "REPLY", "OFF"),
        connect("SUBSCRIBE", "caller:bare"),
        hiredis.Reader(),
    )
    request = {"action": "echo", "reply_to": "caller:bare", "request_id": "1", "service": "bench"}

    def echo(payload: dict[str, object]) -> object:
        message = json.dumps({**request, "payload": payload})
        publisher.sendall(pack(("PUBLISH", "bench", message)))
        while (push := reader.gets()) is False or push[0] != b"message":
            if push is False:
                reader.feed(replies.recv(65536))
        return json.loads(push[2])["payload"]

    window = Window(seconds)
    call_until_closed(window, echo)
    return window


def use_daebus_threads(callers: int, seconds: float, port: str) -> Window:
    from daebus import DaebusCaller

    if port == "-":
        caller = DaebusCaller("bench", timeout=TIMEOUT_SECONDS)
    else:
        caller = DaebusCaller("bench", redis_host="127.0.0.1", redis_port=int(port), timeout=TIMEOUT_SECONDS)

    def echo(payload: dict[str, object]) -> object:
        return caller.send_request("echo", payload)

    if callers > 1:
        return run_threads(echo, callers, seconds)
    window = Window(seconds)
    call_until_closed(window, echo)
    return window


async def use_daebus_tasks(callers: int, seconds: float, _where: str) -> Window:
    from daebus import AsyncCaller

    async with AsyncCaller("bench", timeout=TIMEOUT_SECONDS) as caller:

        def echo(payload: dict[str, object]) -> Awaitable[object]:
            return caller.send_request("echo", payload)

        return await run_tasks(echo, callers, seconds)


async def use_dbus(callers: int, seconds: float, address: str) -> Window:
    from dbus_fast.aio import MessageBus

    bus = await MessageBus(bus_address=address).connect()
    description = await bus.introspect("org.example.Bench", "/bench")
    remote = bus.get_proxy_object("org.example.Bench", "/bench", description).get_interface("org.example.Bench")

    async def echo(payload: dict[str, object]) -> object:
        return json.loads(await remote.call_echo(json.dumps(payload)))

    return await run_tasks(echo, callers, seconds)


async def use_nats(callers: int, seconds: float, url: str) -> Window:
    import nats

    connection = await nats.connect(url)

    async def echo(payload: dict[str, object]) -> object:
        reply = await connection.request("echo", json.dumps(payload).encode(), timeout=TIMEOUT_SECONDS)
        return json.loads(reply.data)

    return await run_tasks(echo, callers, seconds)


def main(kind: str, callers: int, seconds: float, where: str) -> None:
    use = {"threads": use_daebus_threads, "bare": use_bare}
    use_async = {"tasks": use_daebus_tasks, "dbus": use_dbus, "nats": use_nats}
    if kind in use:
        window = use[kind](callers, seconds, where)
    else:
        window = asyncio.run(use_async[kind](callers, seconds, where))
    print(json.dumps(window.result()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
