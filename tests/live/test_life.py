"""A service's life from outside: stopping, names, threads, tasks, clocks, leaks, a log nobody reads."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, BinaryIO

import pytest

from daebus.redisserver import PrivateServer
from tests.outside import ANSWER_SECONDS, Launcher, Link, Peer, Script, subscribers, until_ready, until_subscribed
from tests.support import MS, wait_for

STOP_SECONDS = 5000 * MS  # the promise
STUCK_STOP_SECONDS = 10_000 * MS  # the promise for a handler that never ends

SERVICE = """
@app.action("echo")
def echo():
    return {"got": request.payload}

@app.action("slow")
def slow():
    note("begun")
    time.sleep(request.payload.get("seconds", 1.0))
    return {"n": request.payload.get("n")}

@app.action("forever")
def forever():
    note("begun")
    while True:
        time.sleep(0.1)

@app.on_stop()
def stop():
    note("on_stop")
"""


def stops(script: Script, seconds: float = STOP_SECONDS) -> None:
    assert script.wait(seconds) == 0, script.log[-3000:]


# --- stopping ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_what_was_taken_is_answered_and_what_comes_after_is_refused(
    launch: Launcher, bus: PrivateServer, peer: Peer, number: signal.Signals
) -> None:
    """One handler runs, nine requests are queued behind it when the signal comes."""
    script = launch.service(SERVICE, server=bus, env={"WORKERS": "1"})
    ids = [peer.post(script.service, "slow", {"n": n, "seconds": 0.1}) for n in range(10)]
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
    script.send_signal(number)
    answers = {reply["request_id"]: reply for reply in _rest(peer, len(ids))}
    assert {request_id: answers[request_id]["payload"] for request_id in ids} == {
        request_id: {"n": n} for n, request_id in enumerate(ids)
    }
    with Link(bus) as link:
        wait_for(lambda: subscribers(link, script.service) == 0, ANSWER_SECONDS)
    error = launch.run(
        f"""
        import json, os
        from daebus import DaebusCaller
        with DaebusCaller("{script.service}", timeout=30, **json.loads(os.environ["REDIS"])) as caller:
            try:
                caller.send_request("echo", {{}})
            except Exception as error:
                print(json.dumps(type(error).__name__))
        """,
        server=bus,
    )
    assert error == "ServiceUnavailable"
    stops(script)
    assert script.notes[-1] == "on_stop"
    assert "Traceback" not in script.log


def _rest(peer: Peer, count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        reply = peer.next()
        assert reply is not None
        yield reply


def test_every_request_of_a_stream_is_answered_or_never_delivered_across_a_stop(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    """PUBLISH says to how many it was delivered: each request that says 1 has its answer."""
    script = launch.service(SERVICE, server=bus)
    delivered = []
    for number in range(100_000):
        message = peer.request(script.service, "echo", number)
        if peer.publish(script.service, message) == 0:
            break
        delivered.append(message["request_id"])
        if number == 200:
            script.send_signal(signal.SIGTERM)
    else:
        pytest.fail("it never unsubscribed")
    stops(script)
    answered = [reply["request_id"] for reply in peer.replies(0.5)]
    assert sorted(answered, key=str) == sorted(delivered, key=str)


def test_a_handler_that_never_ends_is_left_behind(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    """About 10 s, as promised: its caller is told, the rest is drained."""
    script = launch.service(SERVICE, server=bus)
    request_id = peer.post(script.service, "forever")
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
    script.send_signal(signal.SIGTERM)
    stops(script, STUCK_STOP_SECONDS)
    reply = peer.answer(request_id)
    assert (reply["status"], reply["code"]) == ("error", "stopping")
    assert "forever" in script.log, "the log says what was left"


def test_a_thread_and_a_task_that_never_end_do_not_keep_it(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(
        SERVICE
        + """
@app.thread("deaf")
def deaf(running):
    while True:
        time.sleep(0.1)

@app.background("stuck", 0.1)
def stuck():
    note("stuck")
    while True:
        time.sleep(0.1)
