"""From text, and the little of Markdown that the documentation needs, to the language of manual pages. Pure."""

from __future__ import annotations

import re
from textwrap import wrap

ESCAPED = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}
WIDTH = 80
BULLET = ".IP \\[u2022] 2"
INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\[(?P<text>[^\]]+)\]\([^)]*\)")


def plain(text: str) -> str:
    """Return text that stands for itself."""
    return "".join(ESCAPED.get(sign, sign if sign.isascii() else f"\\[u{ord(sign):04X}]") for sign in text)


def bold(text: str) -> str:
    """Return text in bold."""
    return f"\\fB{plain(text)}\\fR"


def paragraph(text: str) -> list[str]:
    """Return the lines of a paragraph of Markdown."""
    made = wrap(inline(text), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_safe(line) for line in made]


def inline(text: str) -> str:
    """Return words of Markdown: code and strong ones are bold, links are their text."""
    made, last = [], 0
    for found in INLINE.finditer(text):
        made += [plain(text[last : found.start()]), _inline(found)]
        last = found.end()
    return "".join([*made, plain(text[last:])]).strip()


def _inline(found: re.Match[str]) -> str:
    return inline(found["text"]) if found["text"] else bold(found["code"] or found["strong"])


def _safe(line: str) -> str:
    """A line that begins with a dot would be a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def item(tag: str, text: str) -> list[str]:
    """Return an entry of a list: what it is about, made already, and a paragraph of Markdown."""
    return [".TP", _safe(tag), *paragraph(text)]


def verbatim(lines: list[str]) -> list[str]:
    """Return lines that are shown as they are."""
    return [".PP", ".nf", ".RS", *[_safe(plain(line)) for line in lines], ".RE", ".fi"]


def section(markdown: str, title: str) -> str:
    """Return what a page has under a title of the second level. Raises `LookupError` if it has none such."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", markdown, re.DOTALL | re.MULTILINE)
    if found is None:
        raise LookupError(f"the documentation has no section {title!r}")
    return found[1]


def body(markdown: str) -> list[str]:
    """Return paragraphs, lists, tables and blocks of code. The titles of a table's columns are left out."""
    lines: list[str] = []
    for block in _blocks(markdown):
        if block[0].startswith("```"):
            lines += verbatim(block[1:-1])
        elif block[0].startswith("- "):
            lines += [line for entry in _entries(block) for line in (BULLET, *paragraph(entry))]
        elif block[0].startswith("|"):
            lines += [line for row in block[2:] for line in _row(row)]
        else:
            lines += [".PP", *paragraph(" ".join(block))]
    return lines


def _entries(block: list[str]) -> list[str]:
    """Return the entries of a list, each as one line."""
    entries: list[str] = []
    for line in block:
        if line.startswith("- "):
            entries.append(line[2:])
        else:
            entries[-1] += f" {line.strip()}"
    return entries


def _row(row: str) -> list[str]:
    first, *others = [cell.strip() for cell in row.strip().strip("|").split("|")]
    return item(inline(first) if "`" in first else bold(first), "; ".join(filter(None, others)))


def _blocks(markdown: str) -> list[list[str]]:
    """Return the blocks of lines between empty lines; those of a block of code stay together."""
    blocks: list[list[str]] = [[]]
    inside = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = not inside
        if line.strip() or inside:
            blocks[-1].append(line)
        else:
            blocks.append([])
    return [block for block in blocks if block]
