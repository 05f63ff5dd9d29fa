"""The command's manual page and completions, as the package has them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")

import click
from manual import completions, page, roff

from daebus import __version__
from daebus.cli import COMMANDS, commands

ROOT = Path(__file__).parent.parent.parent
DOCUMENTATION = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made() -> str:
    return page.manual(commands, DOCUMENTATION, __version__, "2026-01-02")


def test_each_command_has_its_part(made: str) -> None:
    for name in COMMANDS:
        assert f"\n.SS daebus {name}\n" in made
    assert made.startswith('.TH DAEBUS 1 "2026-01-02" "Daebus ')
    assert "\n\\fB\\-\\-timeout\\fR \\fISECONDS\\fR\nHow long all of it may take" in made


def test_sections_come_from_the_documentation(made: str) -> None:
    for title in page.SECTIONS:
        assert f"\n.SH {title.upper()}\n" in made
    assert "\n.TP\n\\fB130\\fR\nCtrl\\-C, or" in made
    with pytest.raises(LookupError, match="no section 'Payloads'"):
        page.manual(commands, "", __version__, "")


@pytest.mark.parametrize("checker", [("groff", "-man", "-Tutf8", "-ww", "-z"), ("mandoc", "-Tlint")])
def test_checkers_have_nothing_to_say(made: str, checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")
    done = subprocess.run(checker, input=made, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "longer than 80 bytes" not in line]
    assert (done.returncode, said) == (0, [])


def test_groups_and_hidden_commands() -> None:
    @click.group()
    def group() -> None:
        """Do."""

    @group.group()
    def inner() -> None:
        """Do more."""

    inner.add_command(click.Command("leaf", help="Is a leaf."))
    group.add_command(click.Command("secret", hidden=True))
    sections = "".join(f"## {title}\n\ntext\n" for title in page.SECTIONS)
    found = page.manual(group, sections, "1", "")
    assert "\n.SS daebus inner leaf\nIs a leaf.\n" in found
    assert "secret" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `--b` **c** [d](e)", "a \\fB\\-\\-b\\fR \\fBc\\fR d"),
        ("[`x`](y)'s \\", "\\fBx\\fR\\(aqs \\e"),
        (".x", "\\&.x"),
        ("\u00fc", "\\[u00FC]"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert roff.paragraph(text) == [expected]


def test_no_line_of_a_paragraph_is_a_request() -> None:
    lines = roff.paragraph("word " * 15 + ".TH x 'y")
    assert len(lines) == 2
    assert all(len(line) <= 80 and not line.startswith((".", "'")) for line in lines)


def test_blocks() -> None:
    text = "One\ntwo.\n\n- a\n  b - c\n- d\n\n```text\n.a\n\nb\n```\n\n"
    text += "| x | y | z |\n|---|---|---|\n| `k` | v | w |\n| 1 | u | |\n"
    assert roff.body(text) == [
        ".PP", "One two.",
        ".IP \\[u2022] 2", "a b \\- c", ".IP \\[u2022] 2", "d",
        ".PP", ".nf", ".RS", "\\&.a", "", "b", ".RE", ".fi",
        ".TP", "\\fBk\\fR", "v; w",
        ".TP", "\\fB1\\fR", "u",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", completions.FILES)
def test_completions_ask_the_command(shell: str) -> None:
    text = completions.completion(shell, commands)
    assert f"_DAEBUS_COMPLETE={shell}_complete" in text
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=text, text=True, check=True)


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(completions.completion("bash", commands))
    command = tmp_path / "daebus"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m daebus "$@"\n')
    command.chmod(0o755)
    words = "COMP_WORDS=(daebus ca) COMP_CWORD=1; _daebus_completion daebus; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", f"source {tmp_path}/completion; {words}"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("call\n", "")


def test_zsh_completes_at_the_first_tab() -> None:
    """Whichever version of click made the file."""
    text = completions.completion("zsh", commands)
    assert text.startswith("#compdef daebus\n")
    assert text.count("loadautofunc") == 1
    assert len(re.findall("(?m)^ *compdef ", text)) == 1


def test_the_script_writes_all_of_it(tmp_path: Path) -> None:
    """Twice the same, at whatever time."""
    for folder in ("one", "two"):
        subprocess.run(
            [ROOT / "packaging" / "make-man", tmp_path / folder],
            env={"PYTHON": sys.executable, "SOURCE_DATE_EPOCH": "86400", "PATH": "/usr/bin:/bin"},
            check=True,
        )
    names = {"daebus.1", *completions.FILES.values()}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    assert '"1970-01-02"' in (tmp_path / "one" / "daebus.1").read_text()
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
