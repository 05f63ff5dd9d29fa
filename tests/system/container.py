"""A Debian under its own systemd, in a container: systemd-nspawn on a throw-away layer over a cached root.

    with Container(root) as container:
        container.put("/etc/systemd/system/lamp.service", unit)
        container.systemctl("start", "lamp")

The mounts are made in a mount namespace of the container's own, so they are gone when its processes are; and it powers
off when the process that booted it dies. It sees no network but its own loopback interface.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.support import MS, ROOT, NotInTime, children_of, wait_for

T = TypeVar("T")

BOOT_SECONDS = 60_000 * MS
END_SECONDS = 30_000 * MS
COMMAND_SECONDS = 30_000 * MS
PYTHON_PATH = "/usr/lib/python3/dist-packages"
REDIS_SOCKET = "/run/redis-daebus/redis-server.sock"

POWER_OFF = signal.SIGRTMIN + 4
REBOOT = signal.SIGRTMIN + 5
REBOOT_STATUS = 133  # nspawn's way to say that the container wants to be started again
PROPAGATE = Path("/run/systemd/nspawn/propagate")
CLONE_NEWNET = 0x40000000

# The overlay is gone as soon as the last process of this mount namespace is. "volatile": nobody keeps the layer, so
# nothing needs to wait for the disk.
LAUNCH = """
echo $$ >"$1/cgroup.procs"
mount -t overlay overlay -o "volatile,lowerdir=$2,upperdir=$3/upper,workdir=$3/work" "$3/root"
shift 3
exec "$@"
"""

NSPAWN = [
    "systemd-nspawn",
    "--quiet",
    "--boot",
    "--private-network",
    "--register=no",
    "--keep-unit",
    "--console=read-only",
    "--notify-ready=yes",
    "--link-journal=no",
    "--resolv-conf=off",
    "--timezone=off",
    "--setenv=SYSTEMD_COLORS=0",
]

INSIDE = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]

REDIS_CONFIGURATION = f"""
port 0
unixsocket {REDIS_SOCKET}
unixsocketperm 777
supervised systemd
pidfile /run/redis-daebus/redis-server.pid
logfile ""
dir /var/lib/redis
save ""
appendonly no
maxmemory 32mb
"""

UNIT = """
[Unit]
After=redis-server@daebus.service

[Service]
Type=notify
ExecStart=/usr/bin/python3 {program}
"""

ASK = """
import json, sys
from daebus import DaebusCaller
service, action, payload, timeout = sys.argv[1:]
with DaebusCaller(service, timeout=float(timeout)) as caller:
    print(json.dumps(caller.send_request(action, json.loads(payload))))
