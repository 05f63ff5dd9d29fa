"""What systemd is told, with a real socket in its place; and what it passes: the watchdog's period, sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus.errors import ConfigurationError
from daebus.systemd import Notifier, Offered, offered_sockets, share_out
from tests.support import ROOT, NotifySocket


@pytest.fixture
def notifier(notify_socket: NotifySocket) -> Iterator[Notifier]:
    assert notify_socket.lines() == []
    made = Notifier()
    yield made
    close(made)


def close(notifier: Notifier) -> None:
    """sdnotify leaves that to the end of the process."""
    inner = notifier._notifier
    if inner is not None and inner.socket is not None:
        inner.socket.close()


def test_states_are_told_in_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        notifier.tell("READY=1", "STATUS=Serving")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=Serving"
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)
        close(notifier)


def test_an_abstract_socket_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"daebus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notifier = Notifier()
        notifier.tell("READY=1")
        assert systemd.recv(1000) == b"READY=1"
        close(notifier)


@pytest.mark.parametrize("path", ["/run/größe.sock", "/run/čeština.sock"])
def test_a_status_of_any_letters_arrives_as_utf_8(notifier: Notifier, notify_socket: NotifySocket, path: str) -> None:
    """READY travels with the path of the socket; without it, systemd would end the service."""
    notifier.tell("READY=1", f"STATUS=Serving, Redis at {path}")
    assert notify_socket.lines() == ["READY=1", f"STATUS=Serving, Redis at {path}"]


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.tell("READY=1")
    assert notifier._notifier is None


def test_systemd_that_does_not_read_is_not_waited_for(notifier: Notifier, notify_socket: NotifySocket) -> None:
    for number in range(5000):
        notifier.tell(f"STATUS={number}")
    assert 0 < len(notify_socket.lines()) < 5000


def test_systemd_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
    notifier.tell("READY=1")
    close(notifier)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify does not close its socket
def test_a_socket_that_is_not_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    Notifier().tell("READY=1")


def test_only_the_main_process_speaks(notifier: Notifier, notify_socket: NotifySocket) -> None:
    """A child after a fork is not the service."""
    child = os.fork()
    if child == 0:
        notifier.tell("READY=1")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert notify_socket.lines() == []


# --- the watchdog's period ---


@pytest.mark.parametrize(
    ("given_variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500"}, 0.0015),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "nonsense"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 30.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "30s"}, None),
        ({"WATCHDOG_USEC": "1e6"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdogs_period_is_what_systemd_says_to_this_process(
    given_variables: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given_variables.items():
        monkeypatch.setenv(name, value)
    assert Notifier().watchdog_seconds == seconds


# --- the variables ---


def test_programs_that_the_service_starts_do_not_take_its_variables_for_theirs(
    notifier: Notifier, notify_socket: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    before = dict(os.environ)
    notifier.take_environment()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    notifier.tell("READY=1")
    assert notify_socket.lines() == ["READY=1"]  # it was remembered
    notifier.give_back()
    assert dict(os.environ) == before


def test_without_systemd_there_is_nothing_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    notifier = Notifier()
    assert not notifier.is_heard
    notifier.take_environment()
    notifier.give_back()
    assert dict(os.environ) == before


# --- sockets that systemd holds ---


PASSED = """
import fcntl, json, os, socket, sys
from daebus.errors import ConfigurationError
from daebus.systemd import offered_sockets

def tcp(): return socket.create_server(("127.0.0.1", 0))
def tcp6(): return socket.create_server(("::1", 0), family=socket.AF_INET6)
def unix():
    made = socket.socket(socket.AF_UNIX)
    made.bind(sys.argv[1])
    made.listen()
    return made
def datagram():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made
def connected(): return socket.socketpair()[0]
def unbound(): return socket.socket()
def packets():
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind(sys.argv[1])
    made.listen()
    return made
def file(): return open("/dev/null")
def closed(): return None