""",
        server=bus,
    )
    wait_for(lambda: "stuck" in script.notes, ANSWER_SECONDS)
    script.send_signal(signal.SIGTERM)
    stops(script, STUCK_STOP_SECONDS)


def test_sighup_changes_nothing(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(SERVICE, server=bus)
    script.send_signal(signal.SIGHUP)
    assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}
    script.send_signal(signal.SIGHUP)
    assert peer.ask(script.service, "echo", 2)["payload"] == {"got": 2}


def test_stop_from_a_handler_answers_and_ends(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(
        SERVICE
        + """
@app.action("quit")
def quit():
    app.stop()
    return {"bye": True}
""",
        server=bus,
    )
    assert peer.ask(script.service, "quit")["payload"] == {"bye": True}
    stops(script)


def test_a_second_signal_does_not_disturb_the_first(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(SERVICE, server=bus)
    request_id = peer.post(script.service, "slow", {"n": 1})
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        script.send_signal(number)
    assert peer.answer(request_id)["payload"] == {"n": 1}
    stops(script)


def test_what_comes_during_on_start_is_handled_after_it(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    """Handlers may rely on what on_start prepared, and nobody is turned away meanwhile."""
    script = launch.start(
        SERVICE
        + """
@app.on_start()
def prepare():
    while not os.path.exists("go"):
        time.sleep(0.01)
    note("prepared")

@app.action("early")
def early():
    note("early")
    return {"early": True}

@app.listen(os.environ["SERVICE"] + ".news")
def news(payload):
    note("news")
""",
        server=bus,
    )
    until_subscribed(bus, f"{script.service}.news", script)
    request_id = peer.post(script.service, "early")
    peer.publish(f"{script.service}.news", {})
    assert peer.next(0.3) is None
    assert script.notes == []
    (script.folder / "go").touch()
    assert peer.answer(request_id)["payload"] == {"early": True}
    wait_for(lambda: len(script.notes) == 3, ANSWER_SECONDS)
    assert script.notes[0] == "prepared"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_service_in_its_on_start_can_be_stopped(launch: Launcher, bus: PrivateServer, number: signal.Signals) -> None:
    script = launch.start(
        SERVICE
        + """
@app.on_start()
def prepare():
    note("preparing")
    time.sleep(60)
""",
        server=bus,
    )
    wait_for(lambda: script.notes == ["preparing"], ANSWER_SECONDS)
    script.send_signal(number)
    stops(script)
    assert "is ready" not in script.log
    assert "Traceback" not in script.log


def test_on_start_that_raises_ends_the_service_with_the_reason(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.start(
        """
        @app.on_start()
        def begin():
            raise RuntimeError("the sensor is not plugged in")
        """,
        server=bus,
    )
    assert script.wait() not in (0, None)
    assert "the sensor is not plugged in" in script.log
    assert "is ready" not in script.log


def test_on_stop_that_raises_is_logged_and_the_rest_still_stops(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(
        SERVICE
        + """
@app.on_stop()
def failing():
    raise RuntimeError("cannot park the motor")
""",
        server=bus,
    )
    script.send_signal(signal.SIGTERM)
    script.wait(STOP_SECONDS)
    assert "cannot park the motor" in script.log
    assert "on_stop" in script.notes


# --- names ---


ODD_NAMES = [
    "", " ", "a b", "a\nb", "a\n", "*", "a*", "sensor[1]", "what?", "a/b", "../a", "caller:x", "ü", "x" * 500,
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_service_name_is_refused_with_the_rule(launch: Launcher, bus: PrivateServer, name: str) -> None:
    script = launch.script(
        f"""
        import json, os
        from daebus import Daebus
        Daebus("app").run(service={name!r}, **json.loads(os.environ["REDIS"]))
        """,
        server=bus,
    )
    assert script.wait() != 0
    assert "service name" in script.log
    assert "letters" in script.log


def test_a_second_process_with_the_name_is_refused_and_told_who_has_it(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    first = launch.service(SERVICE, server=bus)
    second = launch.start(SERVICE, server=bus, service=first.service)
    assert second.wait() != 0
    assert str(first.pid) in second.log
    assert peer.ask(first.service, "echo", 1)["payload"] == {"got": 1}
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = launch.start(SERVICE, server=bus, service=first.service)
    wait_for(lambda: "is ready" in third.log, ANSWER_SECONDS, lambda: third.log)


@pytest.mark.parametrize("shared", [(False, True), (True, False)])
def test_both_must_say_that_they_share(launch: Launcher, bus: PrivateServer, shared: tuple[bool, bool]) -> None:
    first = launch.service(SERVICE, server=bus, run={"shared": shared[0]})
    second = launch.start(SERVICE, server=bus, service=first.service, run={"shared": shared[1]})
    assert second.wait() != 0
    assert str(first.pid) in second.log


COUNTING = """
@app.action("count")
def count():
    n = request.payload["n"]
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(f"{n} {os.getpid()}\\n")
    return {"n": n}
