"""`daebus logs`, `trace` and `doctor` on a device: three services, of which one calls the next."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import MS, wait_for
from tests.system.container import Container
from tests.system.web import get

PORT = 8210
SOON = 10_000 * MS
TRACE = "0af7651916cd43dd8448eb211c80319c"
ASKING = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

PANEL = f"""
from daebus import AsyncCaller, Daebus, DaebusHttp, logger
app = Daebus("panel")
app.attach(DaebusHttp(port={PORT}))

@app.route("/order/<thing>")
async def order(req, thing):
    logger.info("somebody orders %s", thing)
    async with AsyncCaller("stock") as stock:
        return await stock.send_request("reserve", {{"thing": thing}})

app.run(service="panel")
"""

STOCK = """
import sys
from daebus import Daebus, DaebusCaller, broadcast, request
app = Daebus("stock")
ledger = DaebusCaller("ledger")

@app.action("reserve")
def reserve():
    first = ledger.send_request("book", {"thing": request.payload["thing"], "part": 1})
    broadcast.send("stock.changed", request.payload)
    print("printed", request.payload["thing"], flush=True)
    return [first, ledger.send_request("book", {"thing": request.payload["thing"], "part": 2})]

app.run(service="stock")
"""

# Its unit has another name than itself.
LEDGER = """
from daebus import Daebus, logger, request
app = Daebus("ledger")

@app.action("book")
def book():
    if request.payload["thing"] == "nothing":
        raise ValueError("cannot be booked")
    if request.payload["part"] == 2:
        logger.warning("that was part 2")
    return request.payload["part"]

app.run(service="ledger")
"""


@pytest.fixture(scope="module", autouse=True)
def services(container: Container) -> None:
    container.put_service("stock", STOCK)
    container.put_service("panel", PANEL)
    container.put_service("books", LEDGER)
    container.systemctl("start", "books", "stock", "panel")


def daebus(container: Container, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return container.run(["python3", "-m", "daebus", *words], check=check)


def json_of(container: Container, *words: str) -> Any:
    return json.loads(daebus(container, *words, "--json").stdout)


def when_there(container: Container, text: str, *words: str) -> str:
    """What a command shows as soon as that text is in it: the journal takes its time."""
    found: list[str] = []

    def shown() -> bool:
        found[:] = [daebus(container, *words, check=False).stdout]
        return text in found[0]

    wait_for(shown, SOON, lambda: f"{text!r} in {found}")
    return found[0]


def order(container: Container, thing: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    return get(container, PORT, f"/order/{thing}", headers)


def whole(container: Container, name: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A trace, when all of it has arrived."""
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        said = daebus(container, "trace", name, "--json", check=False).stdout
        found[:] = [json.loads(said)] if said else []
        return bool(found) and done(found[0])

    wait_for(arrived, SOON, lambda: str(found))
    return found[0]


def names(call: dict[str, Any]) -> list[Any]:
    """The tree, by names: a call, and those that it made."""
    return [f"{call['service']} {call['action']}", *map(names, call["calls"])]


def complete(trace: dict[str, Any]) -> bool:
    return bool(trace["calls"]) and trace["calls"][0]["outcome"] == "200"


# --- trace ---


def test_one_request_is_a_tree_through_http_bus_and_services(container: Container) -> None:
    status, _body = order(container, "screw", ASKING)
    assert status == 200
    trace = whole(container, TRACE, complete)
    (root,) = trace["calls"]
    assert names(root) == ["panel GET /order/<thing>", ["stock reserve", ["ledger book"], ["ledger book"]]]
    (reserve,) = root["calls"]
    first, second = reserve["calls"]
    assert [one["outcome"] for one in (root, reserve, first, second)] == ["200", "ok", "ok", "ok"]
    assert root["began_ms"] == 0
    assert 0 <= reserve["began_ms"] <= first["began_ms"] <= second["began_ms"]
    for outer, inner in ((root, reserve), (reserve, first), (reserve, second)):
        assert inner["began_ms"] < outer["began_ms"] + outer["took_ms"], (
            "its end may be a little later: it has answered"
        )
    assert [line["text"] for line in root["lines"]] == ["somebody orders screw"]
    assert [line["text"] for line in reserve["lines"]] == ["A broadcast on channel 'stock.changed': 0 heard it"]
    assert (first["lines"], [line["text"] for line in second["lines"]]) == ([], ["that was part 2"])
    shown = daebus(container, "trace", TRACE).stdout
    assert re.search(r"ok +└─ stock reserve\n", shown)
    assert re.search(r"\n +0\.0 +\d+\.\d  200 +panel GET /order/<thing>  \(asked by 127\.0\.0\.1:\d+\)\n", shown)


