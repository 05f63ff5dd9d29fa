"""What systemd is told (sd_notify), by the main process only."""

from __future__ import annotations

import os

from .log import logger


class Notifier:
    """Sends states to systemd; without `NOTIFY_SOCKET` it does nothing. Never raises, never waits."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._notifier = None
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify

            self._notifier = sdnotify.SystemdNotifier()
            if self._notifier.socket is not None:
                self._notifier.socket.setblocking(False)

    def tell(self, *states: str) -> None:
        """Send states such as `READY=1`, in one datagram."""
        if self._notifier is None or os.getpid() != self._pid:
            return
        try:
            text = "\n".join(states)
            self._notifier.notify(text.encode("utf-8", "backslashreplace").decode("latin-1"))  # as which it is sent
        except OSError as error:
            logger.debug("systemd could not be told %s: %s", states, error)
