"""Messages from outside, broken or harmful: the service works on, answers, and stays silent elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, Launcher, Link, Peer, Script, Side, Watch, pack, until_subscribed
from tests.support import MS, private_server, wait_for

TARGET = """
import dataclasses

@app.action("echo")
def echo():
    return {"got": request.payload}

@app.action("same")
def same():
    return response.success(request.payload)

@app.action("fail")
def fail():
    raise RuntimeError(f"the secret is {request.payload}")

@app.action("say")
def say():
    logger.info("somebody said %s", request.payload["text"])
    return {}

@app.action("keep")
def keep():
    note(json.dumps(request.payload, sort_keys=True))
    return {}

@app.listen(os.environ["SERVICE"] + ".news")
def news(payload):
    note(json.dumps(payload))
"""
MEGABYTE = 1 << 20
MANY = 20_000


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    """One service for all tests that do it no harm - which is what they show."""
    launcher = Launcher(tmp_path_factory.mktemp("target"), own_side)
    script = launcher.service(TARGET, server=bus)
    until_subscribed(bus, f"{script.service}.news", script)
    yield script
    launcher.end_all()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def request_with(peer: Peer, service: str, **fields: str) -> bytes:
    """A request whose fields are given as JSON text, in upstream's order."""
    parts = {
        "action": '"echo"',
        "payload": "{}",
        "reply_to": json.dumps(peer.channel),
        "request_id": '"r-1"',
        "service": json.dumps(service),
        **fields,
    }
    return ("{" + ",".join(f'"{key}":{text}' for key, text in parts.items()) + "}").encode()


def works(peer: Peer, script: Script) -> bool:
    return bool(peer.ask(script.service, "echo", {"n": 1})["payload"] == {"got": {"n": 1}})


# --- broken messages ---


BROKEN = {
    "nothing": b"",
    "no json": b"hello",
    "half of it": b'{"action":"echo","payload":{',
    "null": b"null",
    "a number": b"12",
    "text": b'"echo"',
    "a list": b'["action","echo"]',
    "not utf8": b'{"action":"echo","payload":"\xff\xfe"}',
    "utf16": '{"action":"echo"}'.encode("utf-16"),
    "lone surrogate": b'{"action":"\\ud800"}',
    "zero bytes": b"\x00" * 1000,
    "nested lists": nested(100_000).encode(),
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested payload": b'{"action":"echo","payload":' + nested(100_000).encode() + b"}",
    "a huge number": b'{"action":"echo","payload":' + b"9" * 100_000 + b"}",
    "not a number": b'{"action":"echo","payload":NaN}',
    "same key twice": b'{"action":"echo","action":7}',
    "no action": b'{"payload":{}}',
}