def test_a_request_of_it_leads_there_too(container: Container) -> None:
    trace = whole(container, TRACE, complete)
    inner = trace["calls"][0]["calls"][0]["calls"][1]["request_id"]
    assert json_of(container, "trace", inner) == trace


def test_who_does_not_ask_leaves_nothing_but_what_is_logged(container: Container) -> None:
    assert order(container, "nail")[0] == 200
    when_there(container, "somebody orders nail", "logs", "panel")
    found = [json.loads(line) for line in daebus(container, "logs", "panel", "--json", "-n", "all").stdout.splitlines()]
    (line,) = (entry for entry in found if entry["MESSAGE"] == "somebody orders nail")
    trace = json_of(container, "trace", line["DAEBUS_TRACE"])
    (root,) = (call for call in trace["calls"] if call["service"] == "panel")
    assert (root["outcome"], root["took_ms"]) == (None, None)
    assert not container.journal("stock", f"DAEBUS_TRACE={line['DAEBUS_TRACE']}")


def test_the_command_asks_for_one(container: Container) -> None:
    done = daebus(container, "call", "stock", "reserve", "thing=bolt", "--trace")
    assert done.stdout == "[1, 2]\n"
    name = done.stderr.strip().removeprefix("trace: ")
    trace = whole(container, name, lambda one: one["calls"][0]["outcome"] == "ok")
    assert [names(call) for call in trace["calls"]] == [["stock reserve", ["ledger book"], ["ledger book"]]]


def test_an_error_is_found_by_the_id_that_its_caller_was_told(container: Container) -> None:
    """Without having asked for anything."""
    status, body = order(container, "nothing")
    assert status == 500
    error_id = json.loads(body)["error_id"]
    shown = when_there(container, "ValueError: cannot be booked", "trace", error_id)
    assert "Traceback (most recent call last):" in shown
    assert "somebody orders nothing" in shown
    assert re.search(r"failed +.*ledger book\n.*ERROR Action 'book' .*\(error id [0-9a-f]{12}\)\n", shown), shown
    assert re.search(r"^ledger: Action 'book' .* failed .*\n      \| Traceback", shown, re.M)
    assert re.search(rf"ERROR Route GET '/order/nothing' failed \(error id {error_id}\)\n", shown)
    assert shown.count("Traceback") == 1, "only where it began"


