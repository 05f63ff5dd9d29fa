"""What the measurements need: programs, the C load, and one virtual environment for each side.

Everything goes into `.venv-bench` of the checkout. What cannot be had is noted with its reason, and the rows
that need it say "not measured".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".venv-bench"
SOURCES = CHECKOUT / "bench"
INSTALL_SECONDS = 300

UPSTREAM_PACKAGES = ("daebus==0.0.31", "redis==8.1.0")
PEER_PACKAGES = ("dbus-fast==5.2.0", "nats-py==2.16.0")
WEB_PACKAGES = (
    "flask==3.1.3",
    "waitress==3.0.2",
    "gunicorn==27.0.1",
    "starlette==1.10.0",
    "uvicorn[standard]==0.54.0",
    "aiohttp==3.14.5",
    "websockets==17.4",
)
PROTOTYPE_PACKAGES = ("hiredis",)
"""The prototypes run in our own environment and need this whatever we depend on."""


class SetupError(Exception):
    """Something that a measurement needs cannot be had; the text says what and why."""


@dataclass
class Environment:
    """Where everything is; `missing` has the reason for whatever is not there."""

    missing: dict[str, str] = field(default_factory=dict)
    found: dict[str, Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return str(self.found[name])

    def add(self, name: str, find: Callable[[], Path]) -> None:
        try:
            self.found[name] = find()
        except SetupError as error:
            self.missing[name] = str(error)


def prepare(say: Callable[[str], None]) -> Environment:
    """Everything that can be had; a second call takes a fraction of a second."""
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")
    environment = Environment()
    say("set-up (.venv-bench)")
    environment.add("redis", lambda: find_program("redis-server", "redis-server"))
    environment.add("dbus", lambda: find_program("dbus-daemon", "dbus"))
    environment.add("nats-server", find_nats_server)
    environment.add("wrk", lambda: find_program("wrk", "wrk"))
    for program in ("load", "sockets", "closing"):
        environment.add(program, partial(compile_program, program))
    environment.add("upstream", lambda: make_venv("upstream", UPSTREAM_PACKAGES))
    environment.add("peers", lambda: make_venv("peers", PEER_PACKAGES))
    environment.add("web", lambda: make_venv("web", WEB_PACKAGES))
    environment.add("prototypes", lambda: make_venv("ours", our_packages()))
    environment.add("ours", lambda: find_ours(environment))
    return environment


def run(command: Sequence[str | Path], directory: Path | None = None) -> None:
    """Run a command of the set-up; its own last words become the error."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{words[0]}: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise SetupError(f"{' '.join(words[:4])}: {lines[-1]}")


# ---- programs of the system ----


def find_program(program: str, package: str) -> Path:
    """The program, from its Debian package if it is not there and we may install it."""
    if not on_path(program):
        install_package(package)
    path = on_path(program)
    if path is None:
        raise SetupError(f"no {program} (Debian package {package})")
    return path


def on_path(program: str) -> Path | None:
    """Debian keeps some servers in sbin, which is not on everybody's path."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/bin:/usr/sbin")
    return Path(found) if found else None


def install_package(package: str) -> None:
    if os.geteuid() != 0 or on_path("apt-get") is None:
        raise SetupError(f"Debian package {package} is not installed, and only root can install it")
    apt_get("install", "--yes", "--no-install-recommends", package)


def apt_get(*arguments: str, directory: Path | None = None) -> None:
    """Once more after an update: a fresh machine has no package lists."""
    command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", *arguments)
    try:
        run(command, directory)
    except SetupError:
        if os.geteuid() != 0:
            raise
        run(("apt-get", "--quiet", "update"))
        run(command, directory)


def find_nats_server() -> Path:
    """Taken out of its package: installing it would start a server on all of the machine's interfaces."""
    installed = on_path("nats-server")
    if installed is not None:
        return installed
    unpacked = HOME / "nats-server"
    program = unpacked / "usr/sbin/nats-server"
    if not program.exists():
        if on_path("apt-get") is None:
            raise SetupError("no nats-server, and no apt-get to fetch it with")
        unpacked.mkdir(exist_ok=True)
        apt_get("download", "nats-server", directory=unpacked)
        for package in unpacked.glob("nats-server_*.deb"):
            run(("dpkg", "-x", package, unpacked))
    if not program.exists():
        raise SetupError(f"no {program.relative_to(unpacked)} in Debian's package nats-server")
    return program


def compile_program(name: str) -> Path:
    program, sources = HOME / name, (SOURCES / f"{name}.c", SOURCES / "load.h")
    newest = max(source.stat().st_mtime for source in sources)
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = on_path("cc") or find_program("gcc", "gcc")
        run((compiler, "-O2", "-Wall", "-Wextra", "-o", program, sources[0]))
    return program


# ---- Python environments ----


def make_venv(name: str, packages: Sequence[str]) -> Path:
    """An environment with just these packages, made anew when the list changes; returns its interpreter."""
    directory = HOME / name
    interpreter = base_interpreter()
    stamp, wanted = directory / "packages", "\n".join((first_line(interpreter, "-VV"), *packages))
    python = directory / "bin/python"
    if not stamp.exists() or stamp.read_text() != wanted:
        run((interpreter, "-m", "venv", "--clear", directory))
        run((python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages))
        # It hooks into every start of the interpreter, which a device's own Python does not have.
        run((python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"))
        run((python, "-m", "compileall", "-q", directory / "lib"))
        stamp.write_text(wanted)
    return python


def base_interpreter() -> str:
    """Debian's if new enough: one built without profile-guided optimisation takes 1.5 times as long."""
    debian = "/usr/bin/python3"
    is_new_enough = first_line(debian, "-c", "import sys; print(sys.version_info >= (3, 11))") == "True"
    return debian if is_new_enough else sys.executable


def our_packages() -> tuple[str, ...]:
    """Our declared dependencies (so that what is measured is what is shipped) and the prototype's."""
    declaration = CHECKOUT / "pyproject.toml"
    if not declaration.exists():
        return PROTOTYPE_PACKAGES
    dependencies = tomllib.loads(declaration.read_text()).get("project", {}).get("dependencies", [])
    return (*dependencies, *PROTOTYPE_PACKAGES)


def find_ours(environment: Environment) -> Path:
    """The checkout itself on the environment's path: no build step, and never a stale copy."""
    if "prototypes" in environment.missing:
        raise SetupError(environment.missing["prototypes"])
    python = environment.found["prototypes"]
    packages = next((HOME / "ours/lib").glob("python3*/site-packages"))
    (packages / "daebus-checkout.pth").write_text(f"{CHECKOUT}\n")
    run((python, "-c", "from daebus import Daebus, DaebusCaller"))
    return python


def versions(environment: Environment) -> dict[str, str]:
    """What was measured, in the words of each."""
    commands = {
        "python": (base_interpreter(), "--version"),
        "redis": (environment.found.get("redis"), "--version"),
        "dbus": (environment.found.get("dbus"), "--version"),
        "nats-server": (environment.found.get("nats-server"), "--version"),
        "wrk": (environment.found.get("wrk"), "--version"),
        "cc": (on_path("cc"), "--version"),
    }
    return {name: first_line(str(program), *rest) for name, (program, *rest) in commands.items() if program}


def first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout or done.stderr).strip().split("\n")[0].split(" sha=")[0].split(" [epoll]")[0]
