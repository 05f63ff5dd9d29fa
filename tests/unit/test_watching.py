"""Which files `daebus run --reload` looks at, and how the lines of services look."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

pytest.importorskip("click")

from daebus.cli import watching
from daebus.cli.children import LONGEST_LINE, Child, Lines, Look
from daebus.cli.develop import names_of
from daebus.cli.watching import Watched, broken, changed


def names(script: Path, *others: Path) -> list[str]:
    folder = script if script.is_dir() else script.parent
    found = Watched(str(script), [str(script), *map(str, others)]).snapshot()
    return sorted(str(Path(path).relative_to(folder)) for path in found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "lamp.py", "panel.py", "both.py", "test_lamp.py", "conftest.py", "data.json", "page/index.html", "page/a.css",
        ".git/x.py", "__pycache__/x.py", "venv/pyvenv.cfg", "venv/x.py", "door/__main__.py", "door/part.py",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return tmp_path


def test_the_files_of_a_script(folder: Path) -> None:
    assert names(folder / "lamp.py", folder / "panel.py", folder / "door") == [
        "both.py", "lamp.py", "page/a.css", "page/index.html",
    ]  # fmt: skip


def test_the_files_of_a_folder(folder: Path) -> None:
    assert names(folder / "door", folder / "lamp.py") == ["__main__.py", "part.py"]


def test_a_script_counts_whatever_its_name(folder: Path) -> None:
    assert "test_lamp.py" in names(folder / "test_lamp.py")


def test_not_all_of_a_home_folder_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_FILES", 3)
    watched = Watched(str(folder / "lamp.py"), [])
    assert (len(watched.snapshot()), watched.cut) == (3, True)
    assert str(folder / "lamp.py") in watched.snapshot()


def test_what_has_changed() -> None:
    before = {"same": (1, 1), "gone": (1, 1), "newer": (1, 1), "longer": (1, 1)}
    after = {"same": (1, 1), "newer": (2, 1), "longer": (1, 2), "new": (1, 1)}
    assert changed(before, after) == ["gone", "longer", "new", "newer"]
    assert changed(after, after) == []


def test_what_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is anybody's business here: no warning, no page, no file that is gone."""
    monkeypatch.chdir(tmp_path)
    files = {"good.py": b"1 is 1\n", "bad.py": b"\nx = (\n", "null.py": b"\0", "page.html": b"x = ("}
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    assert broken([str(tmp_path / name) for name in ("good.py", "page.html", "gone.py")]) is None
    assert str(broken([str(tmp_path / "good.py"), str(tmp_path / "bad.py")])).startswith("bad.py:2: ")
    assert str(broken([str(tmp_path / "null.py")])).startswith("null.py")


def test_lines_are_whole() -> None:
    lines = Lines()
    assert list(lines.add(b"a\nb")) == [b"a"]
    assert list(lines.add(b"c\n\nd")) == [b"bc", b""]
    assert list(lines.add(b"")) == [b"d"]
    assert list(lines.add(b"")) == []
    assert list(lines.add(b"x" * LONGEST_LINE)) == [b"x" * LONGEST_LINE]


@pytest.mark.parametrize(
    ("line", "plain", "coloured"),
    [
        (b"hello\xff", "hello\ufffd", "hello\ufffd"),
        (
            b"2026-01-02T03:04:05+0000 WARNING hot",
            "2026-01-02T03:04:05+0000 WARNING hot",
            "\x1b[2m03:04:05\x1b[0m \x1b[33mhot\x1b[0m",
        ),
        (
            b"2026-01-02T03:04:05+0000 INFO      | more",
            "2026-01-02T03:04:05+0000 INFO      | more",
            "\x1b[2m03:04:05\x1b[0m \x1b[0m  | more\x1b[0m",
        ),
    ],
)
def test_how_a_line_looks(line: bytes, plain: str, coloured: str) -> None:
    assert Look("lamp", 5, 0, colour=False).dressed(line).decode() == f"lamp  | {plain}\n"
    assert Look("lamp", 5, 8, colour=True).dressed(line).decode() == f"\x1b[36mlamp  | \x1b[0m{coloured}\n"


def test_names_tell_scripts_apart() -> None:
    assert names_of(["/a/lamp.py", "/b/panel"]) == ["lamp", "panel"]
    assert names_of(["/a/main.py", "/b/main.py", "/c/x.py"]) == ["/a/main.py", "/b/main.py", "x"]


def test_a_child_that_has_ended_keeps_its_number_until_leave_is_taken_of_it(tmp_path: Path) -> None:
    """What is left of its group is killed by that number, which must not be somebody else's by then."""
    script = tmp_path / "ends.py"
    script.write_text("raise SystemExit(7)\n")
    child = Child(str(script), "redis://nowhere")
    try:
        assert select.select([child.ended], [], [], 10)[0]
        child.stop()
        assert Path(f"/proc/{child._process.pid}").exists()
        assert child.take_leave() == 7
    finally:
        child.close()