"""


def members(launch: Launcher, bus: PrivateServer) -> tuple[Script, Script]:
    options: dict[str, Any] = {"server": bus, "run": {"shared": True}}
    options["env"] = {"RUNS": str(launch.folder / "runs")}
    first = launch.service(COUNTING, **options)
    second = launch.start(COUNTING, service=first.service, **options)
    wait_for(lambda: "is ready" in second.log, ANSWER_SECONDS, lambda: second.log)
    return first, second


def runs_of(launch: Launcher) -> list[list[str]]:
    return [line.split() for line in (launch.folder / "runs").read_text().splitlines()]


def test_each_request_runs_in_exactly_one_of_those_that_share(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    first, second = members(launch, bus)
    ids = {peer.post(first.service, "count", {"n": n}) for n in range(500)}
    answers = [reply["request_id"] for reply in _rest(peer, 500)]
    assert sorted(answers) == sorted(ids)
    assert peer.next(0.5) is None, "one answer each"
    runs = runs_of(launch)
    assert Counter(n for n, _ in runs) == {str(n): 1 for n in range(500)}
    assert {int(pid) for _, pid in runs} <= {first.pid, second.pid}


def test_none_runs_twice_when_one_of_them_dies(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    first, second = members(launch, bus)
    for n in range(500):
        peer.post(first.service, "count", {"n": n})
        if n == 250:
            first.send_signal(signal.SIGKILL)
    answered = [reply["payload"].get("n") for reply in peer.replies(2.0)]
    assert second.alive
    runs = Counter(int(line[0]) for line in runs_of(launch))
    assert [n for n, times in runs.items() if times > 1] == []
    assert set(answered) - {None} <= set(runs)
    with Link(bus) as link:
        wait_for(lambda: subscribers(link, second.service) == 1, ANSWER_SECONDS)
    late = [peer.ask(second.service, "count", {"n": n}, timeout=5.0)["payload"] for n in range(500, 520)]
    assert late == [{"n": n} for n in range(500, 520)]


def test_one_that_shares_can_stop_without_loss(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    first, _ = members(launch, bus)
    ids = []
    for n in range(400):
        ids.append(peer.post(first.service, "count", {"n": n}))
        if n == 200:
            first.send_signal(signal.SIGTERM)
    answers = [reply for reply in _rest(peer, 400) if reply["status"] == "success"]
    assert sorted(reply["request_id"] for reply in answers) == sorted(ids)
    stops(first)


# --- threads and tasks ---


def test_a_thread_that_crashes_again_and_again_fails_the_service(launch: Launcher, bus: PrivateServer) -> None:
    """Longer than 5 s: the pauses between the restarts grow."""
    script = launch.service(
        SERVICE
        + """
@app.thread("doomed")
def doomed(running):
    note(f"up {time.monotonic()}")
    raise RuntimeError("no such serial port")
""",
        server=bus,
    )
    assert script.wait(60.0) != 0
    assert "no such serial port" in script.log
    assert "doomed" in script.log.splitlines()[-1] or "doomed" in script.log[-1500:]
    ups = [float(line.split()[1]) for line in script.notes if line.startswith("up")]
    pauses = [later - earlier for earlier, later in pairwise(ups)]
    assert len(pauses) >= 2
    assert pauses[-1] > pauses[0], "back-off"


def test_a_thread_that_returns_is_not_a_crash(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(
        SERVICE
        + """
