"""Which files belong to a script, and which of them have changed: what `daebus run --reload` looks at."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Snapshot = dict[str, tuple[int, int]]

KINDS = (".py", ".html", ".css", ".js", ".toml")
"""Ends of the names of files that are looked at. A service may write files of other kinds itself."""

SKIPPED = ("__pycache__", "node_modules", "build", "dist")
TESTS = ("test_", "conftest.py")
MOST_FILES = 5000
"""Files and folders that are looked at, so that a script in a home folder does not have us read all of it."""


class Watched:
    """The files of one script: itself, and what is in its folder and below, but not the other scripts there."""

    def __init__(self, script: str, others: list[str]) -> None:
        self.folder = script if os.path.isdir(script) else os.path.dirname(script)
        self._script, self._others = script, {other for other in others if other != script}
        self.cut = False  # whether there are more files than are looked at

    def snapshot(self) -> Snapshot:
        """Return when each file was changed (nanoseconds), and its size."""
        found: Snapshot = {}
        self.cut = False
        for count, path in enumerate(self._paths()):
            if count == MOST_FILES:
                self.cut = True
                break
            try:
                status = os.stat(path)
            except OSError:  # it is gone again
                continue
            found[path] = (status.st_mtime_ns, status.st_size)
        return found

    def _paths(self) -> Iterator[str]:
        if os.path.isfile(self._script):
            yield self._script
        for folder, names, files in os.walk(self.folder):
            names[:] = [name for name in sorted(names) if self._is_ours(folder, name)]
            for name in files:
                path = os.path.join(folder, name)
                if name.endswith(KINDS) and not name.startswith(TESTS) and path not in {*self._others, self._script}:
                    yield path

    def _is_ours(self, folder: str, name: str) -> bool:
        path = os.path.join(folder, name)
        if name.startswith(".") or name in SKIPPED or path in self._others:
            return False
        return not os.path.exists(os.path.join(path, "pyvenv.cfg"))


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the files that came, went or were written."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def broken(paths: list[str]) -> str | None:
    """Return what is wrong with the first of these files that is Python and cannot be compiled."""
    import warnings

    for path in paths:
        if not path.endswith(".py") or not os.path.exists(path):
            continue
        try:
            with warnings.catch_warnings(), open(path, "rb") as file:
                warnings.simplefilter("ignore")
                compile(file.read(), path, "exec", dont_inherit=True)
        except SyntaxError as error:
            return f"{near(path)}:{error.lineno}: {error.msg}"
        except (OSError, ValueError) as error:  # it cannot be read; it has a zero byte in it
            return f"{near(path)}: {error}"
    return None


def near(path: str) -> str:
    """Return a path as a person would write it: from here if it is below."""
    found = os.path.relpath(path)
    return path if found.startswith("..") else found