kinds, variables = json.loads(sys.argv[2])
made = [globals()[kind]() for kind in kinds]
high = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 100) if one is not None else None for one in made]
addresses = [one.getsockname() if isinstance(one, socket.socket) else None for one in made]
for one in made:
    if one is not None:
        one.close()
os.closerange(3, 20)
for number, descriptor in enumerate(high):
    if descriptor is not None:
        os.dup2(descriptor, 3 + number)  # inheritable, as systemd passes it
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(kinds)), **variables}
try:
    offered = offered_sockets()
except ConfigurationError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    os._exit(0)  # without a word about what is left open
print(json.dumps({
    "offered": [
        [one.name, one.port, str(one), one.socket.fileno(), one.socket.get_inheritable(), one.socket.getblocking()]
        for one in offered
    ],
    "addresses": addresses,
    "left": [name for name in os.environ if name.startswith("LISTEN_")],
    "again": len(offered_sockets()),
}))
"""


@pytest.fixture
def passes(tmp_path: Path) -> Any:
    """What a process finds to which systemd passes sockets of these kinds."""

    def run(*kinds: str, **variables: str) -> Any:
        script, given_values = textwrap.dedent(PASSED), json.dumps([kinds, variables])
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "s"), given_values],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


def test_sockets_are_taken_with_their_names_and_ports(passes: Any, tmp_path: Path) -> None:
    found = passes("tcp", "tcp6", "unix", LISTEN_FDNAMES="http:websocket:x.socket")
    tcp, tcp6, unix = found["offered"]
    (_, port), (_, port6, *_), path = found["addresses"]
    assert tcp == ["http", port, f"'http' (127.0.0.1:{port})", 3, False, False]
    assert tcp6 == ["websocket", port6, f"'websocket' ([::1]:{port6})", 4, False, False]
    assert unix == ["x.socket", None, f"'x.socket' ({str(tmp_path / 's')!r})", 5, False, False]
    assert path == str(tmp_path / "s")


def test_sockets_are_taken_once_and_their_variables_are_gone(passes: Any) -> None:
    found = passes("tcp", LISTEN_FDNAMES="http")
    assert (found["left"], found["again"]) == ([], 0)


@pytest.mark.parametrize(
    ("variables", "names"),
    [({}, ["", ""]), ({"LISTEN_FDNAMES": "http"}, ["http", ""]), ({"LISTEN_FDNAMES": "a:b:c"}, ["a", "b"])],
)
def test_names_may_be_missing(passes: Any, variables: dict[str, str], names: list[str]) -> None:
    assert [one[0] for one in passes("tcp", "tcp", **variables)["offered"]] == names


@pytest.mark.parametrize("variables", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "many"}])
def test_what_is_for_another_process_is_not_taken(passes: Any, variables: dict[str, str]) -> None:
    assert passes("tcp", **variables)["offered"] == []


def test_what_is_no_socket_is_left_to_the_program(passes: Any) -> None:
    """`OpenFile=`, or what is in systemd's store of descriptors."""
    assert [one[0] for one in passes("file", "tcp", LISTEN_FDNAMES="conf:http")["offered"]] == ["http"]


@pytest.mark.parametrize("kind", ["datagram", "connected", "unbound", "packets", "closed"])
def test_what_is_no_listening_socket_is_refused_and_named(passes: Any, kind: str) -> None:
    assert passes("tcp", kind, LISTEN_FDNAMES="http:odd")["error"] == (
        "systemd passes 'odd' (descriptor 4), which is no socket that listens for connections: "
        "use ListenStream= and Accept=no in the .socket unit"
    )


def test_a_process_of_its_own_is_offered_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert offered_sockets() == []


# --- which door gets which ---


def held(name: str, port: int | None) -> Offered:
    family, address = (socket.AF_INET, ("0.0.0.0", port)) if port else (socket.AF_UNIX, "/run/s")
    stand_in: Any = SimpleNamespace(family=family, getsockname=lambda: address)
    return Offered(name, stand_in)