@app.thread("short")
def short(running):
    note("ran")

@app.thread("manual", auto_start=False)
def manual(running):
    note("manual")

@app.action("start")
def start():
    return {"manual": app.start_thread("manual"), "unknown": app.start_thread("unknown")}

@app.action("stop")
def stop_unknown():
    return {"unknown": app.stop_thread("unknown")}
""",
        server=bus,
    )
    wait_for(lambda: "ran" in script.notes, ANSWER_SECONDS)
    assert "manual" not in script.notes
    assert peer.ask(script.service, "start")["payload"] == {"manual": True, "unknown": False}
    wait_for(lambda: "manual" in script.notes, ANSWER_SECONDS)
    assert peer.ask(script.service, "stop")["payload"] == {"unknown": False}
    assert script.notes.count("ran") == 1
    assert script.alive


def test_a_thread_can_be_stopped_by_the_very_first_request(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    """It was held back until on_start was done, and runs as soon as the service opens."""
    script = launch.start(
        SERVICE
        + """
@app.on_start()
def prepare():
    while not os.path.exists("go"):
        time.sleep(0.01)

@app.thread("ticker")
def ticker(running):
    note("up")
    while running():
        time.sleep(0.01)
    note("down")

@app.action("stop")
def stop_it():
    return {"done": app.stop_thread("ticker", timeout=2.0)}
""",
        server=bus,
    )
    until_subscribed(bus, script.service, script)
    request_id = peer.post(script.service, "stop")
    (script.folder / "go").touch()
    assert peer.answer(request_id)["payload"] == {"done": True}
    until_ready(script)
    assert peer.ask(script.service, "stop")["payload"] == {"done": True}
    assert script.notes.count("up") == script.notes.count("down")


TASKS = """
@app.background("slow", 0.2)
def slow():
    note(f"slow begins {time.monotonic()}")
    time.sleep(0.5)
    note(f"slow ends {time.monotonic()}")

@app.background("failing", 0.2)
def failing():
    note("failing")
    raise RuntimeError("sensor timeout")

@app.background("steady", 0.2)
def steady():
    note(f"steady {time.monotonic()}")
"""


def test_tasks_do_not_overlap_skip_what_they_missed_and_survive_errors(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(SERVICE + TASKS, server=bus)
    wait_for(lambda: sum("slow ends" in line for line in script.notes) >= 5, ANSWER_SECONDS)
    notes = script.notes
    slow = [line.split() for line in notes if line.startswith("slow")]
    assert [words[1] for words in slow[:10]] == ["begins", "ends"] * 5
    begins = [float(words[2]) for words in slow if words[1] == "begins"]
    gaps = [later - earlier for earlier, later in pairwise(begins)]
    assert min(gaps) > 0.45, "each run takes 0.5 s and missed periods are not made up for"
    steady = [float(line.split()[1]) for line in notes if line.startswith("steady")]
    assert len(steady) >= 8, "a slow task does not hold up another"
    assert notes.count("failing") >= 3, "the schedule is kept after an error"
    assert "sensor timeout" in script.log
    assert "failing" in script.log


def test_a_service_frozen_for_many_periods_does_not_catch_up_in_a_burst(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(SERVICE + TASKS, server=bus)
    wait_for(lambda: any("steady" in line for line in script.notes), ANSWER_SECONDS)
    script.send_signal(signal.SIGSTOP)
    frozen_at = time.monotonic()
    with Peer(bus) as peer:
        peer.watch.drain(3.0)  # 15 periods go by
    thawed_at = time.monotonic()
    script.send_signal(signal.SIGCONT)
    wait_for(lambda: _steady_after(script, thawed_at + 1.0), ANSWER_SECONDS)
    first_second = [at for at in _steady(script) if thawed_at <= at < thawed_at + 1.0]
    assert len(first_second) <= 7, "5 periods fit into it"
    assert not [at for at in _steady(script) if frozen_at + 0.1 < at < thawed_at]


def _steady(script: Script) -> list[float]:
    return [float(line.split()[1]) for line in script.notes if re.fullmatch(r"steady [\d.]+", line)]


def _steady_after(script: Script, moment: float) -> bool:
    return any(at > moment for at in _steady(script))


STEPPED = """
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


