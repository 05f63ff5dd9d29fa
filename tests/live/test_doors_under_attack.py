"""Clients that mean harm, against a whole service: what unit tests cannot show."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from daebus.wsframes import TEXT
from tests.live.test_websocket import RawClient, site
from tests.outside import ANSWER_SECONDS, HttpLink, Launcher, Script, Watch, fetch
from tests.sockets import masked
from tests.support import MS, wait_for
from tests.unit.test_gateway import call

BUSY_SECONDS = 30_000 * MS  # for what keeps the service's one thread busy for seconds
SERVICE = """
import queue

ws.gateway(actions=["slow", "quick", "other/act"], channels=["news"], publish=["news"])
never = queue.Queue()

@app.route("/quick")
def quick(req):
    return {"quick": True}

@app.route("/json", methods=["POST"])
def take(req):
    return {"length": len(req.json)}

@app.route("/waits", methods=["POST"], inline=False)
def waits(req):
    note("waits")
    while not os.path.exists(os.environ["NOTES"] + ".go"):
        time.sleep(0.02)
    return {"length": len(req.json)}

@app.route("/big")
def big(req):
    return b"x" * (8 * 1024 * 1024)

@app.route("/events")
def events(req):
    def parts():
        yield "hello"
        yield never.get()
    return response.events(parts())

@app.action("slow", inline=False)
def slow():
    note("slow")
    time.sleep(2)
    return "slept"

@app.action("quick")
def quick_action():
    return "quick"

@app.socket("echo")
def echo(data, client_id):
    return data