DOORS = {"http": 8080, "websocket": 8081}
EITHER = "FileDescriptorName=http (port 8080) or FileDescriptorName=websocket (port 8081)"


def shared(*offered: Offered, **doors: int) -> dict[str, list[str]]:
    return {door: [str(one) for one in share] for door, share in share_out(offered, doors).items()}


def test_a_socket_goes_to_the_door_that_its_name_says() -> None:
    """Whatever its port."""
    assert shared(held("websocket", 8080), held("http", None), **DOORS) == {
        "http": ["'http' ('/run/s')"],
        "websocket": ["'websocket' (0.0.0.0:8080)"],
    }


def test_a_socket_without_such_a_name_goes_to_the_door_of_its_port() -> None:
    found = shared(held("x.socket", 8081), held("x.socket", 8080), **DOORS)
    assert found == {"http": ["'x.socket' (0.0.0.0:8080)"], "websocket": ["'x.socket' (0.0.0.0:8081)"]}


def test_a_socket_that_fits_none_goes_to_the_only_door_without_one() -> None:
    assert shared(held("http", 80), held("", 9), **DOORS)["websocket"] == ["'' (0.0.0.0:9)"]
    assert shared(held("x.socket", 80), http=8080) == {"http": ["'x.socket' (0.0.0.0:80)"]}


def test_a_door_may_have_several() -> None:
    """IPv4, IPv6 and a unix socket, of one .socket unit or of several."""
    assert len(shared(held("http", 80), held("http", 8080), held("http", None), **DOORS)["http"]) == 3
    assert len(shared(held("x.socket", 80), held("x.socket", None), http=8080)["http"]) == 2


def test_a_door_may_have_none() -> None:
    assert shared(held("http", 80), **DOORS)["websocket"] == []
    assert shared(**DOORS) == {"http": [], "websocket": []}


@pytest.mark.parametrize(
    ("offered", "doors", "what", "hint"),
    [
        (
            [held("x.socket", 80)],
            DOORS,
            "'x.socket' (0.0.0.0:80)",
            f"say in the .socket unit which it is: {EITHER}",
        ),
        ([held("http", 80)], {}, "'http' (0.0.0.0:80)", "attach DaebusHttp(), or stop that unit"),
    ],
)
def test_what_fits_no_door_or_several_is_refused_and_it_is_said_what_to_do(
    offered: list[Offered], doors: dict[str, int], what: str, hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        share_out(offered, doors)
    assert str(caught.value) == f"systemd passes {what}, and nothing here listens there; {hint}"


def test_the_only_door_gets_all() -> None:
    offered = [held("a", 81), held("http", 80), held("b", None)]
    assert share_out(offered, {"http": 8080}) == {"http": offered}


offers = st.builds(held, st.sampled_from(["http", "websocket", "", "x.socket"]), st.sampled_from([None, 8080, 8081, 9]))
some_doors = st.dictionaries(st.sampled_from(["http", "websocket"]), st.sampled_from([8080, 8081]))


@given(st.lists(offers, max_size=5), some_doors)
def test_each_socket_is_one_doors_or_all_are_refused(offered: list[Offered], doors: dict[str, int]) -> None:
    with suppress(ConfigurationError):
        shares = share_out(offered, doors)
        assert set(shares) == set(doors)
        assert sorted(map(id, (one for share in shares.values() for one in share))) == sorted(map(id, offered))
        for door, share in shares.items():
            assert [one for one in offered if one.name == door and one not in share] == []
            assert share == sorted(share, key=offered.index)  # in the order of the units


@given(st.lists(offers, max_size=5), some_doors)
def test_nothing_is_refused_that_has_a_name_or_a_port_of_ours(offered: list[Offered], doors: dict[str, int]) -> None:
    ours = [one for one in offered if one.name in doors or one.port in doors.values()]
    assert sum(map(len, share_out(ours, doors).values())) == len(ours)
