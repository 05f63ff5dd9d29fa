"""The generator of drop-in services: what scripts may say, which units come of it, and which scripts are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dropins import folder, generator, metadata, units
from dropins.metadata import Wishes
from dropins.refusal import Refused
from dropins.units import Script
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT

TEMPLATE = (ROOT / "packaging/systemd/daebus@.service").read_text(encoding="utf-8")
SOCKET_TEMPLATE = (ROOT / "packaging/systemd/daebus@.socket").read_text(encoding="utf-8")
NEWER = (ROOT / "packaging/systemd/daebus@.service.d/systemd-254.conf").read_text(encoding="utf-8")
LAMP = Script("lamp", "/opt/daebus/lamp.py")


def block(*lines: str) -> str:
    """A script with these lines in its [tool.daebus]."""
    text = "\n".join(f"# {line}" for line in ("/// script", "[tool.daebus]", *lines, "///"))
    return f"{text}\nfrom daebus import Daebus\n"


def wanted(*lines: str) -> Wishes:
    return metadata.wishes(block(*lines))


def reason(*lines: str) -> str:
    with pytest.raises(Refused) as caught:
        wanted(*lines)
    return str(caught.value)


def directives(text: str) -> list[tuple[str, str]]:
    """The directives of a unit as systemd reads them, which joins a line that ends in a backslash with the next."""
    lines = text.replace("\\\n", " ").splitlines()
    return [(key, value) for key, _, value in (line.partition("=") for line in lines if "=" in line and line[0] != "#")]


def service(*lines: str, newer: str = "", script: Script = LAMP) -> list[tuple[str, str]]:
    return directives(units.service(TEMPLATE, newer, script, wanted(*lines) if lines else None))


def value(unit: list[tuple[str, str]], key: str) -> list[str]:
    return [each for name, each in unit if name == key]


# --- the block ---


def test_a_script_without_metadata_wants_nothing() -> None:
    assert vars(metadata.wishes("print('hello')\n")) == vars(Wishes())


def test_other_blocks_and_other_tools_are_not_ours() -> None:
    text = "# /// other\n# [tool.daebus]\n# nonsense = 1\n# ///\n\n# /// script\n# dependencies = ['x']\n# ///\n"
    assert vars(metadata.wishes(text)) == vars(Wishes())


def test_lines_of_the_block_may_be_empty_comments() -> None:
    text = "# /// script\n#\n# [tool.daebus]\n#\n# http = 80\n# ///\n"
    assert metadata.wishes(text).http == ["127.0.0.1:80"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("# /// script\n# [tool.daebus]\n", "is not complete"),
        ("# /// script\n#[tool.daebus]\n# ///\n", "is not complete"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# b = 1\n# ///\n", "two blocks"),
        ("# /// script\n# [tool.daebus\n# ///\n", "is not TOML"),
        ("# /// script\n# x = " + "9" * 5000 + "\n# ///\n", "is not TOML"),
        ("# /// script\n# x = " + "[" * 5000 + "\n# ///\n", "nested too deeply"),
        ("# /// script\n# tool = 1\n# ///\n", "[tool.daebus] is not a table"),
        ("# /// script\n# [tool]\n# daebus = 1\n# ///\n", "[tool.daebus] is not a table"),
    ],
)
def test_a_block_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(Refused) as caught:
        metadata.wishes(text)
    assert why in str(caught.value)


# --- the keys ---


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ('service = "desk-lamp"', "service", "desk-lamp"),
        ('description = " The lamp, 100% ü "', "description", "The lamp, 100% ü"),
        ("http = 8080", "http", ["127.0.0.1:8080"]),
        ('http = "0.0.0.0:80"', "http", ["0.0.0.0:80"]),
        ('http = "[::0]:80"', "http", ["[::]:80"]),
        ('http = [8080, "/run/lamp/http.sock", "192.168.0.2:80"]', "http", None),
        ('http = ["127.0.0.1:80", "192.168.0.2:80"]', "http", None),
        ("websocket = 8081", "websocket", ["127.0.0.1:8081"]),
        ('user = "pi"', "user", "pi"),
        ('groups = ["gpio", "i2c", "gpio"]', "groups", ["gpio", "i2c"]),
        ('devices = ["/dev/gpiochip0", "/dev/ttyUSB0 r", "char-alsa"]', "devices", None),
        ('devices = ["/dev/snd/timer rw"]', "devices", ["/dev/snd/timer rw"]),
        ('memory = "64M"', "memory", "64M"),
        ('environment = { PORT = "8080", EMPTY = "" }', "environment", {"PORT": "8080", "EMPTY": ""}),
        ('after = ["network-online.target"]', "after", ["network-online.target"]),
        ('network = "any"', "network", "any"),
        ("watchdog = 60", "watchdog", "60"),
        ("watchdog = 2.5", "watchdog", "2.5"),
        ('calls = ["device"]', "calls", ["device"]),
        ('publish = ["news", "news.*"]', "publish", ["news", "news.*"]),
        ('listen = ["alerts.[ab]?"]', "listen", ["alerts.[ab]?"]),
        ('keys = ["settings:*", "*"]', "keys", ["settings:*", "*"]),
    ],
)
def test_what_a_script_may_say(line: str, key: str, expected: Any) -> None:
    found = getattr(wanted(line), key)
    assert found == expected if expected is not None else found


def test_a_service_on_demand_has_a_port() -> None:
    assert wanted('start = "demand"', "http = 80").start == "demand"
    assert "needs `http` or `websocket`" in reason('start = "demand"')


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("htp = 80", "no key 'htp'; did you mean 'http'?"),
        ("zzz = 1", "no key 'zzz'; it has service, description"),
        ('service = "a b"', "service = 'a b': it must be the name in app.run"),
        ('service = "a.b"', "letters, digits, '-' and '_'"),
        ('service = "daebus"', "it must be"),
        ("service = 5", "service = 5"),
        ('description = ""', "it must be text of one line"),
        ('description = "a\\nExecStart=/bin/sh"', "it must be text of one line"),
        ('description = "ends in \\\\"', "without backslashes"),
        ("http = 0", "http = 0: it must be a port"),
        ("http = true", "http = True"),
        ("http = 65536", "http = 65536"),
        ("http = []", "it must be a port"),
        ('http = "8080"', "it must be a port"),
        ('http = "localhost:80"', "'localhost' is no address"),
        ('http = "::1:80"', "is no address"),
        ('http = "[127.0.0.1]:80"', "is no address"),
        ('http = "127.0.0.1:080"', "it must be a port"),
        ('http = "/etc/passwd"', "is not under /run"),
        ('http = "/run/../etc/x"', "is not under /run"),
        ('http = "/run/a b"', "is not under /run"),
        ('http = [80, "0.0.0.0:80"]', "0.0.0.0:80 is there twice"),
        ('http = [80, "[::]:80"]', "is there twice"),
        ('websocket = "127.0.0.1:80"\n# http = 80', "is its `http`, too"),
        ('start = "later"', "'boot' or 'demand'"),
        ('user = "root"', "not root"),
        ("user = 0", "not root"),
        ('user = "0"', "not root"),
        ('groups = "gpio"', "a list of names of groups"),
        ('groups = ["root"]', "'root' is not"),
        ('devices = ["gpiochip0"]', "'gpiochip0' is not"),
        ('devices = ["/dev/../etc/shadow"]', "is not"),
        ('devices = ["/dev/sda rwm"]', "is not"),
        ('memory = "64"', "as in '64M'"),
        ('memory = "50%"', "as in '64M'"),
        ("memory = 64", "as in '64M'"),
        ('environment = { "A B" = "x" }', "'A B' is not such a name"),
        ("environment = { A = 1 }", "A is not such a text"),
        ('environment = { A = "x\\ny" }', "A is not such a text"),
        ('environment = { DAEBUS_REDIS_URL = "x" }', "is not such a name"),
        ('environment = { LISTEN_FDS = "x" }', "is not such a name"),
        ("environment = 5", "a table of names and texts"),
        ('after = ["network"]', "'network' is not"),
        ('after = ["a.service b.service"]', "is not"),
        ('network = "lan"', "'none', 'device' or 'any'"),
        ("watchdog = 0", "from 2 to 3600"),
        ("watchdog = nan", "from 2 to 3600"),
        ('calls = ["a.b"]', "'a.b' is not"),
        ('calls = ["*"]', "'*' is not"),
        ('publish = ["caller:x"]', "on which services get their answers"),
        ('listen = ["*"]', "'*' is not"),
        ('listen = ["c*"]', "on which services get their answers"),
        ('listen = ["work[f]low:*"]', "on which services get their answers"),
        ('listen = ["a b"]', "'a b' is not"),
        ('listen = ["a,b"]', "is not"),
        ('listen = ["a%b"]', "is not"),
        ('listen = ["a$b"]', "is not"),
        ('listen = ["a)"]', "is not"),
        ('keys = ["a b"]', "is not"),
        ("keys = [5]", "5 is not"),
        ("memory = 0x" + "f" * 5000, "memory = a int"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, words: str) -> None:
    said = reason(line)
    assert words in said
    assert said.isprintable()
    assert len(said) < 500


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "192.168.0.2:80", False),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "[::]:80", True),
        ("[::1]:80", "[::]:80", True),
        ("[::1]:80", "0.0.0.0:80", False),
        ("/run/a", "/run/a", True),
        ("/run/a", "/run/b", False),
        ("/run/a:80", "0.0.0.0:80", False),
    ],
)
def test_which_addresses_cannot_be_had_side_by_side(one: str, other: str, expected: bool) -> None:
    assert metadata.overlap(one, other) is metadata.overlap(other, one) is expected


# --- the unit ---


def test_a_script_without_metadata_gets_all_that_hardens_the_template() -> None:
    """Nothing is left out of the template, and nothing is added that it does not have."""
    unit, template = service(), directives(TEMPLATE.replace("%i", "lamp"))
    changed = {"ExecStart", "Documentation", "SourcePath"}
    assert [line for line in unit if line[0] not in changed] == [line for line in template if line[0] not in changed]
    assert value(unit, "ExecStart") == ["/usr/bin/python3 -P /opt/daebus/lamp.py"]
    assert value(unit, "SourcePath") == ["/opt/daebus/lamp.py"]
    assert "%i" not in str(unit)


def test_a_later_systemd_gets_what_it_knows_beyond_that() -> None:
    unit = service(newer=NEWER)
    assert value(unit, "Type") == ["notify-reload"]
    assert value(unit, "ExecReload") == []
    assert value(unit, "RestartSec") == ["200ms"]
    assert value(unit, "RestartSteps") == ["10"]


def test_a_folder_is_run_as_a_whole_by_its_own_python() -> None:
    script = Script("lamp", "/opt/daebus/lamp/__main__.py", "/opt/daebus/lamp", "/opt/daebus/lamp/.venv/bin/python")
    assert value(service(script=script), "ExecStart") == ["/opt/daebus/lamp/.venv/bin/python /opt/daebus/lamp"]


def test_each_wish_in_the_unit() -> None:
    unit = service(
        'description = "50% of it"',
        'user = "pi"',
        'groups = ["gpio"]',
        'devices = ["/dev/gpiochip0"]',
        'memory = "64M"',
        """environment = { A = 'say "$HOME" at 5% \\n' }""",
        'after = ["network-online.target"]',
        "watchdog = 60",
    )
    assert value(unit, "Description") == ["50%% of it"]
    assert value(unit, "User") == ["pi"]
    assert value(unit, "DynamicUser") == value(unit, "RemoveIPC") == []
    assert value(unit, "SupplementaryGroups") == ["daebus", "gpio"]
    assert value(unit, "PrivateDevices") == ["no"]
    assert value(unit, "DevicePolicy") == ["closed"]
    assert value(unit, "DeviceAllow") == ["/dev/gpiochip0 rw"]
    assert value(unit, "MemoryMax") == ["64M"]
    assert value(unit, "Environment") == ["MALLOC_ARENA_MAX=2", r'"A=say \"$HOME\" at 5%% \\n"']
    assert "network-online.target" in value(unit, "After")
    assert "network-online.target" in value(unit, "Wants")
    assert value(unit, "WatchdogSec") == ["60"]


@pytest.mark.parametrize(
    ("network", "families", "denied", "allowed"),
    [
        ("none", ["AF_UNIX"], ["any"], []),
        ("device", ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"], ["any"], ["localhost"]),
        ("any", ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"], [], []),
    ],
)
def test_whom_it_may_talk_to(network: str, families: list[str], denied: list[str], allowed: list[str]) -> None:
    unit = service(f'network = "{network}"')
    assert value(unit, "RestrictAddressFamilies") == families
    assert value(unit, "IPAddressDeny") == denied
    assert value(unit, "IPAddressAllow") == allowed
    assert value(unit, "PrivateNetwork") == (["yes"] if network == "none" else [])


def test_a_port_is_held_by_a_socket_of_its_own() -> None:
    unit = service("http = 8080", "websocket = 8081")
    assert value(unit, "Sockets") == value(unit, "Also") == ["lamp.socket", "lamp-websocket.socket"]
    assert value(unit, "WantedBy") == ["multi-user.target"]
    made = units.sockets(SOCKET_TEMPLATE, LAMP, wanted('http = [8080, "192.168.0.2:80"]', "websocket = 8081"))
    http, websocket = directives(made["lamp.socket"]), directives(made["lamp-websocket.socket"])
    assert value(http, "ListenStream") == ["127.0.0.1:8080", "192.168.0.2:80"]
    assert value(http, "FileDescriptorName") == ["http"]
    assert value(http, "FreeBind") == ["yes"]
    assert value(websocket, "Service") == ["lamp.service"]
    assert value(websocket, "FileDescriptorName") == ["websocket"]
    assert value(websocket, "FreeBind") == []
    assert value(http, "WantedBy") == ["sockets.target"]


def test_on_demand_only_the_socket_is_there_at_boot() -> None:
    unit = service("http = 8080", 'start = "demand"')
    assert value(unit, "WantedBy") == []
    assert value(unit, "Also") == ["lamp.socket"]
    assert value(unit, "RestartPreventExitStatus") == ["0"]


def test_the_rights_on_the_bus_are_in_the_unit() -> None:
    unit = service('service = "desk"', 'calls = ["device", "door"]', 'publish = ["news.*"]', 'keys = ["k:*"]')
    (said,) = value(unit, "ExecStartPre")
    words = "lamp --service=desk --calls=device,door --publish=news.* --keys=k:*"
    assert said == f"+/usr/libexec/daebus/redis-users {words}"


def test_the_kiosk_has_the_rights_that_its_scripts_name() -> None:
    for name in ("device", "panel"):
        wishes = metadata.wishes((ROOT / f"examples/kiosk/{name}.py").read_text(encoding="utf-8"))
        wishes.service = name
        unit = (ROOT / f"packaging/systemd/daebus-kiosk-{name}.service").read_text(encoding="utf-8")
        expected = " ".join(units.rights(f"kiosk-{name}", wishes))
        assert f"ExecStartPre=+/usr/libexec/daebus/redis-users {expected}\n" in unit


@pytest.mark.parametrize("name", ["a", "a" * 24, "a" * 25, "a" * 48])
def test_every_service_has_a_user(name: str) -> None:
    user = units.user_of(name)
    assert len(user) <= 31
    assert user == f"daebus-{name}" or user.startswith("daebus-aaaa")
    assert units.user_of("a" * 30) != units.user_of("a" * 31)


def test_a_refused_script_has_a_unit_that_says_why_and_fails() -> None:
    text = units.refused(TEMPLATE, "lamp", "/opt/daebus/lamp.py", 'it\'s "100%" $HOME\\\n[Service]')
    unit = directives(text)
    assert value(unit, "Description") == ['Daebus service lamp (refused: it\'s "100%%" $HOME/?[Service])']
    assert value(unit, "Type") == ["oneshot"]
    assert value(unit, "Restart") == value(unit, "ExecStartPre") == []
    (command,) = value(unit, "ExecStart")
    assert command.endswith(
        """ "Refused: it's \\"100%%\\" $$HOME\\\\?[Service]. Put it right, then: systemctl daemon-reload\""""
    )
    assert value(unit, "ProtectSystem") == ["strict"]


