"""`packaging/make-man FOLDER`: writes the manual page and the completions into a folder."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from daebus import __version__
from daebus.cli import commands

from .completions import FILES, completion
from .page import manual

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "command.md"


def main(folder: Path) -> None:
    """Write the files. The date is that of SOURCE_DATE_EPOCH, if it is set, so that each build has the same."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = (datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)).strftime("%Y-%m-%d")
    folder.mkdir(parents=True, exist_ok=True)
    page = manual(commands, DOCUMENTATION.read_text(encoding="utf-8"), __version__, date)
    (folder / "daebus.1").write_text(page, encoding="utf-8")
    for shell, name in FILES.items():
        (folder / name).write_text(completion(shell, commands), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
