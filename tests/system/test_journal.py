"""The journal: records with their fields, one trace through several services, and a journal that does not listen."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from daebus import DaebusCaller, DaebusError
from tests.support import MS, wait_for
from tests.system.container import Container
from tests.system.web import get

FRONT_PORT = 8200
QUIET_SECONDS = 5  # not stretched for slow machines: it is how long nothing may happen
AT_ONCE = 1000 * MS
TRACE = "0af7651916cd43dd8448eb211c80319c"

FRONT = f"""
from daebus import AsyncCaller, Daebus, DaebusCaller, DaebusHttp, logger
app = Daebus("front")
app.attach(DaebusHttp(port={FRONT_PORT}))

@app.route("/waits")
def waits(request):
    logger.info("the front asks")
    return DaebusCaller("back").send_request("work")

@app.route("/awaits")
async def awaits(request):
    logger.info("the front asks")
    async with AsyncCaller("back") as back:
        return await back.send_request("work")

app.run(service="front")
"""

BACK = """
import time
from daebus import Daebus, logger, request
app = Daebus("back")

@app.action("work")
def work():
    logger.info("the back works", extra={"lamp_number": 3, "not a field": 4})
    return {"id": request.request_id}

@app.action("slow")
def slow():
    time.sleep(0.05)
    logger.warning("that was slow")

@app.action("fail")
def fail():
    raise ValueError("of two\\nlines")

@app.action("shout")
def shout():
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)("it is %s\\nat most", level)

@app.action("count")
def count():
    logger.info("number %d", request.payload)
    return request.payload

