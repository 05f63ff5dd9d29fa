"""Runs the kiosk example: a Redis if none is there, the service `device`, the service `panel` with its page.

On a desktop it opens the page. Ctrl-C or SIGTERM ends all of it. If one of the services dies, it says so and ends
with status 1.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import IO

from daebus import ConfigurationError
from daebus.redisserver import ServerDidNotStart
from daebus.someredis import some_redis

HERE = Path(__file__).parent
STOP_SECONDS = 12  # a service ends within 10 s even if one of its handlers never does
LOOK_SECONDS = 1.0
FIRST_PORT, LAST_PORT = 8080, 8099
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLEAN = (0, -signal.SIGTERM)  # the latter is a service that we stopped before it was up


class Service:
    """One service script as a child process, in a group of its own: Ctrl-C is for us, who end it in order."""

    def __init__(self, name: str, settings: dict[str, str], log: IO[bytes] | None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / f"{name}.py")],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stderr=log,
            process_group=0,
        )

    def wait(self) -> int:
        return self._process.wait()

    def stop(self) -> int:
        """Its exit status; a service that does not end in time is killed."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def main() -> int:
    arguments = parse()
    events: queue.SimpleQueue[Service | None] = queue.SimpleQueue()  # a service that ended, or None: stop
    end_on_signals(events)
    try:
        with some_redis() as (redis_url, about), tempfile.TemporaryFile() as log:
            port = free_port() if arguments.port is None else checked(arguments.port)
            print(f"kiosk: {about}", flush=True)
            show_page(port, browser=not arguments.no_browser and on_a_desktop())
            settings = {"DAEBUS_REDIS_URL": redis_url, "KIOSK_PORT": str(port)}
            return run_services(settings, log, events, arguments.seconds)
    except (ServerDidNotStart, ConfigurationError) as reason:
        print(f"kiosk: {reason}", file=sys.stderr)
        return 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The kiosk example of Daebus.")
    parser.add_argument("--seconds", type=float, help="end by itself after so long")
    parser.add_argument("--port", type=int, help=f"of the page; the first free one from {FIRST_PORT} on, if not given")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    return parser.parse_args()


def free_port() -> int:
    """The first free one from 8080 on. If none is, the panel will say so."""
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if is_free(port):
            return port
        print(f"kiosk: port {port} is taken", flush=True)
    return FIRST_PORT


def checked(port: int) -> int:
    """The port that was asked for. Raises `ConfigurationError` if it cannot be had."""
    if not 0 < port < 65536:
        raise ConfigurationError(f"{port} is not a port: give a number from 1 to 65535")
    if not is_free(port):
        raise ConfigurationError(f"port {port} is taken: choose another one, or leave --port out")
    return port


def is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that is only just closed counts as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def on_a_desktop() -> bool:
    return sys.stdout.isatty() and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_page(port: int, *, browser: bool) -> None:
    print(f"kiosk: the page is at http://127.0.0.1:{port}/", flush=True)
    if browser:
        threading.Thread(target=open_page, args=(port,), daemon=True).start()


def open_page(port: int) -> None:
    """As soon as the panel listens. If it never does, there is nothing to look at."""
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(f"http://127.0.0.1:{port}/")
            return


def end_on_signals(events: queue.SimpleQueue[Service | None]) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        events.put(None)

    for number in ENDING_SIGNALS:
        signal.signal(number, stop)


def run_services(
    settings: dict[str, str], log: IO[bytes], events: queue.SimpleQueue[Service | None], seconds: float | None
) -> int:
    """Until a signal comes, the time is over, or one of them ends, which none of them should."""
    # On a terminal the panel has the screen, so what the services log goes to a file.
    quiet_log = log if sys.stdout.isatty() else None
    services = [Service(name, settings, quiet_log) for name in ("device", "panel")]
    for service in services:
        threading.Thread(target=report_end, args=(service, events), daemon=True).start()
    ended = next_event(events, seconds)
    statuses = {service.name: service.stop() for service in reversed(services)}
    failed = [f"{name} ended with status {status}" for name, status in statuses.items() if status not in CLEAN]
    if ended is not None:
        failed = failed or [f"{ended.name} was ended, by itself or by somebody else; so the others are ended, too"]
    for sentence in failed:
        print(f"kiosk: {sentence}", file=sys.stderr)
    if failed:
        show_end_of(log)
    return 1 if failed else 0


def report_end(service: Service, events: queue.SimpleQueue[Service | None]) -> None:
    service.wait()
    events.put(service)


def next_event(events: queue.SimpleQueue[Service | None], seconds: float | None) -> Service | None:
    parent, began = os.getppid(), time.monotonic()
    while os.getppid() == parent and (seconds is None or time.monotonic() - began < seconds):
        try:
            return events.get(timeout=LOOK_SECONDS if seconds is None else min(LOOK_SECONDS, seconds))
        except queue.Empty:
            pass
    return None  # the time is over; or who started us is gone, as when a terminal is closed


def show_end_of(log: IO[bytes], length: int = 2000) -> None:
    log.seek(0)
    text = log.read().decode(errors="replace")[-length:].strip()
    if text:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