# --- nothing that a script says can become a directive ---

anything = st.recursive(
    st.text(max_size=30) | st.integers() | st.booleans() | st.floats() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
allowed_keys = {key for key, _ in directives(TEMPLATE)} | {
    *("SourcePath", "DeviceAllow", "Sockets", "Also", "RestartPreventExitStatus", "PrivateNetwork"),
    *("RestartSteps", "RestartMaxDelaySec"),
}
hostile = st.text(st.sampled_from("aZ0-_.:/@*?[]=%$\\\"' \t\n\r\x00\x85\u2028;#ü"), max_size=20)


@given(st.dictionaries(st.sampled_from(sorted(metadata.CHECKS)), anything | hostile | st.lists(hostile, max_size=2)))
def test_no_metadata_adds_a_directive(table: dict[str, Any]) -> None:
    try:
        wishes = metadata.check(table)
    except Refused as refused:
        text = units.refused(TEMPLATE, "lamp", "/opt/daebus/lamp.py", str(refused))
    else:
        text = units.service(TEMPLATE, NEWER, LAMP, wishes)
    assert {key for key, _ in directives(text)} <= allowed_keys
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]
    assert len(text.splitlines()) == len(text.split("\n")) - 1
    assert not any(line.endswith("\\") for line in text.split("\n"))
    assert value(directives(text), "ProtectSystem") == ["strict"]
    assert value(directives(text), "User") != ["root"]