def test_what_is_not_there_is_said_with_a_way_to_get_it(container: Container) -> None:
    done = daebus(container, "trace", "nonsense", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "daebus call --trace" in done.stderr


# --- logs ---


def test_logs_are_one_stream_of_all_services(container: Container) -> None:
    order(container, "washer")
    shown = when_there(container, "printed washer", "logs", "-n", "all")
    assert re.search(r"^\S+ panel\[\d+\] INFO     somebody orders washer$", shown, re.M)
    assert re.search(r"^\S+ ledger\[\d+\] WARNING  that was part 2$", shown, re.M)
    assert re.search(r"^\S+ stock\[\d+\] INFO     printed washer$", shown, re.M), "what it prints"
    assert re.search(r"^\S+ systemd\[1\] INFO     Started .*books", shown, re.M), "what systemd says of another name"
    assert "redis-server@" not in shown


def test_logs_of_one_service_are_its_own(container: Container) -> None:
    order(container, "hinge")
    shown = when_there(container, "that was part 2", "logs", "ledger", "-n", "all")
    assert "hinge" not in shown
    assert "books.service" in shown


def test_logs_by_their_fields(container: Container) -> None:
    order(container, "latch", {"traceparent": ASKING["traceparent"].replace(TRACE, "c" * 32)})
    when_there(container, "that was part 2", "logs", "--trace", "c" * 32)
    assert "somebody" not in daebus(container, "logs", "--action", "book").stdout
    assert daebus(container, "logs", "--trace", "c" * 32, "--priority", "warning").stdout.count("\n") == 1
    assert daebus(container, "logs", "panel", "--trace", "c" * 32, "-n", "1").stdout.count("\n") == 1
    done = daebus(container, "logs", "--action", "nonsense")
    assert (done.stdout, done.stderr) == ("", "daebus: nothing in the journal is like that\n")
    done = daebus(container, "logs", "--since", "nonsense", check=False)
    assert (done.returncode, done.stderr[:15]) == (2, "daebus: usage: ")


def test_logs_go_on(container: Container) -> None:
    with container.popen(["python3", "-m", "daebus", "logs", "panel", "--follow", "-n", "0"]) as following:
        assert following.stdout is not None
        descriptor = following.stdout.fileno()
        wait_for(lambda: "journalctl" in container.run("cat /proc/[0-9]*/comm", check=False).stdout, SOON)
        number = iter(range(10**6))
        said = bytearray()

        def heard() -> bool:
            order(container, f"rivet{next(number)}")
            while select.select([descriptor], [], [], 0)[0]:
                said.extend(os.read(descriptor, 65536))
            return b"somebody orders rivet" in said

        wait_for(heard, SOON)


# --- doctor ---


def test_the_doctor_looks_at_all(container: Container) -> None:
    found = {one["name"]: one for one in json_of_doctor(container)}
    assert found["redis"]["level"] == "ok"
    assert found["redis memory"]["level"] == "ok"
    assert found["redis disk"]["level"] == "ok"
    assert found["journal"]["level"] == "ok"
    assert "this check failed" not in str(found)


def test_the_doctor_sees_what_is_wrong_with_units_and_scripts(container: Container) -> None:
    container.put("/opt/daebus/lamp.py", "import time\ntime.sleep(1000)\n", 0o666)
    unit = "# Made by daebus-generator from /opt/daebus/{}\n[Unit]\nDescription={}\n[Service]\nExecStart={}\n"
    container.put("/run/systemd/system/lamp.service", unit.format("lamp.py", "lamp", "python3 /opt/daebus/lamp.py"))
    refused = "Daebus service bad (refused: it is not UTF-8)"
    container.put("/run/systemd/system/bad.service", unit.format("bad.py", refused, "/bin/false"))
    container.put("/run/systemd/system/broken.service", unit.format("broken.py", "broken", "/bin/false"))
    container.systemctl("daemon-reload")
    container.systemctl("start", "lamp")
    container.systemctl("start", "broken", check=False)
    container.wait("broken", lambda: container.show("broken", "ActiveState") == "failed", SOON)
    assert levels(container)["lamp"] == "ok"
    container.run("touch -d '1 hour' /opt/daebus/lamp.py")
    container.put("/run/systemd/system/lamp.service", unit.format("lamp.py", "lamp 2", "python3 /opt/daebus/lamp.py"))
    texts = [f"{one['level']} {one['name']}: {one['text']}" for one in json_of_doctor(container)]
    assert "warning lamp: its script is newer than what runs" in texts
    assert "warning lamp: its unit has changed since systemd read it" in texts
    assert "problem bad: its script is refused: it is not UTF-8" in texts
    assert "problem broken: it has failed (exit-code)" in texts
    assert "problem scripts: others than root may write /opt/daebus/lamp.py" in texts
    assert daebus(container, "doctor", check=False).returncode == 1


def json_of_doctor(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(daebus(container, "doctor", "--json", check=False).stdout)
    return found


def levels(container: Container) -> dict[str, str]:
    return {one["name"]: one["level"] for one in json_of_doctor(container)}
