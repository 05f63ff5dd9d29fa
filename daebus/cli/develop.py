"""`daebus run`: runs services side by side while they are written, and again when their files change."""

from __future__ import annotations

import os
import select
import selectors
import signal
from time import monotonic

import click

from ..errors import ConfigurationError, RedisUnavailable
from ..redisserver import ServerDidNotStart
from ..someredis import reachable, some_redis
from .arguments import some_redis_option
from .children import STOP_SECONDS, Child, Look
from .output import STDOUT, tell
from .screen import in_colour
from .watching import Watched, broken, changed, near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..settings import RedisSettings
    from .watching import Snapshot

LOOK_SECONDS, SETTLE_SECONDS = 0.5, 0.1
"""Seconds between two looks at the files; and between two when some have just changed, until none do any more."""

PIECE = 4096
"""Bytes that a pipe takes whole or not at all: when poll says that it takes some, that much fits (pipe(7))."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(short_help="Run services while you write them.", epilog="Example: daebus run --reload lamp.py panel/")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--reload", is_flag=True, help="Start a service again when one of its files changes.")
@some_redis_option
@click.pass_context
def run(context: click.Context, files: tuple[str, ...], reload: bool, settings: RedisSettings | None) -> None:
    """Run scripts, or folders with a __main__.py, until Ctrl-C; each line they write has their name before it.

    Where no Redis can be reached, a private one is started for as long as they run. The first service that fails ends
    the others; with --reload it is started again when its files change.
    """
    scripts = [_script(file) for file in files]
    if len(set(scripts)) < len(scripts):
        raise click.UsageError("a script is given twice")
    try:
        with _Signals() as signals, some_redis(settings.url if settings else None, tied=True) as (url, about):
            tell(f"daebus: {about}")
            if url not in (settings.url if settings else None, reachable()):
                tell(f"daebus: in other terminals, for them to find it:  export DAEBUS_REDIS_URL={url}")
            supervisor = Supervisor(scripts, url, signals, reload=reload)
            try:
                status = supervisor.run()
            finally:
                supervisor.close()
    except ServerDidNotStart as error:
        raise RedisUnavailable(f"no Redis can be reached, and none started: {error}") from None
    context.exit(status)


def _script(file: str) -> str:
    path = os.path.abspath(file)
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "__main__.py")):
        raise ConfigurationError(f"{file} has no __main__.py: name a script, or a folder that has one")
    return path


def names_of(scripts: list[str]) -> list[str]:
    """Return what to call each script: its name if no other has it, else its path."""
    short = [os.path.splitext(os.path.basename(script))[0] for script in scripts]
    return [name if short.count(name) == 1 else script for name, script in zip(short, scripts, strict=True)]


class _Signals:
    """While it is open, signals that would end us can be read from `fileno()`, and do nothing else."""

    def __enter__(self) -> _Signals:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        return self._read

    def take(self) -> int:
        """Return how many have come."""
        try:
            return sum(number in STOP_SIGNALS for number in os.read(self._read, 100))
        except BlockingIOError:
            return 0


class Runner:
    """One of the services: its script, its files, and the child that runs it now, if one does."""

    def __init__(self, name: str, script: str, look: Look, watched: Watched | None) -> None:
        self.name, self.script, self.look, self.watched = name, script, look, watched
        self.child: Child | None = None
        self.again = False  # whether it is to be started when its child has ended
        self.seen: Snapshot = watched.snapshot() if watched else {}
        self.changed: Snapshot | None = None  # what was seen last, while it is not what the child runs
        if watched and watched.cut:
            tell(f"daebus: {watched.folder} has very many files; not all of them are looked at")

    def look_at_files(self) -> list[str] | None:
        """Return the files that have changed, once they have settled; None if there are none."""
        if self.watched is None:
            return None
        now = self.watched.snapshot()
        settled, self.changed = now == self.changed, now if now != self.seen else None
        if self.changed is None or not settled:
            return None
        paths = changed(self.seen, now)
        self.seen, self.changed = now, None
        return paths


class Supervisor:
    """Starts the services, shows their lines, and ends with them. All of it is on one thread."""

    def __init__(self, scripts: list[str], redis_url: str, signals: _Signals, *, reload: bool) -> None:
        names = names_of(scripts)
        width = max(map(len, names))
        colour = in_colour()
        self._runners = [
            Runner(name, script, Look(name, width, number, colour=colour), Watched(script, scripts) if reload else None)
            for number, (name, script) in enumerate(zip(names, scripts, strict=True))
        ]
        self._redis_url, self._signals, self._reload = redis_url, signals, reload
        self._stopping = 0  # how often we were told to
        self._end: float | None = None  # when all of them must have ended, then
        self._failure = 0  # the first status that was not 0
        self._unread = False  # whether nobody reads our output any more
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)

    def run(self) -> int:
        """Run until told to stop, or until nothing is left to run; return the first failure, or 0."""
        for runner in self._runners:
            self._start(runner)
        next_look = monotonic() + LOOK_SECONDS
        while any(runner.child for runner in self._runners) or (self._reload and not self._stopping):
            for key, _events in self._selector.select(self._patience(next_look)):
                self._serve(key)
            self._tell_of_slow()
            self._kill_late()
            if self._reload and not self._stopping and monotonic() >= next_look:
                next_look = monotonic() + self._look()
        if self._unread:
            raise BrokenPipeError
        return self._failure

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for runner in self._runners:
            if runner.child is not None:
                runner.child.close()
        self._selector.close()

    def _patience(self, next_look: float) -> float | None:
        children = [runner.child for runner in self._runners if runner.child is not None]
        times = [when for child in children if (when := child.slow_at or child.deadline) is not None]
        if self._reload and not self._stopping:
            times.append(next_look)
        return max(0.0, min(times) - monotonic()) if times else None

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._signals:
            self._take_signals()
            return
        runner, child = key.data
        if runner.child is not child:
            return  # it ended a moment ago
        if key.fd == child.output:
            self._show(runner, child)
        else:
            self._take_leave(runner, child)

    def _take_signals(self) -> None:
        count = self._signals.take()
        if count:
            self._stop()
            if self._stopping > 1:
                self._kill_all()

    def _stop(self) -> None:
        """Ask all of them to end: at the first call; from then on who asks is in a hurry."""
        self._stopping += 1
        self._end = self._end or monotonic() + STOP_SECONDS
        for runner in reversed(self._runners):
            runner.again = False
            if runner.child is not None:
                runner.child.stop()

    def _kill_all(self) -> None:
        for runner in self._runners:
            if runner.child is not None:
                runner.child.kill()

    def _tell_of_slow(self) -> None:
        """Say who is waited for: a handler that hangs, say, holds up its service's end."""
        for runner in self._runners:
            child = runner.child
            if child is not None and child.slow_at is not None and monotonic() >= child.slow_at:
                child.slow_at = None
                kills = "; Ctrl-C again kills it" if self._stopping else ""
                limit = f"{STOP_SECONDS:g} s at most{kills}"
                tell(f"daebus: waiting for {runner.name}, which still does something, {limit}")

    def _kill_late(self) -> None:
        for runner in self._runners:
            child = runner.child
            if child is not None and child.deadline is not None and monotonic() >= child.deadline:
                tell(f"daebus: {runner.name} does not end; it is killed")
                child.kill()
                child.deadline = None

    # --- one service ---

    def _start(self, runner: Runner) -> None:
        runner.again = False
        child = runner.child = Child(runner.script, self._redis_url)
        for descriptor in (child.output, child.ended):
            self._selector.register(descriptor, selectors.EVENT_READ, (runner, child))

    def _show(self, runner: Runner, child: Child) -> bool:
        """Show what it has said; False if there is no more for now, or ever."""
        data = child.read()
        if data is None:
            return False
        for line in child.lines.add(data):
            self._put(runner.look.dressed(line))
        if not data and child.output in self._selector.get_map():
            self._selector.unregister(child.output)
        return bool(data)

    def _take_leave(self, runner: Runner, child: Child) -> None:
        status, asked = child.take_leave(), child.deadline is not None
        while self._show(runner, child):
            pass
        for line in child.lines.add(b""):
            self._put(runner.look.dressed(line))
        for descriptor in {child.output, child.ended} & set(self._selector.get_map()):
            self._selector.unregister(descriptor)
        child.close()
        runner.child = None
        self._after(runner, status, asked)

    def _after(self, runner: Runner, status: int, asked: bool) -> None:
        """Decide what follows the end of a service."""
        if runner.again:
            self._start(runner)
            return
        if asked and status == 128 + signal.SIGTERM:  # it was told so before it was up
            status = 0
        if not self._stopping:
            further = "; it is started again when a file changes" if self._reload else ""
            tell(f"daebus: {runner.name} ended with status {status}{further}")
        if status and (self._stopping or not self._reload):
            self._failure = self._failure or status
            if not self._stopping:
                self._stop()

    # --- files ---

    def _look(self) -> float:
        """Look at the files; return in how many seconds to do so again."""
        for runner in self._runners:
            paths = runner.look_at_files()
            if paths is not None:
                self._renew(runner, paths)
        return SETTLE_SECONDS if any(runner.changed is not None for runner in self._runners) else LOOK_SECONDS

    def _renew(self, runner: Runner, paths: list[str]) -> None:
        if wrong := broken(paths):
            goes_on = f"{runner.name} goes on as it was" if runner.child else f"{runner.name} waits"
            tell(f"daebus: {wrong}; {goes_on} until that is mended")
            return
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        tell(f"daebus: {near(paths[0])}{more} changed; {runner.name} is started again")
        if runner.child is None:
            self._start(runner)
        else:
            runner.again = True
            runner.child.stop()

    # --- output ---

    def _put(self, data: bytes) -> None:
        """Write a line, unless nobody reads: then all of them end. Signals are heard while the reader is slow."""
        for start in range(0, len(data), PIECE):
            if not self._wait_for_reader():
                return
            try:
                os.write(STDOUT, data[start : start + PIECE])
            except BrokenPipeError:
                self._nobody_reads()

    def _wait_for_reader(self) -> bool:
        poll = select.poll()
        poll.register(STDOUT, select.POLLOUT)
        poll.register(self._signals, select.POLLIN)
        while not self._unread and self._stopping < 2 and (self._end is None or monotonic() < self._end):
            ready = dict(poll.poll(1000))
            if ready.get(STDOUT, 0) & select.POLLERR:
                self._nobody_reads()
            elif STDOUT in ready:
                return True
            self._take_signals()
        return False

    def _nobody_reads(self) -> None:
        if not self._unread:
            self._unread = True
            self._stop()