@pytest.mark.parametrize("step", [-3600, 86_400, 31_536_000, -31_536_000])
def test_a_clock_step_changes_nothing(launch: Launcher, bus: PrivateServer, peer: Peer, step: int) -> None:
    """The script steps its own wall clock; requests, tasks and deadlines go on."""
    script = launch.service(
        SERVICE
        + TASKS
        + """
@app.action("step")
def step():
    globals()["shift"] = request.payload
    return {}
""",
        head=STEPPED,
        server=bus,
    )
    pending = peer.post(script.service, "slow", {"n": 1})
    wait_for(lambda: "begun" in script.notes, ANSWER_SECONDS)
    with Peer(bus) as other:
        other.ask(script.service, "step", step)
    stepped_at = time.monotonic()
    assert peer.answer(pending)["payload"] == {"n": 1}
    wait_for(lambda: _steady_after(script, stepped_at + 1.0), ANSWER_SECONDS)
    ticks = [at for at in _steady(script) if stepped_at <= at < stepped_at + 1.0]
    assert 3 <= len(ticks) <= 7, "every 0.2 s, before as after"
    answer = launch.run(
        f"""
        import json, os
        from daebus import DaebusCaller
        with DaebusCaller("{script.service}", timeout=5, **json.loads(os.environ["REDIS"])) as caller:
            print(json.dumps(caller.send_request("echo", 1)))
        """,
        server=bus,
    )
    assert answer == {"got": 1}


# --- nothing leaks ---


