"""The layers, held against the import statements; the public names; importing is inert."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import daebus
from tests.support import ROOT

PACKAGE = ROOT / "daebus"

# From the bottom up. A module may import those of lower layers and its neighbours on its own layer.
LAYERS = {
    "words": ["errors", "names", "settings"],
    "pure": ["jsontext", "message", "resp", "schedule", "routes", "policy", "http1", "wsframes", "parameters", "hints"],
    "declared": [
        "log",
        "registry",
        "tally",
        "metrics",
        "work",
        "contract",
        "forms",
        "pubsub",
        "exchange",
        "wsexchange",
        "context",
        "hooks",
        "journal",
    ],
    "room": ["dispatch", "inbox", "workflows"],
    "doors and threads": [
        "redispy",
        "link",
        "loop",
        "engine",
        "claim",
        "bus",
        "shared",
        "ledger",
        "target",
        "hub",
        "client",
        "aio",
        "subscription",
        "census",
        "workflow_caller",
        "scheduler",
        "threads",
        "net",
        "staticfiles",
        "httpdoor",
        "wscalls",
        "wsdoor",
        "gateway",
    ],
    "life": ["systemd", "endpoints", "connecting", "watchdog", "liaison", "introspection", "service"],
    "faces": ["http", "websocket", "app", "__init__", "cli", "testing", "__main__"],
}
# Folders that stand in the layers as one module.
PACKAGES = ["cli", "testing"]
# `broadcast` and `cache` are views for users' code; what is behind them is imported when they are first used.
# The version stands in the package itself, because it is public.
ON_USE = {("context", "redispy"), ("context", "hub"), ("exchange", "staticfiles"), ("introspection", "__init__")}
# Stand beside the layers: they find or start Redis, know nothing of services, and no layer needs them but the command.
APART = ["redisserver", "someredis"]

WORLDLY = {"socket", "threading", "time", "os", "logging", "selectors", "ssl", "subprocess", "asyncio"}
PUBLIC = {
    "AsyncCaller", "Blueprint", "Daebus", "DaebusCaller", "DaebusError", "DaebusHttp", "DaebusWebSocket",
    "DaebusWorkflow", "HttpRequest", "HttpResponse", "PubSubRequest", "PubSubResponse", "WebSocketRequest",
    "WebSocketResponse", "broadcast", "cache", "direct_logger", "get_daemon", "logger", "request", "response",
}  # fmt: skip
HEAVY = ["click", "h11", "wsproto", "redis", "asyncio", "http", "ssl", "uuid", "inspect", "dataclasses", "typing"]
HEAVY += ["daebus.testing"]


def rank(module: str) -> int:
    return next(place for place, modules in enumerate(LAYERS.values()) if module in modules)


def modules() -> list[str]:
    """The modules, and the packages that count as one: those of the layers that are folders."""
    return sorted({path.stem for path in PACKAGE.glob("*.py")} | set(PACKAGES))


def sources(module: str) -> Iterator[tuple[Path, int]]:
    """The files of a module, each with how many dots lead to the package from there."""
    if module not in PACKAGES:
        yield PACKAGE / f"{module}.py", 1
    else:
        yield from ((path, 2) for path in (PACKAGE / module).glob("*.py"))


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Each import of a module, those for type checkers apart: ("ours", "errors") or ("theirs", "socket")."""
    for path, dots in sources(module):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in without_type_checking(tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    yield sort_out(name.name)
            elif isinstance(node, ast.ImportFrom) and (node.level == dots or node.module == "daebus"):
                names = [node.module] if node.level and node.module else [name.name for name in node.names]
                for name_of_ours in names:
                    head = name_of_ours.partition(".")[0]
                    yield "ours", "__init__" if head == "__version__" else head
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield sort_out(node.module or "")


def sort_out(name: str) -> tuple[str, str]:
    head, _, rest = name.partition(".")
    return ("ours", rest) if head == "daebus" else ("theirs", head)


def without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from without_type_checking(node)


def test_every_module_has_its_place() -> None:
    placed = {module for names in LAYERS.values() for module in names} | set(APART)
    assert set(modules()) == placed


@pytest.mark.parametrize("module", [module for module in modules() if module not in APART])
def test_a_module_imports_nothing_from_above_it(module: str) -> None:
    ours = {name for kind, name in imports(module) if kind == "ours"} - set(APART)
    above = {(module, name) for name in ours if rank(name) > rank(module)}
    assert above <= ON_USE


@pytest.mark.parametrize("module", LAYERS["words"])
def test_words_import_nothing_of_ours_but_words(module: str) -> None:
    assert {name for kind, name in imports(module) if kind == "ours"} <= set(LAYERS["words"])


@pytest.mark.parametrize("module", LAYERS["pure"])
def test_pure_modules_do_not_touch_the_world(module: str) -> None:
    assert {name for kind, name in imports(module) if kind == "theirs"} & WORLDLY == set()


@pytest.mark.parametrize("module", LAYERS["doors and threads"])
def test_doors_are_handed_the_dispatcher_and_do_not_import_it(module: str) -> None:
    assert {name for kind, name in imports(module) if kind == "ours"} & set(LAYERS["room"]) == set()


def test_the_dispatcher_knows_no_door() -> None:
    ours = {name for kind, name in imports("dispatch") if kind == "ours"}
    assert ours & {"message", "pubsub", "exchange", "wsexchange", "inbox", "workflows"} == set()


@pytest.mark.parametrize("module", [module for module in modules() if module not in [*APART, "cli"]])
def test_the_private_server_is_nobodys_business_but_the_commands(module: str) -> None:
    assert {name for kind, name in imports(module) if kind == "ours"} & set(APART) == set()


def test_the_public_names_are_there_and_no_others() -> None:
    """Beside the names that users know by heart, only errors, which users catch."""
    assert set(daebus.__all__) >= PUBLIC
    for name in set(daebus.__all__) - PUBLIC:
        assert name == "__version__" or issubclass(getattr(daebus, name), daebus.DaebusError), name


def test_the_capital_letter_gives_the_same_objects() -> None:
    import Daebus

    assert {name: getattr(Daebus, name) for name in daebus.__all__} == {
        name: getattr(daebus, name) for name in daebus.__all__
    }


def test_importing_is_inert() -> None:
    """No heavy module, no socket, no thread, no log handler; nothing printed."""
    report = subprocess.run(
        [sys.executable, "-I", "-c", INERT, json.dumps(HEAVY), str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(report.stdout) == {
        "heavy": [],
        "sockets": [],
        "threads": ["MainThread"],
        "handlers": [],
    }
    assert report.stderr == ""


# What the interpreter has loaded by itself (an editable installation loads some) does not count against us.
INERT = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
heavy = [name for name in json.loads(sys.argv[1]) if name not in sys.modules]
import daebus
loaded = [name for name in heavy if name in sys.modules]

def target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""

links = [target(fd) for fd in os.listdir("/proc/self/fd")]
import logging, threading
print(json.dumps({
    "heavy": loaded,
    "sockets": [link for link in links if link.startswith("socket:")],
    "threads": [thread.name for thread in threading.enumerate()],
    "handlers": [repr(handler) for handler in logging.getLogger().handlers],
}))
"""


@pytest.mark.parametrize("module", [module for module in modules() if module != "testing"])
def test_the_test_kit_is_imported_by_the_app_alone(module: str) -> None:
    """And there when it is used; `test_importing_is_inert` sees to that."""
    assert (("ours", "testing") in set(imports(module))) is (module == "app")


def test_imports_are_seen_in_all_their_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would pass if `imports` saw nothing."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "x.py").write_text(
        "from . import bus\nfrom .client import A\nimport daebus.app\nfrom daebus import errors\n"
        "import os.path\ndef f():\n    from .engine import B\nif TYPE_CHECKING:\n    from .life import C\n"
    )
    assert sorted(imports("x")) == [
        ("ours", "app"), ("ours", "bus"), ("ours", "client"), ("ours", "engine"), ("ours", "errors"),
        ("theirs", "os"),
    ]  # fmt: skip