app.run(service="back")
"""

# A way for each to have no journal's socket: it is not there, or it is and takes nothing.
WITHOUT_SOCKET = {
    "hidden": "TemporaryFileSystem=/run/systemd/journal",
    "inaccessible": "InaccessiblePaths=/run/systemd/journal/socket",
}


@pytest.fixture(scope="module", autouse=True)
def services(container: Container) -> None:
    """Two services, of which one calls the other; and some of the second kind that cannot reach the journal."""
    container.put_service("back", BACK)
    container.put_service("front", FRONT)
    for name, setting in WITHOUT_SOCKET.items():
        container.put_service(name, BACK.replace('service="back"', f'service="{name}"'), setting)
    container.systemctl("start", "back", "front", *WITHOUT_SOCKET)


def call(container: Container, action: str, payload: object = None, service: str = "back") -> Any:
    with DaebusCaller(service, redis_url=container.redis_url, timeout=AT_ONCE) as caller:
        return caller.send_request(action, payload)


def entries(container: Container, unit: str, *matches: str, count: int = 1) -> list[dict[str, Any]]:
    """Exactly so many entries that match, when they have arrived."""
    found = container.wait(unit, lambda: (got := container.journal(unit, *matches))[: len(got) >= count and None])
    assert len(found) == count, found
    return found


# --- fields ---


def test_a_record_has_the_fields_of_its_request_and_its_place(container: Container) -> None:
    answer = call(container, "work")
    (entry,) = entries(container, "back", f"DAEBUS_REQUEST_ID={answer['id']}")
    assert entry["MESSAGE"] == "the back works"
    assert (entry["DAEBUS_SERVICE"], entry["DAEBUS_ACTION"]) == ("back", "work")
    assert entry["DAEBUS_TRACE"] == answer["id"], "it begins a trace"
    assert entry["SYSLOG_IDENTIFIER"] == "back"
    assert entry["LAMP_NUMBER"] == "3"
    lines = BACK.splitlines()
    assert (entry["CODE_FILE"], entry["CODE_FUNC"]) == ("/opt/back.py", "work")
    assert "the back works" in lines[int(entry["CODE_LINE"]) - 1]
    assert entry["_TRANSPORT"] == "journal"
    assert entry["_SYSTEMD_UNIT"] == "back.service"
    assert not [name for name in entry if " " in name or name.islower()]


def test_how_long_the_handler_has_run_is_a_field(container: Container) -> None:
    call(container, "slow")
    (entry,) = entries(container, "back", "DAEBUS_ACTION=slow")
    assert 50 <= float(entry["DAEBUS_MS"]) < 50 + 1000 * AT_ONCE


def test_the_caller_is_a_service_or_an_address(container: Container) -> None:
    assert get(container, FRONT_PORT, "/waits", {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"})[0] == 200
    (entry,) = entries(container, "back", f"DAEBUS_TRACE={'1' * 32}")
    assert entry["DAEBUS_CALLER"] == "front"
    (entry,) = entries(container, "front", f"DAEBUS_TRACE={'1' * 32}")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", entry["DAEBUS_CALLER"])
    assert entry["DAEBUS_ACTION"] == "GET /waits"


def test_a_traceback_is_one_entry_that_the_error_id_finds(container: Container) -> None:
    with pytest.raises(DaebusError) as caught:
        call(container, "fail")
    assert caught.value.error_id
    (entry,) = entries(container, "back", f"DAEBUS_ERROR_ID={caught.value.error_id}")
    assert entry["PRIORITY"] == "3"
    assert entry["DAEBUS_ACTION"] == "fail"
    lines = entry["MESSAGE"].splitlines()
    assert lines[0].startswith("Action 'fail' (request ")
    assert lines[1] == "  | Traceback (most recent call last):"
    assert lines[-2:] == ["  | ValueError: of two", "  | lines"]
    assert [entry["MESSAGE"] for entry in container.journal("back") if "Traceback" in entry["MESSAGE"]] == [
        "\n".join(lines)
    ]


def test_each_level_has_its_priority(container: Container) -> None:
    call(container, "shout")
    found = entries(container, "back", "DAEBUS_ACTION=shout", count=4)
    assert [(entry["MESSAGE"], entry["PRIORITY"]) for entry in found] == [
        ("it is info\\nat most", "6"),
        ("it is warning\\nat most", "4"),
        ("it is error\\nat most", "3"),
        ("it is critical\\nat most", "2"),
    ]


def test_journalctl_finds_the_lines_of_an_action(container: Container) -> None:
    call(container, "count", 7)
    entries(container, "back", "DAEBUS_ACTION=count", "MESSAGE=number 7")
    shown = container.run("journalctl --unit=back --output=cat DAEBUS_ACTION=count").stdout.splitlines()
    assert "number 7" in shown
    assert all(line.startswith("number ") for line in shown)


# --- traces ---


@pytest.mark.parametrize("path", ["/waits", "/awaits"])
def test_one_trace_goes_from_http_through_the_services(container: Container, path: str) -> None:
    trace = f"{ord(path[1]):032x}"
    assert get(container, FRONT_PORT, path, {"traceparent": f"00-{trace}-b7ad6b7169203331-00"})[0] == 200
    entries(container, "front", f"DAEBUS_TRACE={trace}")
    entries(container, "back", f"DAEBUS_TRACE={trace}")
    both = container.run(f"journalctl --output=cat DAEBUS_TRACE={trace}").stdout.splitlines()
    assert both == ["the front asks", "the back works"]


def test_a_request_without_a_trace_begins_one(container: Container) -> None:
    answers = [json.loads(get(container, FRONT_PORT, "/waits")[1]) for _ in range(2)]
    traces = []
    for answer in answers:
        (entry,) = entries(container, "back", f"DAEBUS_REQUEST_ID={answer['id']}")
        assert re.fullmatch("[0-9a-f]{32}", entry["DAEBUS_TRACE"])
        entries(container, "front", f"DAEBUS_TRACE={entry['DAEBUS_TRACE']}")
        traces.append(entry["DAEBUS_TRACE"])
    assert len(set(traces)) == 2


# --- a journal that does not listen ---


@contextmanager
def stopped_journal(container: Container) -> Iterator[None]:
    """Nothing may be asked of systemd meanwhile, which logs, too."""
    pid = container.show("systemd-journald", "MainPID")
    container.run(f"kill -STOP {pid}")
    try:
        yield
    finally:
        container.run(f"kill -CONT {pid}")


def test_a_stalled_journal_holds_no_request_up(container: Container) -> None:
    """More lines than its socket takes (net.unix.max_dgram_qlen); how many were lost is said afterwards."""
    first, count = 10_000, 2000
    with stopped_journal(container), DaebusCaller("back", redis_url=container.redis_url, timeout=AT_ONCE) as caller:
        longest = 0.0
        for number in range(first, first + count):
            began = time.monotonic()
            assert caller.send_request("count", number) == number
            longest = max(longest, time.monotonic() - began)
    assert longest < AT_ONCE / 2
    call(container, "count", 1)
    entry = container.wait_journal("back", "log lines were dropped: nobody read them")
    dropped = int(entry["MESSAGE"].split()[0])
    assert entry["PRIORITY"] == "4"
    written = [e for e in container.journal("back", "DAEBUS_ACTION=count") if str(e["MESSAGE"]).startswith("number 1")]
    numbers = [number for e in written if (number := int(e["MESSAGE"].split()[1])) >= first]
    assert dropped + len(numbers) == count
    assert numbers == list(range(first, first + len(numbers)))
    assert dropped


def test_a_restarted_journal_has_what_comes_then(container: Container) -> None:
    container.systemctl("restart", "systemd-journald")
    call(container, "count", 555)
    container.wait_journal("back", "number 555")


def test_an_idle_service_writes_nothing(container: Container) -> None:
    """Neither to the journal nor to a file. Its health checks go on meanwhile."""
    units = ["front", "back"]
    pids = [container.show(unit, "MainPID") for unit in units]

    def written() -> list[tuple[str, int]]:
        io = [re.search(r"^write_bytes: \d+$", container.read(f"/proc/{pid}/io"), re.M) for pid in pids]
        return [
            (found[0] if found else "?", len(container.journal(unit))) for found, unit in zip(io, units, strict=True)
        ]

    before, began = written(), time.monotonic()
    wait_for(lambda: time.monotonic() - began > QUIET_SECONDS, 2 * QUIET_SECONDS)
    assert written() == before


@pytest.mark.parametrize("name", WITHOUT_SOCKET)
def test_without_the_journals_socket_lines_come_by_standard_error(container: Container, name: str) -> None:
    """With the priority before them, which systemd takes off."""
    call(container, "shout", service=name)
    container.wait_journal(name, "it is critical")
    found = [entry for entry in container.journal(name) if str(entry["MESSAGE"]).startswith("it is")]
    assert [(entry["MESSAGE"], entry["PRIORITY"], entry["_TRANSPORT"]) for entry in found] == [
        ("it is info\\nat most", "6", "stdout"),
        ("it is warning\\nat most", "4", "stdout"),
        ("it is error\\nat most", "3", "stdout"),
        ("it is critical\\nat most", "2", "stdout"),
    ]
    with pytest.raises(DaebusError):
        call(container, "fail", service=name)
    container.wait_journal(name, "  | lines")
    found = [entry for entry in container.journal(name) if str(entry["MESSAGE"]).startswith("  |")]
    assert len(found) > 3
    assert {entry["PRIORITY"] for entry in found} == {"3"}