@pytest.mark.parametrize("message", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_message_does_no_harm(target: Script, bus: PrivateServer, peer: Peer, message: bytes) -> None:
    with Watch(bus, patterns=("*",)) as watch:
        peer.publish(target.service, message)
        assert works(peer, target)
        channels = {channel for channel, _ in watch.drain(0.1)}
    assert channels <= {target.service, peer.channel, f"{target.service}.responses"}


@pytest.mark.parametrize("message", BROKEN.values(), ids=BROKEN.keys())
def test_nor_to_a_listener(target: Script, peer: Peer, message: bytes) -> None:
    channel, before = f"{target.service}.news", len(target.notes)
    peer.publish(channel, message)
    peer.publish(channel, {"after": "it"})
    wait_for(lambda: '{"after": "it"}' in target.notes[before:], ANSWER_SECONDS)


ANSWERED = {
    "no action": {"action": "null"},
    "a number as action": {"action": "5"},
    "a list as action": {"action": '["echo"]'},
    "an object as action": {"action": '{"echo":1}'},
    "true as action": {"action": "true"},
    "an empty action": {"action": '""'},
    "a long action": {"action": json.dumps("x" * 100_000)},
    "a list as id": {"request_id": "[1]"},
    "an object as id": {"request_id": "{}"},
    "true as id": {"request_id": "true"},
    "a broken number as id": {"request_id": "1.5"},
    "a long id": {"request_id": json.dumps("x" * 100_000)},
    "a nested payload": {"payload": nested(100_000)},
    "a payload that is no json": {"payload": "oops"},
    "not a number": {"payload": "NaN"},
    "infinity": {"payload": "-Infinity"},
    "a text as deadline": {"v": "1", "deadline": '"soon"'},
    "a list as timeout": {"v": "1", "timeout": "[]"},
}


@pytest.mark.parametrize("fields", ANSWERED.values(), ids=ANSWERED.keys())
def test_a_bad_request_with_a_good_return_address_is_answered_with_an_error(
    target: Script, peer: Peer, fields: dict[str, str]
) -> None:
    peer.publish(target.service, request_with(peer, target.service, **fields))
    reply = peer.next()
    assert reply is not None
    assert (reply["status"], reply.get("final")) == ("error", True)
    assert isinstance(reply["payload"]["error"], str)
    assert len(json.dumps(reply)) < 2000, "a broken message is not sent back"
    if "request_id" not in fields:
        assert reply["request_id"] == "r-1"


@pytest.mark.parametrize("request_id", [0, 1, -5, 2**53, "", "a", "ü\n\u0000", None])
def test_an_id_comes_back_as_it_was(target: Script, peer: Peer, request_id: object) -> None:
    peer.publish(target.service, request_with(peer, target.service, request_id=json.dumps(request_id)))
    reply = peer.next()
    assert reply is not None
    assert reply["request_id"] == request_id
    assert type(reply["request_id"]) is type(request_id)


BAD_ADDRESSES = {
    "another service": "other_service",
    "a topic": "notifications",
    "everybody": "*",
    "a glob of callers": "caller:*",
    "nobody": "caller:",
    "nothing": "",
    "a newline": "caller:a\nb",
    "a newline at the end": "caller:a\n",
    "a space": "caller:a b",
    "another's default": "other_service.responses",
    "prefixed": "xcaller:1",
    "a key event": "__keyspace@0__:caller:1",
    "a long one": "caller:" + "x" * 100_000,
    "a zero byte": "caller:a\u0000b",
    "a number": 5,
    "a list": ["caller:a"],
    "an object": {"caller": "a"},
    "true": True,
}


@pytest.mark.parametrize("reply_to", BAD_ADDRESSES.values(), ids=BAD_ADDRESSES.keys())
@pytest.mark.parametrize("action", ["echo", "fail", "unknown"])
def test_nothing_is_sent_to_what_is_not_a_reply_channel(
    target: Script, bus: PrivateServer, peer: Peer, reply_to: object, action: str
) -> None:
    with Watch(bus, patterns=("*",)) as watch:
        peer.publish(target.service, peer.request(target.service, action, reply_to=reply_to))
        assert works(peer, target)
        channels = {channel for channel, _ in watch.drain(0.1)}
    assert channels <= {target.service, peer.channel, f"{target.service}.responses"}


def test_a_message_larger_than_redis_passes_on_costs_a_reconnection_at_most(
    launch: Launcher, own_bus: PrivateServer
) -> None:
    """Redis itself cuts a subscriber off over 32 MB; the service comes back and says what happened."""
    script = launch.service(TARGET, server=own_bus)
    with Peer(own_bus) as peer:
        peer.publish(script.service, b'{"action":"echo","payload":"' + b"x" * (50 * MEGABYTE) + b'"}')
        with Link(own_bus) as link:
            wait_for(lambda: link.call("PUBSUB", "NUMSUB", script.service)[1] == 1, ANSWER_SECONDS)
            wait_for(lambda: "may have been missed" in script.log, ANSWER_SECONDS, lambda: script.log)
        assert works(peer, script)


def test_a_message_of_50_megabytes_is_refused(launch: Launcher) -> None:
    with private_server(extra=("--client-output-buffer-limit", "pubsub 0 0 0")) as server:
        script = launch.service(TARGET, server=server)
        with Peer(server) as peer:
            text = json.dumps("x" * (50 * MEGABYTE))
            peer.publish(script.service, request_with(peer, script.service, payload=text))
            reply = peer.next(20_000 * MS)
            assert reply is not None
            assert (reply["status"], reply["code"], reply["request_id"]) == ("error", "too_large", "r-1")
            assert works(peer, script)
            assert len(script.log) < 5000


# --- the log ---


def test_a_flood_of_broken_messages_is_a_few_lines(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(TARGET, server=bus)
    before = len(script.log.splitlines())
    for number in range(2000):
        peer.publish(script.service, f"broken {number}".encode())
        peer.publish(f"{script.service}.news", b"\xff")
    assert works(peer, script)
    lines = script.log.splitlines()[before:]
    assert 1 <= len(lines) <= 20, lines[:30]


FORGED = "\nFORGED\r\nFORGED\u2028FORGED\u0085FORGED\x0bFORGED\x1b[2JFORGED"


@pytest.mark.parametrize("field", ["action", "request_id", "reply_to", "service", "payload"])
def test_text_from_outside_cannot_forge_a_log_line(
    launch: Launcher, bus: PrivateServer, peer: Peer, field: str
) -> None:
    script = launch.service(TARGET, server=bus)
    for action in ("echo", "fail"):
        peer.publish(script.service, {**peer.request(script.service, action), field: FORGED})
    peer.publish(script.service, peer.request(script.service, "say", {"text": FORGED}))
    assert works(peer, script)
    assert not [line for line in script.log.splitlines() if line.startswith("FORGED")], script.log
    assert "\x1b" not in script.log


def test_payloads_stay_out_of_the_log(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(TARGET, server=bus)
    for action in ("echo", "unknown", "say"):
        peer.ask(script.service, action, {"password": "hunter2", "text": "x"})
    peer.publish(script.service, b'{"action":"echo","payload":{"password":"hunter2"')
    peer.publish(script.service, peer.request(script.service, "echo", {"password": "hunter2"}, reply_to="*"))
    assert works(peer, script)
    assert "hunter2" not in script.log


def test_an_exception_is_told_by_its_id_only_and_its_story_is_in_the_log(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    script = launch.service(TARGET, server=bus)
    reply = peer.ask(script.service, "fail", "in the drawer")
    assert (reply["status"], reply["code"], reply["final"]) == ("error", "internal", True)
    assert "secret" not in json.dumps(reply)
    assert "drawer" not in json.dumps(reply)
    assert "RuntimeError" not in json.dumps(reply)
    assert reply["error_id"] in reply["payload"]["error"], "a person can quote it"
    wait_for(lambda: "Traceback" in script.log)
    story = script.log[script.log.index(reply["error_id"]) :]
    assert re.search(r'File ".*script\.py", line \d+, in fail', story)
    assert "RuntimeError: the secret is in the drawer" in story


# --- one final answer ---


ANSWERS = {
    "twice": ("response.success(1); response.success(2)", ("success", 1)),
    "success, then a value": ("response.success(1); return 2", ("success", 1)),
    "success, then an exception": ("response.success(1); raise ValueError", ("success", 1)),
    "an error, then success": ("response.error('no'); response.success(2)", ("error", {"error": "no"})),
    "progress after the answer": ("response.success(1); response.progress({'late': 1})", ("success", 1)),
    "nothing": ("pass", ("success", None)),
    "only progress": ("response.progress({})", ("success", None)),
    "a generator without a value": ("yield 1", ("success", None)),
    "a generator that raises": ("yield 1; raise ValueError", ("error", "internal")),
    "a generator of what is no json": ("yield object()", ("error", "unserialisable")),
    "an object": ("return object()", ("error", "unserialisable")),
    "itself": ("x = []; x.append(x); return x", ("error", "unserialisable")),
    "odd keys": ("return {(1, 2): 3}", ("error", "unserialisable")),
    "60 megabytes": ("return 'x' * 60_000_000", ("error", "too_large")),
    "sys.exit": ("sys.exit(3)", ("error", "internal")),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", ("error", "internal")),
    "StopIteration": ("raise StopIteration(1)", ("error", "internal")),
    "endless recursion": ("f = lambda: f(); f()", ("error", "internal")),
    "MemoryError": ("raise MemoryError", ("error", "internal")),
    "a closed stderr": ("sys.stderr.close(); return 1", ("success", 1)),
}


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, own_side: Side, bus: PrivateServer) -> Iterator[Script]:
    launcher = Launcher(tmp_path_factory.mktemp("answering"), own_side)
    actions = [f"@app.action({name!r})\ndef handler():\n    {body}\n" for name, (body, _) in ANSWERS.items()]
    yield launcher.service(TARGET + "\n" + "\n".join(actions), server=bus)
    launcher.end_all()


@pytest.mark.parametrize("name", ANSWERS)
def test_every_request_has_one_final_answer(answering: Script, peer: Peer, name: str) -> None:
    request_id = peer.post(answering.service, name)
    finals = [peer.answer(request_id), *(reply for reply in peer.replies(0.1) if reply["final"])]
    assert len(finals) == 1
    status, expected = ANSWERS[name][1]
    assert finals[0]["status"] == status
    assert expected in (finals[0]["payload"], finals[0].get("code"))
    assert works(peer, answering)


# --- values ---


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("how", ["return {'x': value}", "response.success([value])", "response.progress(value)"])
def test_what_is_no_json_number_never_goes_out(
    launch: Launcher, bus: PrivateServer, peer: Peer, value: str, how: str
) -> None:
    script = launch.service(
        f"""
        @app.action("work")
        def work():
            value = float("{value}")
            {how}
        """,
        server=bus,
    )
    request_id = peer.post(script.service, "work")
    message = peer.watch.next()
    assert message is not None
    reply = json.loads(message[1], parse_constant=lambda text: pytest.fail(f"{text} went out"))
    assert (reply["status"], reply["request_id"]) == ("error", request_id)
    assert reply["code"] in ("unserialisable", "internal")


def test_a_caller_refuses_to_send_it_too(launch: Launcher, bus: PrivateServer) -> None:
    with Watch(bus, "strict") as watch:
        errors = launch.run(
            """
            import json, os
            from daebus import DaebusCaller
            errors = []
            with DaebusCaller("strict", **json.loads(os.environ["REDIS"])) as caller:
                for call in (
                    lambda: caller.send_request("a", {"x": float("nan")}),
                    lambda: caller.send_message("strict", {"x": float("inf")}),
                    lambda: caller.send_to_service({"x": float("-inf")}, action="a"),
                    lambda: caller.send_request("a", {"x": object()}),
                    lambda: caller.send_request("a", "x" * 60_000_000),
                ):
                    try:
                        call()
                    except Exception as error:
                        errors.append(type(error).__name__)
            print(json.dumps(errors))
            """,
            server=bus,
        )
        assert errors == ["Unserialisable"] * 4 + ["TooLarge"]
        assert watch.drain() == []


def test_common_python_values_are_sent_and_private_ones_are_not(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    script = launch.service(
        """
        import dataclasses, datetime, decimal

        @dataclasses.dataclass
        class Reading:
            celsius: float
            _token: str = "secret"

        class Told:
            def to_dict(self):
                return {"told": True}

        class Open:
            def __init__(self):
                self.name, self._token = "open", "secret"

        @app.action("all")
        def all_of_them():
            return {
                "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5),
                "date": datetime.date(2026, 1, 2),
                "time": datetime.time(3, 4),
                "timedelta": datetime.timedelta(seconds=90),
                "decimal": decimal.Decimal("1.5"),
                "set": {1},
                "frozenset": frozenset(["a"]),
                "tuple": (1, 2),
                "bytes": b"text",
                "binary": bytes([255, 0]),
                "dataclass": Reading(21.5),
                "to_dict": Told(),
                "object": Open(),
            }
        """,
        server=bus,
    )
    assert peer.ask(script.service, "all")["payload"] == {
        "datetime": "2026-01-02T03:04:05",
        "date": "2026-01-02",
        "time": "03:04:00",
        "timedelta": "0:01:30",
        "decimal": 1.5,
        "set": [1],
        "frozenset": ["a"],
        "tuple": [1, 2],
        "bytes": "text",
        "binary": "ff00",
        "dataclass": {"celsius": 21.5},
        "to_dict": {"told": True},
        "object": {"name": "open"},
    }


JSON_VALUES: list[Any] = [
    None, True, False, 0, -1, 2**53, 10**30, 0.1, -1.5e-300, 1e300, "", " ", "text", "ünï 😀 \u0000\n\u2028",
    "null", "12", '{"a": 1}', "[1]", [], [[]], [1, "a", None, {"b": []}], {}, {"": ""}, {"action": "fail"},
    {"payload": {"payload": 1}, "reply_to": "other_service", "request_id": 5, "v": 9}, list(range(1000)),
]  # fmt: skip

VALUES_CALLER = """
import json, os
from daebus import DaebusCaller
values = json.loads(open(os.environ["VALUES"]).read())
with DaebusCaller(os.environ["TARGET"], **json.loads(os.environ["REDIS"])) as caller:
    wrapped = [caller.send_request("echo", value)["got"] for value in values]
    bare = [caller.send_request("same", value) for value in values]
print(json.dumps([wrapped, bare]))
"""


def test_payloads_of_every_kind_arrive_unchanged_and_come_back_so(
    launch: Launcher, bus: PrivateServer, target: Script, tmp_path: Path
) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(JSON_VALUES))
    wrapped, bare = launch.run(VALUES_CALLER, server=bus, env={"TARGET": target.service, "VALUES": str(values)})
    expected = json.dumps(JSON_VALUES)  # as text: 1, 1.0 and true are different things
    assert json.dumps(wrapped) == expected
    assert json.dumps(bare) == expected


DIRECT = [
    {"a": 1, "b": [None]},
    {},
    {"payload": "inner"},
    {"payload": {"x": 1}, "other": 2},
    {"reply_to": "caller:me", "request_id": "5"},
    {"service": "somewhere", "v": 1},
    {"action": "fail"},
]


def test_direct_messages_arrive_unchanged(launch: Launcher, bus: PrivateServer, target: Script, peer: Peer) -> None:
    before = len(target.notes)
    launch.run(
        f"""
        import json, os
        from daebus import DaebusCaller
        with DaebusCaller("{target.service}", **json.loads(os.environ["REDIS"])) as caller:
            for payload in {DIRECT!r}:
                caller.send_to_service(payload, action="keep")
        print("null")
        """,
        server=bus,
    )
    assert works(peer, target)
    assert [json.loads(text) for text in target.notes[before:]] == DIRECT


# --- callers ---


def test_forged_and_broken_answers_leave_a_caller_alone(launch: Launcher, bus: PrivateServer) -> None:
    with Watch(bus, "played") as service, Peer(bus) as voice:
        caller = launch.script(
            """
            import json, os
            from daebus import DaebusCaller
            progress = []
            with DaebusCaller("played", **json.loads(os.environ["REDIS"])) as caller:
                answer = caller.send_request("work", {}, on_progress=progress.append)
                second = caller.send_request("again", {})
            print(json.dumps([answer, progress, second]))
            """,
            server=bus,
        )
        request = received(service)
        channel, request_id = request["reply_to"], request["request_id"]
        for bad in BROKEN.values():
            voice.publish(channel, bad)
        forged = {"status": "success", "payload": "forged", "final": True}
        bad_ids: list[Any] = ["unknown", None, 5, [], {}, True, f"{request_id}x", request_id[:-1], ""]
        for bad_id in bad_ids:
            voice.publish(channel, {**forged, "request_id": bad_id})
            voice.publish(channel, {**forged, "request_id": bad_id, "final": False})
        voice.publish(channel, forged)
        voice.publish(channel, {**forged, "request_id": request_id, "payload": "true"})
        second = received(service)
        voice.publish(channel, {**forged, "request_id": request_id, "payload": "too late"})
        voice.publish(channel, {**forged, "request_id": second["request_id"], "payload": "true too"})
        assert caller.result() == ["true", [], "true too"]


MALFORMED_ANSWERS: list[dict[str, Any]] = [
    {"status": "error"},
    {"status": "error", "payload": None},
    {"status": "error", "payload": [1]},
    {"status": "error", "payload": {"error": {"not": "text"}}},
    {"status": "error", "payload": {"error": "x"}, "code": ["odd"], "error_id": 5},
    {"status": "error", "payload": {"error": "x" * 1_000_000}},
]


def test_a_malformed_answer_is_an_error_of_that_call_only(launch: Launcher, bus: PrivateServer) -> None:
    with Watch(bus, "odd") as service, Peer(bus) as voice:
        caller = launch.script(
            f"""
            import json, os
            from daebus import DaebusCaller
            from daebus.errors import DaebusError
            kinds = []
            with DaebusCaller("odd", **json.loads(os.environ["REDIS"])) as caller:
                for _ in range({len(MALFORMED_ANSWERS)}):
                    try:
                        caller.send_request("work", {{}})
                    except DaebusError as error:
                        kinds.append(isinstance(str(error), str))
                last = caller.send_request("work", {{}})
            print(json.dumps([kinds, last]))
            """,
            server=bus,
        )
        for answer in MALFORMED_ANSWERS:
            request = received(service)
            voice.publish(request["reply_to"], {**answer, "request_id": request["request_id"], "final": True})
        request = received(service)
        good = {"status": "success", "payload": 1, "request_id": request["request_id"], "final": True}
        voice.publish(request["reply_to"], good)
        assert caller.result() == [[True] * len(MALFORMED_ANSWERS), 1]


def received(watch: Watch) -> Any:
    message = watch.next()
    assert message is not None
    return json.loads(message[1])


# --- too much ---


def test_20000_requests_at_once_are_each_answered_or_refused_in_bounded_memory(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    script = launch.service(
        """
        @app.action("slow")
        def slow():
            time.sleep(0.005)
            return {}

        @app.action("echo")
        def echo():
            return {"got": request.payload}
        """,
        server=bus,
    )
    for _ in range(50):
        peer.ask(script.service, "slow")
    before = script.resident_kb()
    ids = set()
    peer.link.send("CLIENT", "REPLY", "OFF")
    for _ in range(0, MANY, 500):
        burst = [peer.request(script.service, "slow", {"n": "x" * 100}) for _ in range(500)]
        ids |= {request["request_id"] for request in burst}
        commands = [pack("PUBLISH", script.service, json.dumps(request)) for request in burst]
        peer.link.socket.sendall(b"".join(commands))
    outcomes: dict[str, str] = {}
    while len(outcomes) < MANY:
        reply = peer.next(10_000 * MS)
        assert reply is not None, f"{MANY - len(outcomes)} requests were never answered"
        assert reply["request_id"] not in outcomes, "answered twice"
        outcomes[reply["request_id"]] = reply.get("code", "done")
    assert set(outcomes) == ids
    assert set(outcomes.values()) <= {"done", "busy"}
    assert script.status("VmHWM") - before <= 64 * 1024
    with Peer(bus) as another:
        assert works(another, script)


def test_large_requests_are_refused_before_they_fill_the_memory(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    """200 MB for handlers that all wait: what waits is bounded in bytes, not only in number."""
    script = launch.service(
        """
        @app.action("hold")
        def hold():
            while not os.path.exists("go"):
                time.sleep(0.01)
            return {"size": len(request.payload)}

        @app.action("echo")
        def echo():
            return {"got": request.payload}
        """,
        server=bus,
    )
    assert works(peer, script)
    before = script.resident_kb()
    peer.link.send("CLIENT", "REPLY", "OFF")
    for _ in range(200):
        peer.link.send("PUBLISH", script.service, json.dumps(peer.request(script.service, "hold", "x" * MEGABYTE)))
    first = peer.next()
    assert first is not None, f"all 200 MB were kept: {script.status('VmHWM') - before} kB"
    (script.folder / "go").touch()
    replies = [first, *(reply for reply in peer.replies(2.0))]
    assert {reply.get("code", "done") for reply in replies} == {"done", "busy"}
    assert len(replies) == 200
    assert script.status("VmHWM") - before <= 64 * 1024


SLOW_KINDS = {
    "a function": """
        @app.action("slow")
        def slow():
            note("begun")
            hold()
            return {"slow": True}
        """,
    "a generator": """
        @app.action("slow")
        def slow():
            note("begun")
            yield {"percent": 50}
            hold()
            return {"slow": True}
        """,
    "a coroutine": """
        import asyncio

        @app.action("slow")
        async def slow():
            note("begun")
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
            return {"slow": True}
        """,
    "a coroutine that blocks": """
        @app.action("slow")
        async def slow():
            note("begun")
            hold()
            return {"slow": True}
        """,
    "a function that burns": """
        @app.action("slow")
        def slow():
            note("begun")
            while not os.path.exists("go"):
                sum(range(1000))
            return {"slow": True}
        """,
    "a listener": """
        @app.listen(os.environ["SERVICE"] + ".slow")
        def slow(payload):
            note("begun")
            hold()
        """,
}


@pytest.mark.parametrize("slow", SLOW_KINDS.values(), ids=SLOW_KINDS.keys())
def test_one_slow_handler_does_not_hold_up_the_others(
    launch: Launcher, bus: PrivateServer, peer: Peer, slow: str
) -> None:
    """The slow one ends only when the test says so, and that is after everybody else was served."""
    body = f"""
        def hold():
            while not os.path.exists("go"):
                time.sleep(0.01)
        {slow}
        @app.action("echo")
        def echo():
            return {{"got": request.payload}}

        @app.action("steps")
        def steps():
            yield {{"step": 1}}
            yield {{"step": 2}}
            return {{"done": True}}

        @app.listen(os.environ["SERVICE"] + ".news")
        def news(payload):
            note("heard")
        """
    script = launch.service(body, server=bus)
    until_subscribed(bus, f"{script.service}.news", script)
    slow_id = peer.post(script.service, "slow")
    peer.publish(f"{script.service}.slow", {})
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS, lambda: script.log)
    with Peer(bus) as other:
        for _ in range(30):
            assert works(other, script)
        assert other.ask(script.service, "steps")["payload"] == {"done": True}
        other.publish(f"{script.service}.news", {})
        wait_for(lambda: "heard" in script.notes, ANSWER_SECONDS)
    (script.folder / "go").touch()
    reply = peer.answer(slow_id)
    assert reply["payload"] == {"slow": True} or "listener" in slow or reply["code"] == "unknown_action"


def test_messages_of_one_channel_are_handled_in_order(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(
        """
        import random

        @app.listen(os.environ["SERVICE"] + ".*")
        def news(payload):
            if payload["n"] % 100 == 0:
                time.sleep(0.02)
            note(payload["n"])
        """,
        server=bus,
    )
    with Link(bus) as link:
        wait_for(lambda: link.call("PUBSUB", "NUMPAT") >= 1)
        for number in range(1000):
            link.send("PUBLISH", f"{script.service}.count", json.dumps({"n": number}))
        wait_for(lambda: len(script.notes) == 1000, ANSWER_SECONDS)
    assert [int(note) for note in script.notes] == list(range(1000))
