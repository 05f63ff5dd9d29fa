"""`daebus new`: a service to begin with, its tests, and what to do next."""

from __future__ import annotations

import os
import re
import shlex
import sys

import click

from ..errors import ConfigurationError
from .output import say
from .templates import service_file, test_file

LONGEST_NAME = 48
RESERVED = ("daebus-", "systemd-")
SHADOWED = ("click", "Daebus", "h11", "hiredis", "pytest", "redis", "sdnotify", "wsproto")
"""Modules that a service needs, beside those of Python itself: a script of that name would be imported instead."""

UNIT_FOLDERS = ("/usr/lib/systemd/system", "/lib/systemd/system")


@click.command(name="new", short_help="Make a service to begin with.", epilog="Example: daebus new lamp --http")
@click.argument("name")
@click.option("--folder", metavar="DIR", default=".", help="Where to make it (here).")
@click.option("--http", is_flag=True, help="With a page for browsers.")
def new(name: str, folder: str, http: bool) -> None:
    """Make a service that runs as it is, NAME.py, and its tests, test_NAME.py; print what to do next.

    Nothing that is there is overwritten.
    """
    check_name(name)
    files = {
        _path(folder, f"{name}.py"): service_file(name, http=http),
        _path(folder, f"test_{name.replace('-', '_')}.py"): test_file(name, http=http),
    }
    for path in files:
        if os.path.lexists(path):
            raise ConfigurationError(f"{path} is there already: choose another name or --folder, or move it away")
    _write(folder, files)
    script, tests = map(shlex.quote, files)
    say("\n".join([*files, "", *next_steps(name, script, tests)]))


def _path(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def check_name(name: str, unit_folders: tuple[str, ...] = UNIT_FOLDERS) -> None:
    """Raise `ConfigurationError` for a name that could not be a service on a device, or that hides a module."""
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}", name, re.ASCII):
        raise ConfigurationError(
            f"{name[:80]!a} cannot be the name of a service: it must have at most {LONGEST_NAME} letters, digits, "
            "'-' and '_', and begin with a letter or digit"
        )
    if name == "daebus" or name.startswith(RESERVED):
        raise ConfigurationError(
            f"the name {name!r} is reserved: choose one that is not 'daebus', and begins otherwise"
        )
    if name in sys.stdlib_module_names or name in SHADOWED:
        raise ConfigurationError(f"{name!r} is the name of a Python module, which {name}.py would hide: choose another")
    for folder in unit_folders:
        if os.path.lexists(os.path.join(folder, f"{name}.service")):
            raise ConfigurationError(f"{name!r} is the name of a unit of this system ({folder}): choose another")


def next_steps(name: str, script: str, tests: str) -> list[str]:
    """Return the commands that come next, each with what it does."""
    install = f"sudo install -D -m 644 {script} /opt/daebus/{name}.py"
    return [
        "Run it, and again whenever you save it:",
        f"  daebus run --reload {script}",
        "Test it (the tests need pytest):",
        f"  {os.path.basename(sys.executable)} -m pytest {tests}",
        "Make it a service of this device, with the Debian package:",
        f"  {install} && sudo systemctl daemon-reload && sudo systemctl enable --now {name}",
    ]


def _write(folder: str, files: dict[str, str]) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        for path, text in files.items():
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
