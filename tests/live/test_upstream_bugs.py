"""Every defect of the older package's bus and HTTP endpoint, as a test that fails there and passes here.

Each body runs twice. Against upstream 0.0.31 it must fail, and by an assertion: a test that fails there for
another reason (no server, a script that does not start) is an error, not proof. Numbers: CHECKLIST of the
defects, kept in the function names as b1, s2, u35...
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import (
    ANSWER_SECONDS,
    HttpAnswer,
    HttpLink,
    Launcher,
    Link,
    Peer,
    Script,
    Side,
    Watch,
    fetch,
    free_port,
    let_pass,
    post_json,
    subscribers,
    until_listening,
    until_subscribed,
)
from tests.support import MS, NotInTime, wait_for

both = pytest.mark.parametrize(
    "side",
    [
        "ours",
        pytest.param("upstream", marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason="its defect")),
    ],
    indirect=True,
)

NO_ANSWER_SECONDS = 2000 * MS  # upstream's caller would wait 5 s, its service for ever
MANY = 20_000

ECHO = """
@app.action("echo")
def echo():
    return response.success({"got": request.payload})
"""

# A wall clock that an action can step, for scripts; the monotonic clock stays as it is, as on a real machine.
STEPPED_CLOCK = """
import datetime, time
shift = 0.0
real_time, real_time_ns, RealDatetime = time.time, time.time_ns, datetime.datetime

