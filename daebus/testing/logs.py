"""What a service under test has logged."""

from __future__ import annotations

import logging

from ..context import current
from ..log import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Logged:
    """One line of the log, with the fields that the journal would have."""

    __slots__ = ("action", "error_id", "exception", "level", "record", "text", "trace")

    def __init__(self, record: logging.LogRecord) -> None:
        self.record = record
        self.level = record.levelname
        self.text = record.getMessage()
        self.error_id: str | None = getattr(record, "daebus_error_id", None)
        self.exception: BaseException | None = record.exc_info[1] if record.exc_info else None
        call: Any = current.get()
        request = call.request if call is not None else None
        self.action: str | None = call.work.name if call is not None else None
        self.trace: str | None = request.trace if request is not None else None

    def __repr__(self) -> str:
        return f"<{self.level} {self.text}>"


class Keeper(logging.Handler):
    """Keeps what is logged while a test client is open."""

    def __init__(self, lines: list[Logged]) -> None:
        super().__init__()
        self._lines = lines
        self._level: int | None = None  # before

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._lines.append(Logged(record))

    def begin(self, *, debug: bool) -> None:
        """Hear what all loggers pass on to the root."""
        logging.getLogger().addHandler(self)
        self._level = logger.level
        logger.setLevel(logging.DEBUG if debug else logging.INFO)

    def end(self) -> None:
        """Hear nothing more."""
        if self._level is not None:
            logging.getLogger().removeHandler(self)
            logger.setLevel(self._level)
            self._level = None
