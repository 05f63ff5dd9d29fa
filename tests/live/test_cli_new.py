"""`daebus new`: what it makes passes its own tests and the strictest checks, and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daebus import DaebusCaller
from daebus.redisserver import PrivateServer
from tests.support import MS, ROOT, ServiceProcess, skip_or_fail

LIMIT = 60_000 * MS


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*map(str, words)], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def new(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "daebus", "new", *words, folder=folder)


def tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else skip_or_fail(f"{name} is not installed here")


MADE = [("lamp", "--http"), ("desk-lamp",)]


@pytest.mark.parametrize("words", MADE)
def test_its_tests_pass(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = new(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    script, tests = done.stdout.splitlines()[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([Path(script).name, Path(tests).name])
    tested = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", tests, folder=tmp_path)
    assert f"{4 if '--http' in words else 3} passed" in tested.stdout, tested.stdout + tested.stderr


STRICT = ["--select", "A,B,C4,E,F,I,N,PIE,PT,RET,RUF,S,SIM,UP,W", "--ignore", "S101"]


@pytest.mark.parametrize("words", MADE)
def test_checkers_have_nothing_to_say(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert new(tmp_path, *words).returncode == 0
    for command in (
        [tool("ruff"), "check", "--isolated", "--no-cache", *STRICT, "."],
        [tool("ruff"), "format", "--isolated", "--no-cache", "--check", "."],
        [tool("mypy"), "--strict", "--config-file", os.devnull, "--cache-dir", os.devnull, *tmp_path.glob("*.py")],
    ):
        done = run(*command, folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_device_takes_it(tmp_path: Path) -> None:
    from dropins.metadata import wishes

    assert new(tmp_path, "lamp", "--http").returncode == 0
    wanted = wishes((tmp_path / "lamp.py").read_text())
    assert (wanted.description, wanted.http) == ("The service lamp", ["127.0.0.1:8080"])


def test_it_runs(tmp_path: Path, redis_server: PrivateServer) -> None:
    assert new(tmp_path, "desk-lamp").returncode == 0
    with ServiceProcess(tmp_path / "desk-lamp.py", redis_url=redis_server.url) as service:
        service.wait_ready()
        with DaebusCaller("desk-lamp", redis_url=redis_server.url) as caller:
            assert caller.send_request("greet", {"name": "Ada"}) == {"message": "Hello, Ada!"}
        assert service.stop() == 0


def test_it_says_what_comes_next(tmp_path: Path) -> None:
    done = new(tmp_path, "lamp", "--folder", "a b/c")
    assert done.stdout.splitlines()[:2] == ["a b/c/lamp.py", "a b/c/test_lamp.py"]
    assert "\n  daebus run --reload 'a b/c/lamp.py'\n" in done.stdout
    assert " -m pytest 'a b/c/test_lamp.py'\n" in done.stdout
    assert "\n  sudo install -D -m 644 'a b/c/lamp.py' /opt/daebus/lamp.py && " in done.stdout


@pytest.mark.parametrize("there", ["lamp.py", "test_lamp.py"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = new(tmp_path, "lamp")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"daebus: configuration: {there} is there already: ")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("two words", "letters, digits"),
        ("-x", "no such option"),
        ("", "letters, digits"),
        ("../lamp", "letters, digits"),
        ("l" * 49, "at most 48"),
        ("l\u00e4mp", "letters, digits"),
        ("daebus", "is reserved"),
        ("systemd-lamp", "is reserved"),
        ("json", "would hide"),
        ("redis", "would hide"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, why: str) -> None:
    done = new(tmp_path, name)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert why in done.stderr.lower()
    assert done.stderr.count("\n") == 1


def test_a_unit_of_the_system(tmp_path: Path) -> None:
    from daebus import ConfigurationError
    from daebus.cli.scaffold import check_name

    check_name("lamp", (str(tmp_path),))
    (tmp_path / "lamp.service").touch()
    with pytest.raises(ConfigurationError, match="unit of this system"):
        check_name("lamp", (str(tmp_path),))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = new(tmp_path, "lamp", "--folder", "file")
    assert (done.returncode, done.stdout) == (2, "")
    assert "file cannot be written: " in done.stderr