@given(hostile)
def test_any_text_is_one_word_or_one_line(text: str) -> None:
    assert units.quoted(text).isprintable()
    assert "%" not in units.plain(text).replace("%%", "")
    assert not units.plain(text).endswith("\\")
    inside = units.quoted(text)[1:-1]
    assert '"' not in inside.replace("\\\\", "").replace('\\"', "")


@given(st.text(max_size=300))
def test_any_script_is_read_or_refused(text: str) -> None:
    with suppress(Refused):
        metadata.wishes(f"# /// script\n{text}\n# ///\n")


# --- the folder ---

ME = (0, os.getuid())


def put(path: Path, text: str = "", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The root of a device with our templates."""
    tmp_path.chmod(0o755)
    put(tmp_path / "usr/lib/systemd/system/daebus@.service", TEMPLATE)
    put(tmp_path / "usr/lib/systemd/system/daebus@.socket", SOCKET_TEMPLATE)
    put(tmp_path / "usr/share/python3-daebus/systemd-254.conf", NEWER)
    (tmp_path / "opt/daebus").mkdir(parents=True)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def make(device: Path) -> generator.Made:
    return generator.make_all(str(device), folder.Guard(ME))


def complaint(device: Path, unit: str) -> str:
    made = make(device)
    (text,) = [text for name, text in made.complaints if name == f"{unit}.service"]
    assert "refused: " in made.files[f"{unit}.service"]
    return text


def test_which_files_are_services(device: Path) -> None:
    for name in ("lamp.py", "door/__main__.py", ".hidden.py", "_private.py", "notes.txt", "empty/other.py"):
        put(device / "opt/daebus" / name)
    put(device / "opt/daebus/__pycache__/lamp.pyc")
    made = make(device)
    assert sorted(made.files) == ["door.service", "lamp.service"]
    assert made.complaints == []


def test_without_scripts_there_is_nothing_to_make(device: Path) -> None:
    assert make(device).files == {}
    (device / "opt/daebus").rmdir()
    assert make(device).files == {}


@pytest.mark.parametrize("place", ["usr/lib/systemd", "usr/lib/aarch64-linux-gnu/systemd"])
@pytest.mark.parametrize(("version", "newer"), [("252.so", False), ("257.so", True), ("254.26-1~deb13u1.so", True)])
def test_systemd_tells_its_version_by_a_file(device: Path, place: str, version: str, newer: bool) -> None:
    put(device / place / f"libsystemd-shared-{version}")
    put(device / "opt/daebus/lamp.py")
    made = make(device)
    assert ("Type=notify-reload" in made.files["lamp.service"]) is newer
    assert ("daebus@.service.d/systemd-254.conf" in made.files) is newer


@pytest.mark.parametrize("name", ["a b", "ä", "a.b", "-a", "a@b", "a" * 49, "daebus", "daebus-x", "systemd-x", "a\nb"])
def test_names_that_no_service_can_have(device: Path, name: str) -> None:
    put(device / "opt/daebus" / f"{name}.py")
    put(device / "opt/daebus/lamp.py")
    made = make(device)
    assert len(made.complaints) == 1
    assert "lamp.service" in made.files
    (other,) = set(made.files) - {"lamp.service"}
    assert other.startswith("daebus-")
    assert "name" in made.complaints[0][1]


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/systemd/system/ssh.service",
        "usr/lib/systemd/system/ssh.socket",
        "usr/local/lib/systemd/system/ssh.timer",
        "lib/systemd/system/ssh.path",
        "etc/init.d/ssh",
        "run/systemd/system/ssh.service",
    ],
)
def test_the_name_of_a_unit_of_the_system_is_taken(device: Path, path: str) -> None:
    put(device / path, "[Unit]\n")
    put(device / "opt/daebus/ssh.py")
    assert f"is that of a unit of the system, /{path}" in complaint(device, "daebus-ssh")
    assert "ssh.service" not in make(device).files


def test_an_alias_is_a_name_that_is_taken_and_an_override_or_a_mask_is_not(device: Path) -> None:
    admin = device / "etc/systemd/system"
    put(admin / "own.service", "[Unit]\n")
    (admin / "masked.service").symlink_to("/dev/null")
    (admin / "sshd.service").symlink_to("/usr/lib/systemd/system/ssh.service")
    for name in ("own", "masked", "sshd"):
        put(device / f"opt/daebus/{name}.py")
    assert [unit for unit, _ in make(device).complaints] == ["daebus-sshd.service"]


def test_our_own_units_are_no_obstacle(device: Path) -> None:
    put(device / "opt/daebus/lamp.py")
    generator.write_all(str(device / "run/systemd/system"), make(device).files)
    assert make(device).complaints == []


def test_a_name_that_two_have_is_nobodys(device: Path) -> None:
    put(device / "opt/daebus/lamp.py")
    put(device / "opt/daebus/lamp/__main__.py")
    assert "leave one" in complaint(device, "lamp")


def test_a_port_and_a_name_on_the_bus_are_for_who_comes_first(device: Path) -> None:
    put(device / "opt/daebus/a.py", block("http = 8080"))
    put(device / "opt/daebus/b.py", block('websocket = "0.0.0.0:8080"'))
    put(device / "opt/daebus/c.py", block('service = "a"'))
    assert "0.0.0.0:8080 is taken by" in complaint(device, "b")
    assert "a.py (127.0.0.1:8080)" in complaint(device, "b")
    assert "the service 'a' is that of" in complaint(device, "c")
    assert "refused" not in make(device).files["a.service"]


def test_a_unit_for_a_second_socket_needs_its_name_too(device: Path) -> None:
    put(device / "opt/daebus/a.py", block("websocket = 8080"))
    put(device / "opt/daebus/a-websocket.py", block("http = 8081"))
    put(device / "opt/daebus/b.py", block("websocket = 8082"))
    put(device / "usr/lib/systemd/system/b-websocket.service")
    assert "has the name of one of another script" in complaint(device, "a-websocket")
    assert "has the name of a unit of the system" in complaint(device, "b")


def test_one_that_is_refused_takes_no_port(device: Path) -> None:
    put(device / "opt/daebus/a.py", block("http = 8080", "nonsense = 1"))
    put(device / "opt/daebus/b.py", block("http = 8080"))
    assert [unit for unit, _ in make(device).complaints] == ["a.service"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"# /// script\n# [tool.daebus]\n# service = '\xff'\n# ///\n", "it is not UTF-8 (byte 43)"),
        (b"#" * (2 << 20), "more than 1 MiB"),
    ],
)
def test_a_file_that_is_no_script(device: Path, data: bytes, why: str) -> None:
    put(device / "opt/daebus/lamp.py").write_bytes(data)
    assert why in complaint(device, "lamp")


def test_a_folder_that_is_called_like_a_script(device: Path) -> None:
    (device / "opt/daebus/lamp.py").mkdir()
    assert "is not a file" in complaint(device, "lamp")


def test_lines_may_end_as_on_other_systems(device: Path) -> None:
    text = "\ufeff" + block("http = 8080").replace("\n", "\r\n")
    put(device / "opt/daebus/lamp.py").write_bytes(text.encode())
    assert "lamp.socket" in make(device).files


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646, 0o622])
def test_a_script_that_others_may_write_is_refused(device: Path, mode: int) -> None:
    put(device / "opt/daebus/lamp.py", mode=mode)
    assert "others than root may write" in complaint(device, "lamp")


@pytest.mark.parametrize("name", ["opt/daebus", "opt"])
def test_so_is_one_in_a_folder_that_others_may_write(device: Path, name: str) -> None:
    put(device / "opt/daebus/lamp.py")
    (device / name).chmod(0o775)
    assert f"{device}/{name}; try: sudo chmod go-w" in complaint(device, "lamp")


def test_a_folder_where_nobody_can_replace_what_is_others_may_be_on_the_way(device: Path) -> None:
    put(device / "opt/daebus/lamp.py")
    (device / "opt").chmod(0o1777)
    assert make(device).complaints == []


def test_the_files_of_a_folder_are_looked_at(device: Path) -> None:
    put(device / "opt/daebus/lamp/__main__.py")
    put(device / "opt/daebus/lamp/bulbs.py", mode=0o666)
    assert "bulbs.py" in complaint(device, "lamp")


def test_a_link_is_followed_and_all_on_its_way_is_looked_at(device: Path) -> None:
    put(device / "srv/lamp/lamp.py")
    (device / "srv/link").symlink_to("lamp")
    (device / "opt/daebus/lamp.py").symlink_to("../../srv/link/../link/lamp.py")
    assert make(device).complaints == []
    (device / "srv/lamp").chmod(0o777)
    assert f"others than root may write {device}/srv/lamp;" in complaint(device, "lamp")


def test_links_that_lead_nowhere(device: Path) -> None:
    (device / "opt/daebus/lamp.py").symlink_to("nothing.py")
    (device / "opt/daebus/ring.py").symlink_to("ring.py")
    assert "is not there" in complaint(device, "lamp")
    assert "too many symbolic links" in complaint(device, "ring")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(device: Path) -> None:
    put(device / "opt/daebus/lamp.py")
    os.chown(device / "opt/daebus/lamp.py", 65534, 65534)
    assert "belongs to user 65534; try: sudo chown root:root" in complaint(device, "lamp")
    (device / "opt/daebus/lamp.py").unlink()
    put(device / "srv/lamp.py")
    (device / "opt/daebus/lamp.py").symlink_to("/srv/lamp.py")
    os.chown(device / "opt/daebus/lamp.py", 65534, 65534, follow_symlinks=False)
    assert "belongs to user 65534" in complaint(device, "lamp")


def test_a_folders_own_environment_is_used(device: Path) -> None:
    own = device / "opt/daebus/lamp"
    put(own / "__main__.py")
    put(own / ".venv/bin/python3", mode=0o755)
    (own / ".venv/bin/python").symlink_to("python3")
    assert f"ExecStart={own}/.venv/bin/python {own}\n" in make(device).files["lamp.service"]
    (own / ".venv/bin").chmod(0o777)
    assert "may write" in complaint(device, "lamp")
    (own / ".venv/bin").chmod(0o755)
    (own / ".venv/bin/python").unlink()
    assert "has no bin/python; make it again" in complaint(device, "lamp")


def test_a_defect_of_ours_harms_no_other_script(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(device / "opt/daebus/a.py")
    put(device / "opt/daebus/b.py")
    find = folder.find

    def broken(guard: folder.Guard, candidate: folder.Candidate, where: str) -> Script:
        if candidate.name == "a":
            raise ZeroDivisionError("oops")
        return find(guard, candidate, where)

    monkeypatch.setattr(folder, "find", broken)
    assert "this is a defect of Daebus: ZeroDivisionError: oops" in complaint(device, "a")
    assert "refused" not in make(device).files["b.service"]


# --- the files ---


def test_units_come_and_go_with_their_scripts(tmp_path: Path) -> None:
    put(tmp_path / "other.service", "[Unit]\n")
    (tmp_path / "link.service").symlink_to("other.service")
    drop_in = "daebus@.service.d/systemd-254.conf"
    files = {name: f"{units.MARK} from x\n{name}\n" for name in ("a.service", "a.socket", drop_in)}
    generator.write_all(str(tmp_path), files)
    assert (tmp_path / "a.service").read_text() == files["a.service"]
    generator.write_all(str(tmp_path), {"a.socket": files["a.socket"]})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.socket", "link.service", "other.service"]


def test_complaints_are_told_though_there_is_no_journal(capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys, builtins, os; sys.path.insert(0, sys.argv[1])\n"
        "from dropins import generator as g\n"
        "def no(*a): raise OSError\n"
        "g._to_journal = no\n"
        "def fail(name, *a, **k): raise OSError\n"
        "g.open = fail\n"
        "g.complain('lamp.service', 'it is\\nrefused')\n"
    )
    subprocess.run([sys.executable, "-IS", "-c", program, str(ROOT / "packaging")], check=True)
    assert capfd.readouterr().err == "it is?refused\n"


def test_called_by_hand_it_says_who_calls_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["daebus-generator"]) == 2
    assert "systemd calls it" in capsys.readouterr().err


def test_without_scripts_nothing_is_imported_that_costs_time() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dropins.generator\n"
        "print(sorted({'re', 'tomllib', 'socket', 'pathlib', 'typing', 'enum'} & set(sys.modules)))"
    )
    command = [sys.executable, "-IS", "-c", program, str(ROOT / "packaging")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_script_of_nothing_but_marks_or_dots_does_not_delay_the_boot() -> None:
    """Their parsing would take the square of their number."""
    with pytest.raises(Refused, match="more than 20 lines"):
        metadata.wishes("# /// script\n" * 80_000)
    with pytest.raises(Refused, match="more than 8,192 characters"):
        metadata.wishes(f"# /// script\n# {'a.' * 20_000}a = 1\n# ///\n")