class SteppedDatetime(RealDatetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

time.time = lambda: real_time() + shift
time.time_ns = lambda: real_time_ns() + int(shift * 1e9)
datetime.datetime = SteppedDatetime
"""

CALLER_HEAD = """
import json, os, sys, threading, time
from daebus import DaebusCaller
REDIS = json.loads(os.environ["REDIS"])
"""


def ask(peer: Peer, script: Script, action: str, payload: object = None, **extra: object) -> dict[str, Any]:
    return peer.ask(script.service, action, payload, NO_ANSWER_SECONDS, **extra)


# --- importing ---


@both
def test_s2_the_package_can_be_imported_with_a_capital_letter(launch: Launcher, side: Side) -> None:
    script = launch.script(
        """
        import daebus
        from Daebus import Daebus, DaebusCaller, request, response, broadcast, cache, logger
        print(Daebus is daebus.Daebus and request is daebus.request and cache is daebus.cache)
        """,
        side=side,
    )
    assert script.wait() == 0, script.log
    assert script.output == "True\n"


@both
def test_b22_importing_leaves_the_root_logger_alone(launch: Launcher, side: Side) -> None:
    found = launch.run("import json, logging, daebus\nprint(json.dumps(len(logging.getLogger().handlers)))", side=side)
    assert found == 0


@both
def test_b4_s42_a_module_with_a_caller_can_be_imported_without_redis(launch: Launcher, side: Side) -> None:
    script = launch.script(
        f"""
        from daebus import DaebusCaller
        DaebusCaller("other", redis_host="127.0.0.1", redis_port={free_port()})
        """,
        side=side,
    )
    assert script.wait() == 0, script.log


# --- Redis comes and goes ---


@both
def test_b4_a_service_started_before_redis_serves_when_it_comes(launch: Launcher, side: Side) -> None:
    with PrivateServer(port=-1) as server:
        server.kill()
        script = launch.start(ECHO, side=side, server=server)
        let_pass(10.0)  # by then upstream's Redis client has used up its own retries
        server.restart()
        with Link(server) as link:
            wait_for(lambda: not script.alive or subscribers(link, script.service) > 0, 15)
        assert script.alive, script.log
        with Peer(server) as peer:
            assert ask(peer, script, "echo", {"n": 1})["payload"] == {"got": {"n": 1}}


def outage(launch: Launcher, server: PrivateServer, side: Side) -> tuple[bool, bool]:
    """Redis is away for 12 s, when upstream's Redis client has used up its own retries.

    Says whether a service and a caller that were there before work again, without starting anything anew.
    """
    service = launch.service(ECHO, side=side, server=server)
    caller = launch.script(
        CALLER_HEAD
        + """
caller = DaebusCaller("played-by-the-test", timeout=2, **REDIS)
caller.send_request("warm", {})
print("warm", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
answered = False
for _ in range(3):
    try:
        answered = answered or caller.send_request("again", {}) == {}
    except Exception as error:
        print(repr(error), file=sys.stderr)
        time.sleep(0.3)
print(json.dumps(answered), flush=True)
os._exit(0)
""",
        side=side,
        server=server,
    )
    with Played(server, "played-by-the-test"):
        wait_for(lambda: "warm" in caller.output, ANSWER_SECONDS)
    server.kill()
    let_pass(12.0)
    server.restart()
    with Played(server, "played-by-the-test"), Link(server) as link:
        (caller.folder / "go").touch()
        caller_back = caller.result()
        with suppress(NotInTime):
            wait_for(lambda: subscribers(link, service.service) > 0, 6)
        service_back = subscribers(link, service.service) > 0
    return service_back, caller_back


class Played:
    """A service played by the test: every request is answered with {}."""

    def __init__(self, server: PrivateServer, name: str) -> None:
        self._watch, self._voice = Watch(server, name), Link(server)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._watch.close()
        self._voice.close()

    def _answer(self) -> None:
        while not self._done.is_set():
            if (message := self._watch.next(0.1)) is not None:
                request = json.loads(message[1])
                answer = {
                    "status": "success",
                    "payload": {},
                    "request_id": request["request_id"],
                    "final": True,
                }
                self._voice.call("PUBLISH", request["reply_to"], json.dumps(answer))


outages: dict[str, tuple[bool, bool]] = {}


def outage_once(launch: Launcher, server: PrivateServer, side: Side) -> tuple[bool, bool]:
    """The outage is long: one for each side serves two tests."""
    if side.name not in outages:
        outages[side.name] = outage(launch, server, side)
    return outages[side.name]


@both
def test_b3_a_service_survives_an_outage(launch: Launcher, own_bus: PrivateServer, side: Side) -> None:
    assert outage_once(launch, own_bus, side)[0]


@both
def test_b3_a_caller_survives_an_outage(launch: Launcher, own_bus: PrivateServer, side: Side) -> None:
    assert outage_once(launch, own_bus, side)[1]


@both
def test_b2_s25_broadcasts_go_to_the_redis_that_was_configured(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.action("shout")
        def shout():
            return response.success({"receivers": broadcast.send(request.payload["channel"], {"n": 1})})
        """,
        side=side,
        server=bus,
    )
    channel = f"news-{script.service}"
    with Watch(bus, channel) as watch:
        reply = ask(peer, script, "shout", {"channel": channel})
        assert reply["payload"] == {"receivers": 1}
        message = watch.next()
        assert message is not None
        assert json.loads(message[1]) == {"n": 1}


@both
def test_b32_services_and_callers_use_a_redis_with_a_password_on_a_socket(launch: Launcher, side: Side) -> None:
    with PrivateServer(port=-1, extra=("--requirepass", "s3cret")) as server:
        url = f"unix://:s3cret@{server.socket_path}"
        service = launch.start(ECHO, side=side, run={"redis_url": url})
        caller = launch.run(
            f"""
            import json, time
            from daebus import DaebusCaller
            answer = None
            for _ in range(50):
                try:
                    caller = DaebusCaller("{service.service}", redis_url="{url}")
                    answer = caller.send_request("echo", {{"n": 1}})
                    break
                except TypeError as error:
                    answer = repr(error)
                    break
                except Exception as error:
                    answer = repr(error)
                    time.sleep(0.2)
            print(json.dumps(answer))
            """,
            side=side,
        )
        assert caller == {"got": {"n": 1}}
        assert service.alive


# --- messages that nobody answers upstream ---


@both
def test_b5_a_message_that_is_not_utf8_does_not_stop_the_service(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(ECHO, side=side, server=bus)
    peer.publish(script.service, b'{"action": "echo", "payload": "\xff\xfe"}')
    assert ask(peer, script, "echo")["status"] == "success"


@both
def test_b5_nor_a_listener(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    script = launch.service(
        """
        @app.listen(f"news-{os.environ['SERVICE']}")
        def news(payload):
            note(payload["n"])

        @app.action("echo")
        def echo():
            return response.success({})
        """,
        side=side,
        server=bus,
    )
    channel = f"news-{script.service}"
    until_subscribed(bus, channel, script)
    peer.publish(channel, b"\xff\xfe\xfd")
    peer.publish(channel, {"n": 7})
    wait_for(lambda: script.notes == ["7"], NO_ANSWER_SECONDS)


@both
def test_b8_an_unknown_action_is_answered(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    script = launch.service(ECHO, side=side, server=bus)
    reply = ask(peer, script, "ecco")
    assert reply["status"] == "error"
    assert "ecco" in reply["payload"]["error"]
    assert "echo" in reply["payload"]["error"], "a near miss is offered"


@both
def test_b9_s69_an_exception_in_a_handler_is_answered(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.action("fail")
        def fail():
            raise RuntimeError("boom")
        """,
        side=side,
        server=bus,
    )
    assert ask(peer, script, "fail")["status"] == "error"


@both
def test_b10_a_returned_value_is_the_answer(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    script = launch.service(
        """
        @app.action("add")
        def add():
            return {"sum": request.payload["a"] + request.payload["b"]}
        """,
        side=side,
        server=bus,
    )
    reply = ask(peer, script, "add", {"a": 1, "b": 2})
    assert (reply["status"], reply["payload"]) == ("success", {"sum": 3})


@both
def test_b12_a_datetime_can_be_answered(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    script = launch.service(
        """
        import datetime

        @app.action("when")
        def when():
            return response.success({"at": datetime.datetime(2026, 1, 2, 3, 4, 5)})
        """,
        side=side,
        server=bus,
    )
    assert ask(peer, script, "when")["payload"] == {"at": "2026-01-02T03:04:05"}


@both
def test_s64_the_response_object_itself_has_success(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.action("direct")
        def direct():
            return app.response.success({"answered": True})
        """,
        side=side,
        server=bus,
    )
    assert ask(peer, script, "direct")["payload"] == {"answered": True}


@both
def test_b29_s66_each_handler_sees_its_own_request(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        both_are_in = threading.Barrier(2, timeout=3)

        @app.action("who")
        def who():
            before = app.request.payload["n"]
            both_are_in.wait()
            time.sleep(0.1 * before)
            return response.success({"before": before, "after": app.request.payload["n"]})
        """,
        side=side,
        server=bus,
    )
    ids = [peer.post(script.service, "who", {"n": n}) for n in (0, 3)]
    seen = {reply["request_id"]: reply["payload"] for reply in peer.replies(NO_ANSWER_SECONDS)}
    assert seen == {ids[0]: {"before": 0, "after": 0}, ids[1]: {"before": 3, "after": 3}}


@both
def test_u25_a_text_that_is_no_json_arrives_as_it_was_sent(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    service = launch.service(ECHO, side=side, server=bus)
    got = launch.run(
        CALLER_HEAD
        + f"""
print(json.dumps(DaebusCaller("{service.service}", **REDIS).send_request("echo", "plain words")), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    assert got == {"got": "plain words"}


@both
def test_u26_without_reply_to_the_answer_goes_to_the_services_own_channel(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(ECHO, side=side, server=bus)
    with Watch(bus, patterns=("*",)) as watch:
        peer.publish(script.service, {"action": "echo", "payload": {}, "request_id": "r1"})
        channels = {channel for channel, _ in watch.drain(1.0)}
    assert channels == {script.service, f"{script.service}.responses"}


@both
def test_s40_flat_fields_of_a_direct_message_are_in_the_payload(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.action("log_info")
        def log_info():
            note(request.payload.get("info"))
        """,
        side=side,
        server=bus,
    )
    peer.publish(script.service, {"timestamp": 1625176230, "info": "direct", "action": "log_info"})
    wait_for(lambda: bool(script.notes), NO_ANSWER_SECONDS)
    assert script.notes == ["direct"]


@both
def test_u35_a_reply_outside_of_a_request_is_not_lost_in_silence(
    launch: Launcher, bus: PrivateServer, side: Side
) -> None:
    script = launch.service(
        """
        def try_it():
            try:
                response.success({"to": "nobody"})
            except Exception as error:
                direct_logger.error(f"refused: {error}")
            note("tried")

        @app.action("echo")
        def echo():
            return response.success({})

        @app.on_start()
        def begin():
            try_it()
        """,
        side=side,
        server=bus,
    )
    wait_for(lambda: script.notes == ["tried"], ANSWER_SECONDS)
    said = [line for line in script.log.splitlines() if "response." in line or "refused:" in line]
    assert said, script.log


@both
def test_s13_the_service_channel_is_subscribed_without_any_action(
    launch: Launcher, bus: PrivateServer, side: Side
) -> None:
    script = launch.start(
        """
        @app.listen(f"news-{os.environ['SERVICE']}")
        def news(payload):
            pass
        """,
        side=side,
        server=bus,
    )
    until_subscribed(bus, f"news-{script.service}", script)
    with Link(bus) as link:
        wait_for(lambda: subscribers(link, script.service) == 1, 2)


@both
def test_s68_more_work_than_fits_is_refused_while_the_workers_are_busy(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        free = threading.Event()

        @app.action("hang")
        def hang():
            free.wait(30)
            return response.success({})
        """,
        side=side,
        server=bus,
        env={"WORKERS": "1"},
    )
    requests = [json.dumps(peer.request(script.service, "hang")) for _ in range(MANY)]
    for text in requests:
        peer.link.send("PUBLISH", script.service, text)
    first = peer.next(5000 * MS)
    assert first is not None, "all of it was taken in"
    assert first["status"] == "error"


# --- callers ---


@both
def test_b1_a_waiting_caller_sleeps(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    service = launch.service(
        """
        @app.action("wait")
        def wait():
            time.sleep(1.0)
            return response.success({})
        """,
        side=side,
        server=bus,
    )
    wake_ups = launch.run(
        CALLER_HEAD
        + f"""
def wake_ups():
    total = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{{task}}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("voluntary"))
    return total

caller = DaebusCaller("{service.service}", **REDIS)
caller.send_request("wait", {{}})
before = wake_ups()
caller.send_request("wait", {{}})
print(json.dumps(wake_ups() - before), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    assert wake_ups < 20


@both
def test_b11_an_absent_service_is_told_from_a_slow_one(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    error = launch.run(
        CALLER_HEAD
        + """
try:
    DaebusCaller("nobody-has-this-name", timeout=1, **REDIS).send_request("echo", {})
    name = "no error"
except Exception as error:
    name = type(error).__name__
print(json.dumps(name), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    assert error == "ServiceUnavailable"


@both
def test_b21_a_timeout_is_not_measured_with_the_wall_clock(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    service = launch.service(
        """
        @app.action("wait")
        def wait():
            note("begun")
            time.sleep(1.0)
            return response.success({"waited": True})
        """,
        side=side,
        server=bus,
    )
    caller = launch.script(
        STEPPED_CLOCK
        + CALLER_HEAD
        + f"""
def step_when_asked():
    global shift
    while not os.path.exists("step"):
        time.sleep(0.02)
    shift = 3600.0

threading.Thread(target=step_when_asked, daemon=True).start()
try:
    answer = DaebusCaller("{service.service}", **REDIS).send_request("wait", {{}})
except Exception as error:
    answer = repr(error)
print(json.dumps(answer), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    wait_for(lambda: service.notes == ["begun"], ANSWER_SECONDS)
    (caller.folder / "step").touch()
    assert caller.result() == {"waited": True}


@both
def test_b31_closed_callers_leave_nothing_and_say_nothing(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    service = launch.service(ECHO, side=side, server=bus)
    script = launch.script(
        CALLER_HEAD
        + f"""
def use_one():
    caller = DaebusCaller("{service.service}", **REDIS)
    caller.send_request("echo", {{}})
    caller.close()
    return caller

kept = [use_one()]
before = len(os.listdir("/proc/self/fd"))
kept += [use_one() for _ in range(20)]
after = len(os.listdir("/proc/self/fd"))
time.sleep(0.3)
print(json.dumps(after - before), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    assert script.result() == 0
    assert "Traceback" not in script.log


@both
def test_b32_callers_of_one_process_share_their_connections(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    service = launch.service(ECHO, side=side, server=bus)
    used = launch.run(
        CALLER_HEAD
        + f"""
fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
callers = [DaebusCaller("{service.service}", **REDIS) for _ in range(10)]
for caller in callers:
    caller.send_request("echo", {{}})
print(json.dumps([len(os.listdir("/proc/self/fd")) - fds, threading.active_count() - threads]), flush=True)
os._exit(0)
""",
        side=side,
        server=bus,
    )
    descriptors, threads = used
    assert descriptors <= 6
    assert threads <= 2


# --- life ---


@both
def test_b7_sigterm_finishes_what_was_begun(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    script = launch.service(
        """
        @app.thread("worker")
        def worker(running):
            while running():
                time.sleep(0.02)
            note("thread was told")

        @app.action("slow")
        def slow():
            note("begun")
            time.sleep(1.0)
            return response.success({"finished": True})
        """,
        side=side,
        server=bus,
    )
    request_id = peer.post(script.service, "slow")
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
    script.send_signal(signal.SIGTERM)
    assert peer.answer(request_id, NO_ANSWER_SECONDS)["payload"] == {"finished": True}
    assert script.wait() == 0
    assert "thread was told" in script.notes


@both
def test_b19_u10_a_thread_can_be_stopped_and_started(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.thread("ticker")
        def ticker(running):
            note("up")
            while running():
                time.sleep(0.02)
            note("down")

        @app.action("stop")
        def stop():
            return response.success({"done": app.stop_thread("ticker", timeout=1.0)})

        @app.action("start")
        def start():
            return response.success({"done": app.start_thread("ticker")})
        """,
        side=side,
        server=bus,
    )
    wait_for(lambda: script.notes == ["up"], ANSWER_SECONDS)
    assert ask(peer, script, "stop")["payload"] == {"done": True}
    assert script.notes == ["up", "down"]
    assert ask(peer, script, "start")["payload"] == {"done": True}
    wait_for(lambda: script.notes == ["up", "down", "up"], ANSWER_SECONDS)
    assert ask(peer, script, "start")["payload"] == {"done": False}, "it runs already"


@both
def test_b30_a_crashed_thread_is_started_again(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    script = launch.service(
        """
        @app.thread("fragile")
        def fragile(running):
            note("up")
            with open(os.environ["NOTES"]) as notes:
                if len(notes.readlines()) == 1:
                    raise RuntimeError("first time unlucky")
            while running():
                time.sleep(0.02)

        @app.action("echo")
        def echo():
            return response.success({})
        """,
        side=side,
        server=bus,
    )
    wait_for(lambda: len(script.notes) >= 2, 5)


@both
def test_b20_background_tasks_go_on_when_the_clock_is_set_back(
    launch: Launcher, bus: PrivateServer, peer: Peer, side: Side
) -> None:
    script = launch.service(
        """
        @app.background("tick", 1)
        def tick():
            note("tick")

        @app.action("step")
        def step():
            globals()["shift"] = -3600.0
            return response.success({})
        """,
        head=STEPPED_CLOCK,
        side=side,
        server=bus,
    )
    wait_for(lambda: len(script.notes) >= 2, ANSWER_SECONDS)
    ask(peer, script, "step")
    ticks = len(script.notes)
    wait_for(lambda: len(script.notes) >= ticks + 3, 6)


@both
def test_b22_a_background_task_writes_nothing_to_the_log_by_itself(
    launch: Launcher, bus: PrivateServer, side: Side
) -> None:
    script = launch.service(
        """
        @app.background("tick", 1)
        def tick():
            note("tick")

        @app.action("echo")
        def echo():
            return response.success({})
        """,
        side=side,
        server=bus,
    )
    wait_for(lambda: len(script.notes) >= 1, ANSWER_SECONDS)
    before = script.log
    wait_for(lambda: len(script.notes) >= 3, ANSWER_SECONDS)
    assert script.log == before


@both
def test_b35_one_name_is_served_by_one_process(launch: Launcher, bus: PrivateServer, peer: Peer, side: Side) -> None:
    body = """
        @app.action("count")
        def count():
            with open(os.environ["COUNT"], "a") as runs:
                runs.write(f"{os.getpid()}\\n")
            return response.success({})
        """
    runs = launch.folder / "runs"
    env = {"COUNT": str(runs)}
    first = launch.service(body, side=side, server=bus, env=env)
    second = launch.start(body, side=side, server=bus, env=env, service=first.service)
    with Link(bus) as link:
        wait_for(lambda: not second.alive or subscribers(link, first.service) > 1, 15)
    for _ in range(10):
        assert ask(peer, first, "count")["status"] == "success"
    wait_for(lambda: len(runs.read_text().splitlines()) >= 10, 2)
    peer.watch.drain(0.5)  # whatever a second member would still have answered
    assert len(runs.read_text().splitlines()) == 10


@both
def test_s11_debug_shows_debug_lines(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    body = """
        @app.action("echo")
        def echo():
            return response.success({})

        @app.on_start()
        def begin():
            direct_logger.debug("fine detail")
            note("said")
        """
    loud = launch.service(body, side=side, server=bus, run={"debug": True})
    quiet = launch.service(body, side=side, server=bus)
    wait_for(lambda: loud.notes == quiet.notes == ["said"], ANSWER_SECONDS)
    assert "fine detail" not in quiet.log
    assert "fine detail" in loud.log


# --- HTTP ---

SITE = """
@app.route("/d/<name>")
def named(req, name):
    return {"name": name}

@app.route("/users")
def list_users(req):
    return {"did": "list"}

@app.route("/users", methods=["POST"])
def add_user(req):
    return {"did": "add"}, 201

@app.route("/echo", methods=["GET", "POST", "PUT", "DELETE"])
def echo(req):
    return {"payload": req.payload, "params": dict(req.params)}

@app.route("/upload", methods=["POST"])
def upload(req):
    field = req.payload["f"]
    return {"filename": field["filename"], "hex": field["value"].hex(), "note": req.payload["note"]}

@app.route("/change", methods=["PATCH"])
def change(req):
    return {"payload": req.payload}

@app.route("/fail")
def fail(req):
    raise RuntimeError("the password is 1234")

@app.route("/page")
def page(req):
    return "<h1>Kiosk</h1>"

@app.route("/own-header")
def own_header(req):
    return {"n": 1}, 200, {"X-Own": "yes"}
"""

MULTIPART = (
    b'--aBcD\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    b'--aBcD\r\nContent-Disposition: form-data; name="f"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--x\r\n--aBcD--\r\n"
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, own_side: Side) -> Iterator[Launcher]:
    """One service for each side, started when it is first asked for."""
    launcher = Launcher(tmp_path_factory.mktemp("sites"), own_side)
    yield launcher
    launcher.end_all()


@pytest.fixture
def site(sites: Launcher, side: Side, bus: PrivateServer) -> Script:
    for script in sites.started:
        if script.service == f"site-{side.name}":
            return script
    return sites.site(SITE, side=side, server=bus, service=f"site-{side.name}")


def soon(site: Script, method: str, target: str, headers: dict[str, str], body: bytes | None = None) -> HttpAnswer:
    return fetch(site.port, method, target, headers, body, timeout=NO_ANSWER_SECONDS)


JSON = {"Content-Type": "application/json"}


@both
def test_s48_values_in_paths_are_decoded(site: Script) -> None:
    assert soon(site, "GET", "/d/a%20b%2Fc", {}).json() == {"name": "a b/c"}


@both
def test_s49_b16_each_method_of_a_path_has_its_own_function(site: Script) -> None:
    assert soon(site, "GET", "/users", {}).json() == {"did": "list"}
    added = post_json(site.port, "/users", {})
    assert (added.status, added.json()) == (201, {"did": "add"})


@both
def test_s50_the_query_of_a_post_is_not_dropped(site: Script) -> None:
    assert soon(site, "POST", "/echo?page=2", {}, b"").json()["payload"] == {"page": "2"}
    both_given = post_json(site.port, "/echo?page=2", {"n": 1}).json()
    assert (both_given["payload"], both_given["params"]) == ({"n": 1}, {"page": "2"})


@both
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_s50_bodies_are_read_whatever_the_method(site: Script, method: str) -> None:
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    assert soon(site, method, "/echo", urlencoded, b"a=1").json()["payload"] == {"a": "1"}


@both
def test_s51_params_see_the_query(site: Script) -> None:
    assert soon(site, "GET", "/echo?name=Bob", {}).json()["params"] == {"name": "Bob"}


@both
@pytest.mark.parametrize(("body", "status"), [(b"{broken", 400), (b"null", 200)])
def test_b6_a_body_that_is_no_object_is_answered(site: Script, body: bytes, status: int) -> None:
    assert soon(site, "POST", "/echo", JSON, body).status == status


@both
def test_b15_the_text_of_an_exception_stays_inside(site: Script) -> None:
    answer = soon(site, "GET", "/fail", {})
    assert answer.status == 500
    assert "1234" not in answer.text


@both
def test_b17_s50_u24_an_upload_arrives(site: Script) -> None:
    answer = soon(site, "POST", "/upload", {"Content-Type": "multipart/form-data; boundary=aBcD"}, MULTIPART)
    assert answer.status == 200
    assert answer.json() == {"filename": "a.bin", "hex": b"\x00\xff\r\n--x".hex(), "note": "hello"}


@both
def test_b18_a_connection_serves_more_than_one_request(site: Script) -> None:
    with HttpLink(site.port) as link:
        for _ in range(3):
            answer = link.get("/users")
            assert (answer.version, answer.framing) == ("1.1", "length")


@both
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("PATCH", 405), ("DELETE", 405), ("BREW", 405)])
def test_b18_every_method_has_its_answer(site: Script, method: str, status: int) -> None:
    answer = soon(site, method, "/users", {}, b"" if method != "HEAD" else None)
    assert answer.status == status
    if status == 405:
        assert answer.words("allow") == {"get", "head", "options", "post"}


@both
def test_b18_patch_is_a_method(site: Script) -> None:
    assert soon(site, "PATCH", "/change", JSON, b'{"n": 1}').json() == {"payload": {"n": 1}}


@both
def test_b18_a_text_is_a_page(site: Script) -> None:
    answer = soon(site, "GET", "/page", {})
    assert (answer.text, answer.header("content-type").partition(";")[0]) == ("<h1>Kiosk</h1>", "text/html")


@both
def test_b18_a_handler_can_set_headers(site: Script) -> None:
    answer = soon(site, "GET", "/own-header", {})
    assert (answer.header("x-own"), answer.json()) == ("yes", {"n": 1})


@both
@pytest.mark.parametrize("value", ["abc", "+5"])
def test_b34_a_senseless_content_length_is_the_clients_fault(site: Script, value: str) -> None:
    with HttpLink(site.port, timeout=NO_ANSWER_SECONDS) as link:
        link.send(link.head("POST", "/echo", {**JSON, "Content-Length": value}) + b"{}")
        assert link.answer().status == 400


@both
def test_b34_a_huge_body_is_refused_before_it_is_sent(site: Script) -> None:
    with HttpLink(site.port, timeout=NO_ANSWER_SECONDS) as link:
        link.send(link.head("POST", "/echo", {**JSON, "Content-Length": "10000000000"}))
        assert link.answer().status == 413


@both
def test_b34_clients_that_say_nothing_take_no_threads(site: Script) -> None:
    fetch(site.port, "GET", "/users")
    before = site.threads()
    with ExitStack() as stack:
        links = [stack.enter_context(HttpLink(site.port)) for _ in range(12)]
        for link in links:
            link.send(b"GET /users HTTP/1.1\r\nHost:")
        fetch(site.port, "GET", "/users")
        assert site.threads() <= before + 2


@both
def test_b13_credentials_are_not_for_everybody(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    site = launch.site(
        """
        @app.route("/data")
        def data(req):
            return {"n": 1}
        """,
        side=side,
        server=bus,
        settings={"cors_config": {"allowed_origins": "*", "allow_credentials": True}},
    )
    answer = soon(site, "GET", "/data", {"Origin": "http://evil.example"})
    assert answer.header("access-control-allow-credentials") == ""
    assert answer.header("access-control-allow-origin") in ("", "*")


@both
def test_b13_answers_for_one_origin_say_so_to_caches(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    site = launch.site(
        """
        @app.route("/data")
        def data(req):
            return {"n": 1}
        """,
        side=side,
        server=bus,
        settings={"cors_config": {"allowed_origins": ["http://good.example"]}},
    )
    for origin in ("http://good.example", "http://evil.example"):
        assert "origin" in soon(site, "GET", "/data", {"Origin": origin}).words("vary")


@both
def test_b14_only_this_machine_is_served_unless_it_is_asked_for(site: Script) -> None:
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", site.port)) != 0


@both
def test_b28_a_port_that_is_taken_ends_the_service(launch: Launcher, bus: PrivateServer, side: Side) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = launch.start(
            f"""
            from daebus import DaebusHttp
            app.attach(DaebusHttp(port={port}, host="127.0.0.1"))

            @app.route("/")
            def page(req):
                return {{}}
            """,
            side=side,
            server=bus,
        )
        assert script.wait(3000 * MS) != 0
    assert str(port) in script.log


@both
def test_b33_u2_blueprints_may_be_registered_before_the_endpoint_is_attached(
    launch: Launcher, bus: PrivateServer, side: Side
) -> None:
    script = launch.start(
        """
        from daebus import DaebusHttp
        pages = Blueprint("pages")

        @pages.route("/page", methods=["GET"])
        def page(req):
            return {"from": "blueprint"}

        app.register_blueprint(pages)
        app.attach(DaebusHttp(port=int(os.environ["PORT"]), host="127.0.0.1"))
        """,
        side=side,
        server=bus,
        env={"PORT": str(port := free_port())},
    )
    script.port = port
    until_listening(script)
    assert soon(script, "GET", "/page", {}).json() == {"from": "blueprint"}