def test_10000_requests_leave_a_service_as_it_was(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    script = launch.service(SERVICE, server=bus)

    def thousand() -> None:
        for n in range(1000):
            peer.post(script.service, "echo" if n % 10 else "unknown", {"n": n, "text": "x" * 200})
        assert sum(1 for _ in _rest(peer, 1000)) == 1000

    thousand()
    before = script.threads(), script.descriptors(), script.resident_kb()
    for _ in range(9):
        thousand()
    # An idle worker ends by itself; until then there is one more.
    wait_for(lambda: script.threads() <= before[0] and script.descriptors() <= before[1], ANSWER_SECONDS)
    assert script.resident_kb() - before[2] <= 2048


def test_1000_callers_made_and_closed_leave_a_process_as_it_was(launch: Launcher, bus: PrivateServer) -> None:
    service = launch.service(SERVICE, server=bus)
    with Link(bus) as link:
        channels = len(link.call("PUBSUB", "CHANNELS", "caller:*"))
        script = launch.script(
            f"""
            import gc, json, os, sys, threading, time
            from daebus import DaebusCaller
            redis = json.loads(os.environ["REDIS"])

            def sizes():
                gc.collect()
                with open("/proc/self/status") as status:
                    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
                return [threading.active_count(), len(os.listdir("/proc/self/fd")), resident]

            def use(times):
                for n in range(times):
                    with DaebusCaller("{service.service}", **redis) as caller:
                        assert caller.send_request("echo", n) == {{"got": n}}

            use(100)
            before = sizes()
            use(1000)
            after = sizes()
            print(json.dumps([before, after]), flush=True)
            while not os.path.exists("go"):
                time.sleep(0.01)
            """,
            server=bus,
        )
        wait_for(lambda: script.output.endswith("\n") or not script.alive, 60.0, lambda: script.log)
        wait_for(lambda: len(link.call("PUBSUB", "CHANNELS", "caller:*")) <= channels + 1, ANSWER_SECONDS)
    (script.folder / "go").touch()
    before, after = script.result()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert after[2] - before[2] <= 2048


def test_callers_forgotten_without_close_are_collected(launch: Launcher, bus: PrivateServer) -> None:
    service = launch.service(SERVICE, server=bus)
    before, after = launch.run(
        f"""
        import gc, json, os, threading
        from daebus import DaebusCaller

        def use(times):
            for n in range(times):
                DaebusCaller("{service.service}", **json.loads(os.environ["REDIS"])).send_request("echo", n)
            gc.collect()
            return threading.active_count(), len(os.listdir("/proc/self/fd"))

        print(json.dumps([use(20), use(200)]))
        """,
        server=bus,
    )
    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_a_caller_works_in_a_forked_child_and_in_its_parent(launch: Launcher, bus: PrivateServer) -> None:
    service = launch.service(SERVICE, server=bus)
    results = launch.run(
        f"""
        import json, os
        from daebus import DaebusCaller
        caller = DaebusCaller("{service.service}", **json.loads(os.environ["REDIS"]))
        assert caller.send_request("echo", "before") == {{"got": "before"}}
        children = []
        for n in range(3):
            pid = os.fork()
            if pid == 0:
                ok = all(caller.send_request("echo", [n, m]) == {{"got": [n, m]}} for m in range(20))
                os._exit(0 if ok else 1)
            children.append(pid)
        mine = all(caller.send_request("echo", m) == {{"got": m}} for m in range(100))
        statuses = [os.waitpid(pid, 0)[1] for pid in children]
        caller.close()
        print(json.dumps([mine, statuses]))
        """,
        server=bus,
    )
    assert results == [True, [0, 0, 0]]


def test_close_wakes_those_who_wait_and_later_calls_fail(launch: Launcher, bus: PrivateServer) -> None:
    """Every request has a minute; the script ends at once."""
    service = launch.service(SERVICE, server=bus)
    outcome = launch.script(
        f"""
        import json, os, threading, time
        from daebus import DaebusCaller
        caller = DaebusCaller("{service.service}", timeout=60, **json.loads(os.environ["REDIS"]))
        other = DaebusCaller("{service.service}", **json.loads(os.environ["REDIS"]))
        outcome = []

        def wait():
            try:
                caller.send_request("slow", {{"seconds": 2.0}})
            except Exception as error:
                outcome.append(type(error).__name__)

        threads = [threading.Thread(target=wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        caller.close()
        for thread in threads:
            thread.join(1.0)
        in_time = not any(thread.is_alive() for thread in threads)
        caller.close()
        for call in (
            lambda: caller.send_request("echo", 1),
            lambda: caller.send_message("news", {{}}),
            lambda: caller.send_to_service({{}}),
        ):
            try:
                call()
            except Exception as error:
                outcome.append(type(error).__name__)
        print(json.dumps([in_time, outcome, other.send_request("echo", 1)]))
        """,
        server=bus,
    ).result(20.0)
    assert outcome == [True, ["CallerClosed"] * 8, {"got": 1}]


def test_closing_an_asyncio_caller_does_the_same(launch: Launcher, bus: PrivateServer) -> None:
    service = launch.service(SERVICE, server=bus)
    outcome = launch.script(
        f"""
        import asyncio, json, os, threading
        from daebus import AsyncCaller

        async def main():
            redis = json.loads(os.environ["REDIS"])
            caller = AsyncCaller("{service.service}", timeout=60, **redis)
            other = AsyncCaller("{service.service}", **redis)
            waiting = [asyncio.ensure_future(caller.send_request("slow", {{"seconds": 2.0}})) for _ in range(5)]
            cancelled = asyncio.ensure_future(other.send_request("slow", {{"seconds": 1.0}}))
            await asyncio.sleep(0.5)
            cancelled.cancel()
            await caller.close()
            done, _ = await asyncio.wait(waiting, timeout=1.0)
            outcome = [type(task.exception()).__name__ for task in done]
            await caller.close()
            for call in (
                lambda: caller.send_request("echo", 1),
                lambda: caller.send_message("news", {{}}),
                lambda: caller.send_to_service({{}}),
            ):
                try:
                    await call()
                except Exception as error:
                    outcome.append(type(error).__name__)
            answer = await other.send_request("echo", 1)
            await other.close()
            return [outcome, answer, threading.active_count()]

        print(json.dumps(asyncio.run(main())))
        """,
        server=bus,
    ).result(20.0)
    assert outcome == [["CallerClosed"] * 8, {"got": 1}, 1]


def test_a_thousand_asyncio_requests_at_once_are_all_answered(launch: Launcher, bus: PrivateServer) -> None:
    """On event loops one after the other, too."""
    service = launch.service(SERVICE, server=bus)
    outcome = launch.run(
        f"""
        import asyncio, json, os
        from daebus import AsyncCaller

        async def main():
            async with AsyncCaller("{service.service}", timeout=20, **json.loads(os.environ["REDIS"])) as caller:
                answers = await asyncio.gather(*(caller.send_request("echo", n) for n in range(500)))
            return [answer["got"] for answer in answers] == list(range(500))

        first = asyncio.run(main())
        before = len(os.listdir("/proc/self/fd"))
        second = asyncio.run(main())
        print(json.dumps([first, second, len(os.listdir("/proc/self/fd")) - before]))
        """,
        server=bus,
    )
    assert outcome == [True, True, 0]


def test_a_caller_in_a_handler_can_ask_its_own_service_and_others(
    launch: Launcher, bus: PrivateServer, peer: Peer
) -> None:
    service = launch.service(
        SERVICE
        + """
mirror = DaebusCaller(os.environ["SERVICE"], timeout=5, **REDIS)

@app.action("ask-myself")
def ask_myself():
    depth = request.payload
    return {"depth": depth, "inner": mirror.send_request("ask-myself", depth - 1) if depth else None}
""",
        server=bus,
    )
    answer = peer.ask(service.service, "ask-myself", 3)["payload"]
    assert answer["inner"]["inner"]["inner"] == {"depth": 0, "inner": None}
    service.send_signal(signal.SIGTERM)
    stops(service)


# --- the log pipe ---


@contextmanager
def log_pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The smallest pipe there is, as (reader, writer)."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(reader, "rb", 0) as read_end, os.fdopen(writer, "wb", 0) as write_end:
        yield read_end, write_end


CHATTY = (
    SERVICE
    + """
@app.action("talk")
def talk():
    for n in range(200):
        logger.info("line %d %s", n, "x" * 100)
        direct_logger.warning("and another")
    return {"talked": True}

@app.action("fail")
def fail():
    raise RuntimeError("x" * 5000)
"""
)


def talks(peer: Peer, script: Script) -> None:
    for _ in range(3):
        assert peer.ask(script.service, "talk")["payload"] == {"talked": True}
        assert peer.ask(script.service, "fail")["status"] == "error"
        peer.publish(script.service, b"broken")
    assert peer.ask(script.service, "echo", 1)["payload"] == {"got": 1}


def test_a_log_that_nobody_reads_never_stops_the_service(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    with log_pipe() as (reader, writer):
        script = launch.service(CHATTY, server=bus, stderr=writer.fileno())
        talks(peer, script)
        script.send_signal(signal.SIGTERM)
        stops(script)
        assert reader.read(100), "the beginning is there for whoever reads it later"


def test_a_log_whose_reader_is_gone_never_stops_the_service(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    with log_pipe() as (reader, writer):
        script = launch.service(CHATTY, server=bus, stderr=writer.fileno())
        writer.close()
        reader.close()
        talks(peer, script)
        script.send_signal(signal.SIGTERM)
        stops(script)


# --- idleness ---


def test_an_idle_service_says_nothing_and_sleeps(launch: Launcher, bus: PrivateServer, peer: Peer) -> None:
    """About 5 s of looking on: at most two wake-ups a second, and not a byte to the log."""
    script = launch.service(SERVICE, server=bus)
    for n in range(50):
        peer.ask(script.service, "echo", n)
    peer.watch.drain(1.0)  # it may tidy up after work
    log, wake_ups, began = script.log, script.wake_ups(), time.monotonic()
    peer.watch.drain(5.0)
    elapsed = time.monotonic() - began
    assert script.wake_ups() - wake_ups <= 2 * elapsed + 2
    assert script.log == log


def test_being_ready_is_one_line(launch: Launcher, bus: PrivateServer) -> None:
    script = launch.service(SERVICE, server=bus)
    wait_for(lambda: "is ready" in script.log, ANSWER_SECONDS)
    assert len(script.log.splitlines()) == 1
    assert f"Service '{script.service}' is ready" in script.log