"""


class BootFailed(AssertionError):
    """The container did not come up; the text is what its console shows."""


class CommandFailed(AssertionError):
    """A command in the container ended with another status than 0; the text has its output."""


class Notices:
    """The socket on which nspawn and the system inside report. It must be read for the container's whole life:
    once it is full, the container's first process waits in sendmsg, and everything with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read, name=f"notices of {path.parent.name}")
        self._thread.start()

    def _read(self) -> None:
        while datagram := self._socket.recv(65536):
            self._lines += datagram.decode().splitlines()

    def forget(self) -> None:
        self._lines.clear()

    @property
    def ready(self) -> bool:
        return "READY=1" in self._lines

    @property
    def leader(self) -> int | None:
        """The process on the outside that is process 1 inside."""
        found = [line.partition("=")[2] for line in self._lines if line.startswith("X_NSPAWN_LEADER_PID=")]
        return int(found[-1]) if found else None

    def close(self) -> None:
        """An empty datagram ends the thread."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


class Container:
    """One container, booted by `with`. To be used on the main thread: its processes end with the thread that boots.

    Its files outlive `reboot` and `power_cut`, as on a device; they are gone at the end of the block.
    """

    def __init__(self, root: Path, options: Sequence[str] = ()) -> None:
        """`options` are further ones for systemd-nspawn."""
        self._options = options
        self.name = f"daebus-{uuid.uuid4().hex[:8]}"
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        for name in ("root", "upper/etc", "work"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "upper/etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        self._group = own_group() / self.name
        self._notices = Notices(self.folder / "notify")
        self._lock = (root.parent / f"{root.name}.lock").open("a")

    def __enter__(self) -> Container:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The end, whatever state it is in; nothing remains."""
        try:
            self.kill()
        finally:
            self._notices.close()
            self._lock.close()
            shutil.rmtree(self.folder)

    # --- power ---

    def start(self) -> None:
        """Boot, and return when everything that is enabled is up. For a container that was powered off."""
        shutil.rmtree(self.folder / "work")  # which remembers that the layer was volatile
        (self.folder / "work").mkdir()
        self._group.mkdir()
        self._process = self._launch()
        try:
            wait_for(lambda: self._notices.ready or not self.running, BOOT_SECONDS, "the container has booted")
        except NotInTime as error:
            raise BootFailed(f"{error}\n{self.console()}") from None
        if not self.running:
            raise BootFailed(f"ended with status {self._process.returncode}\n{self.console()}")

    def _launch(self) -> subprocess.Popen[bytes]:
        launch = ["unshare", "--mount", "--propagation=private", "setpriv", "--pdeathsig=TERM", "sh", "-euc", LAUNCH]
        folders = [str(self._group), str(self._root), str(self.folder)]
        nspawn = [*NSPAWN, *self._options, f"--machine={self.name}", f"--directory={self.folder}/root"]
        environment = {
            **os.environ,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "NOTIFY_SOCKET": str(self._notices.path),
        }
        with (self.folder / "console").open("ab") as console:
            return subprocess.Popen(
                [*launch, "launch", *folders, *nspawn],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                process_group=0,
            )

    def power_off(self) -> None:
        """An orderly end; `start` boots it again."""
        self._end_by(POWER_OFF, 0)

    def reboot(self) -> None:
        self._end_by(REBOOT, REBOOT_STATUS)
        self.start()

    def power_cut(self) -> None:
        """Every process is gone at once; then it boots again with the files as they were."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """Every process is gone at once."""
        if self._process is None:
            return
        leader = self._notices.leader
        if self.running and leader is not None:
            with suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
        else:
            self._process.kill()
        self._wait(self._process)

    def _end_by(self, number: int, expected: int) -> None:
        process = self._started()
        os.kill(self.leader, number)
        status = self._wait(process)
        if status != expected:
            raise AssertionError(f"nspawn ended with status {status}, not {expected}\n{self.console()}")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            status = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        (self._group / "cgroup.kill").write_text("1")  # an nspawn that was killed leaves processes behind
        with suppress(FileNotFoundError):
            (PROPAGATE / self.name).rmdir()  # and this folder
        wait_for(lambda: remove_group(self._group), END_SECONDS, f"{self._group} is empty")
        self._process = None
        self._notices.forget()
        return status

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this container is off")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def leader(self) -> int:
        """The process on the outside that is process 1 inside."""
        leader = self._notices.leader
        if leader is None:
            raise RuntimeError("this container is off")
        return leader

    def console(self) -> str:
        """Everything that its console has shown, without the colours."""
        text = (self.folder / "console").read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", text)

    # --- commands ---

    def run(
        self, command: str | Sequence[str], *, check: bool = True, timeout: float = COMMAND_SECONDS, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a line for the shell, as root. `text` is what it can read."""
        limited = ["timeout", "--signal=KILL", str(timeout), *words(command)]
        done = subprocess.run(
            self._enter(limited), input=text, capture_output=True, text=True, check=False, timeout=timeout + END_SECONDS
        )
        shown = command if isinstance(command, str) else " ".join(command)
        if done.returncode == -signal.SIGKILL:
            raise NotInTime(f"{shown}: still running after {timeout:.1f} s\n{done.stdout}{done.stderr}")
        if check and done.returncode:
            raise CommandFailed(f"{shown}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    @contextmanager
    def popen(self, command: str | Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """A command that runs beside the test, with pipes to and from it; the end of the block is its end, too."""
        with subprocess.Popen(
            self._enter(words(command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        ) as process:
            try:
                yield process
            finally:
                for child in children_of(process.pid):  # nsenter waits for what it started
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)

    def python(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program with Debian's interpreter and libraries."""
        return self.run(["/usr/bin/python3", "-c", program, *arguments])

    def _enter(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.leader), "-a", "--", *INSIDE, *command]

    # --- files ---

    def put(self, path: str, text: str, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file, and make the folders that it needs."""
        self.run(["install", "-D", "-m", f"{mode:o}", "-o", owner, "-g", owner, "/dev/stdin", path], text=text)

    def read(self, path: str) -> str:
        return self.run(["cat", path]).stdout

    def outside(self, path: str) -> Path:
        """Where this file is, seen from the outside. Absolute links on the way would lead astray."""
        return Path(f"/proc/{self.leader}/root{path}")

    def install_daebus(self) -> None:
        """Put the package of this checkout where Debian's packages put theirs, compiled as they are."""
        target = self.outside(PYTHON_PATH)
        shutil.rmtree(target / "daebus", ignore_errors=True)
        shutil.copytree(ROOT / "daebus", target / "daebus", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Daebus.py", target)
        self.run(f"python3 -m compileall -q {PYTHON_PATH}/daebus {PYTHON_PATH}/Daebus.py")

    # --- systemd ---

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(["systemctl", "--no-pager", *arguments], check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit: show("lamp", "MainPID")."""
        return self.systemctl("show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit: str, *matches: str) -> list[dict[str, Any]]:
        """What the journal has of a unit: one dictionary an entry, oldest first."""
        lines = self.run(["journalctl", "--all", "--output=json", f"--unit={unit}", *matches]).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def wait_active(self, unit: str, timeout: float = 10_000 * MS) -> None:
        self.wait(unit, lambda: self.show(unit, "ActiveState") == "active", timeout)

    def wait_journal(self, unit: str, text: str, timeout: float = 10_000 * MS) -> dict[str, Any]:
        """The first entry of a unit that has this text in its message."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.journal(unit) if text in str(entry["MESSAGE"])]

        return self.wait(unit, found, timeout)[0]

    def wait(self, unit: str, predicate: Callable[[], T], timeout: float = 10_000 * MS) -> T:
        """As `wait_for`; what fails says how the unit is and what it logged."""
        return wait_for(predicate, timeout, lambda: self.status(unit))

    def status(self, unit: str) -> str:
        """How a unit is and what it logged last, for people."""
        return self.systemctl("status", "--full", "--lines=50", unit, check=False).stdout

    # --- Redis, services and sockets ---

    def start_redis(self) -> None:
        """The device's own Redis, on a socket only; returns when it answers. `redis_url` leads to it from outside."""
        self.put("/etc/redis/redis-daebus.conf", REDIS_CONFIGURATION, 0o640, "redis")
        self.systemctl("start", "redis-server@daebus")

    @property
    def redis_url(self) -> str:
        """The device's Redis, for a client out here. It changes with each boot."""
        return f"unix://{self.outside(REDIS_SOCKET)}"

    def put_service(self, name: str, program: str, settings: str = "") -> None:
        """A service in one file and its unit, of the same name; `settings` are more lines for the [Service] part."""
        path = f"/opt/{name}.py"
        self.put(path, textwrap.dedent(program))
        self.put(f"/etc/systemd/system/{name}.service", UNIT.format(program=path) + textwrap.dedent(settings))
        self.systemctl("daemon-reload")

    def ask(self, service: str, action: str, payload: object = None, timeout: float = 5000 * MS) -> Any:
        """What a service answers to a caller inside."""
        return json.loads(self.python(ASK, service, action, json.dumps(payload), str(timeout)).stdout)

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float = 5000 * MS) -> socket.socket:
        """A connection to a port inside, for the test to speak over."""
        made: list[socket.socket | OSError] = []

        def work() -> None:
            try:
                enter_network(self.leader)
                made.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=work, name="in the container's network")
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


def words(command: str | Sequence[str]) -> list[str]:
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


def enter_network(pid: int) -> None:
    """Move the calling thread, and no other, into the network of a process."""
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


# --- control groups ---
# Each container needs a control group of its own, or two systemds would manage the same one.


def own_group() -> Path:
    """The folder of this process's control group, in the unified hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return unified / path.lstrip("/")


def remove_group(group: Path) -> bool:
    """Remove a control group and those in it; False while there are processes in one."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False
    return True