"""


@pytest.fixture
def service(launch: Launcher, bus: PrivateServer) -> Script:
    return site(launch, SERVICE, server=bus, env={"WORKERS": "5"})


def served(script: Script) -> bool:
    return fetch(script.port, "GET", "/quick").status == 200


def text(message: Any) -> bytes:
    return masked(TEXT, message if isinstance(message, bytes) else json.dumps(message).encode())


def hear(one: RawClient, number: int) -> Any:
    return json.loads(one.frame(number)[1])


def cpu_ticks(script: Script) -> int:
    fields = Path(f"/proc/{script.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_nested_json_does_not_end_the_service(service: Script) -> None:
    with HttpLink(service.port) as link:
        for depth in range(1010, 880, -1):
            body = b"[" * depth + b"1e100" + b"]" * depth
            answer = link.ask("POST", "/json", {"Content-Type": "application/json"}, body)
            assert answer.status in (200, 400), answer
    assert served(service)
    assert "Traceback" not in service.log


def test_bodies_that_wait_take_little_memory(service: Script) -> None:
    """Each of these becomes 25 times as large when it is read."""
    body = b"[" + b"[]," * 345_000 + b"[]]"
    assert fetch(service.port, "POST", "/json", {"Content-Type": "application/json"}, body).status == 200
    before, memory = service.descriptors(), service.resident_kb()
    with ExitStack() as stack:
        links = [stack.enter_context(HttpLink(service.port, timeout=BUSY_SECONDS)) for _ in range(40)]
        for link in links:
            link.send(link.request("POST", "/waits", {"Content-Type": "application/json"}, body))
        wait_for(lambda: service.notes.count("waits") == 5, BUSY_SECONDS)
        wait_for(lambda: service.descriptors() >= before + 75, BUSY_SECONDS)  # each has a connection and a file
        for _ in range(50):  # refused where bodies are read, of which the rest comes in meanwhile
            answer = fetch(service.port, "GET", "/quick", {"Host": "evil.example"}, timeout=BUSY_SECONDS)
            assert answer.status == 421
        (service.folder / "notes.go").touch()
        assert [link.answer().json() for link in links] == [{"length": 345_001}] * 40
    more = service.status("VmHWM") - memory
    assert more < 250 * 1024, f"{more} kB more"


def test_answers_that_nobody_takes_are_bounded(service: Script) -> None:
    with ExitStack() as stack:
        for _ in range(100):  # 800 MiB
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: "does not take what it asked for" in service.log, ANSWER_SECONDS)
        assert served(service)
    assert service.status("VmHWM") < 400 * 1024
    assert "Traceback" not in service.log


def test_what_has_come_before_the_end_is_answered(service: Script) -> None:
    """On connections that the service has not even accepted when it is told to stop."""
    with ExitStack() as stack:
        service.send_signal(signal.SIGSTOP)
        links = [stack.enter_context(HttpLink(service.port)) for _ in range(30)]
        for link in links:
            link.send(link.request("GET", "/quick"))
        service.send_signal(signal.SIGTERM)
        service.send_signal(signal.SIGCONT)
        answers = [link.answer() for link in links]
        assert {answer.status for answer in answers} <= {200, 503}
        assert all(link.closes() for link in links)
    assert service.wait() == 0


@pytest.mark.parametrize("gone", [False, True], ids=["listening", "gone"])
def test_events_that_never_come_do_not_delay_the_end(service: Script, gone: bool) -> None:
    with HttpLink(service.port) as link:
        link.send(link.request("GET", "/events"))
        link.part(b"hello")
        descriptors = service.descriptors()
        if gone:
            link.finish()
            wait_for(lambda: service.descriptors() < descriptors, 3000 * MS)
        service.send_signal(signal.SIGTERM)
        assert service.wait(4000 * MS) == 0, service.log


def test_one_browser_does_not_take_all_workers(service: Script) -> None:
    with RawClient(service.port) as greedy, RawClient(service.port) as other:
        for number in range(10):
            greedy.send(text(call("", "slow", request_id=number)))
        wait_for(lambda: len(service.notes) >= 3, ANSWER_SECONDS)
        other.send(text({"type": "echo", "data": 1}))
        other.send(text(call("", "slow", request_id="mine")))
        assert hear(other, 0)["data"] == 1
        assert hear(other, 1)["data"] == "slept"
        assert len(service.notes) <= 8, "before it, the greedy one had more than two rounds"
        assert served(service)


def test_numbers_that_are_too_large_for_anything(service: Script) -> None:
    huge, longest = b"1e999", b"1" + b"0" * 400
    with RawClient(service.port) as one:
        for number in (huge, longest, b'{"a": [1e999]}', b"-1e999"):
            for kind in (b"subscribe", b"unsubscribe", b"broadcast"):
                one.send(text(b'{"type":"%b","channel":%b}' % (kind, number)))
            one.send(text(b'{"type":"publish","channel":%b,"data":{"action":"quick"}}' % number))
            for name in (b"", b"other"):
                data = b'{"action":"%b","timeout":%b}' % (b"act" if name else b"quick", number)
                one.send(text(b'{"type":"publish","channel":"%b","data":%b}' % (name, data)))
        one.send(text({"type": "echo", "data": 1}))
        frames = [hear(one, number) for number in range(25)]
    assert {"type": "response", "data": 1} in frames
    assert served(service)
    assert "Traceback" not in service.log


def test_messages_whose_type_comes_last_are_sorted_in_linear_time(service: Script) -> None:
    """CPU time of the service, for six times as many messages."""

    def cost(one: RawClient, count: int) -> int:
        before, heard = cpu_ticks(service), len(one.incoming.frames)
        one.send(text(b"{}") * count)
        one.frame(heard + count - 1)
        return cpu_ticks(service) - before

    with RawClient(service.port) as one:
        cost(one, 500)
        small = cost(one, 2000)
        assert cost(one, 12000) < 9 * small + 10


def test_calls_end_when_their_time_is_over(service: Script, bus: PrivateServer) -> None:
    """Ours, and those of another service that never answers; long before the next look at all connections."""
    with Watch(bus, "other"), RawClient(service.port) as one:
        for name, action in (("other", "act"), ("", "slow")):
            one.send(text(call(name, action, request_id=name, timeout=0.4)))
        one.send(text(call("", "slow", request_id="long")))
        frames = [hear(one, number) for number in range(3)]
        assert {frame["request_id"]: frame.get("code") for frame in frames} == {
            "other": "timeout", "": "timeout", "long": None,
        }  # fmt: skip
        assert frames[2]["request_id"] == "long"
