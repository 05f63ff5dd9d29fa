"""`DaebusWorkflow`: begins a workflow of a service, and hears what it says until it ends."""

from __future__ import annotations

from threading import Event, Lock, Thread
from time import monotonic

from .context import current_span
from .errors import (
    BadMessage,
    DaebusError,
    RedisRefused,
    RedisUnavailable,
    RequestTimeout,
    ServiceUnavailable,
    error_from_wire,
)
from .jsontext import loads
from .ledger import was_delivered
from .link import ReplyError, new_id, open_pair, way_out
from .log import logger
from .message import encode_workflow_message
from .resp import count, deliver, publish
from .schedule import backoff
from .target import Target, channel_of_ours, check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from .link import Link, Pair

LOOK = 0.2
"""Seconds between two looks whether `unsubscribe` was called."""

SEND_LIMIT = 2.0
"""Seconds within which Redis must confirm a message."""


class DaebusWorkflow(Target):
    """One workflow at a time with one service; `timeout` in seconds bounds it as a whole.

    What the workflow says is given to the callback of `start`, on a thread of this object. `wait` waits for the end.
    """

    def __init__(
        self,
        target_service: str,
        redis_host: str | None = None,
        redis_port: int | None = None,
        timeout: float = 60,
        *,
        redis_url: str | None = None,
    ) -> None:
        super().__init__(target_service, redis_host, redis_port, timeout, redis_url=redis_url)
        self.error: DaebusError | None = None
        self._pair: Pair | None = None
        self._lock = Lock()  # for sending
        self._ended = Event()
        self._workflow_id = ""
        self._thread: Thread | None = None

    def start(
        self, workflow_name: str, payload: Any, callback: Callable[[Any], object], timeout: float | None = None
    ) -> str:
        """Begin a workflow; return its id. `callback` gets each payload that it sends.

        Raises `ServiceUnavailable`, `RedisUnavailable`, `Unserialisable`, `TooLarge`.
        """
        self.unsubscribe()
        deadline = monotonic() + (self.timeout if timeout is None else check_timeout(timeout))
        self._workflow_id = new_id()
        channel = channel_of_ours("workflow")
        start = {"workflow": workflow_name, "reply_to": channel, "service": self.target_service}
        trace, parent = current_span()
        start |= {key: text for key, text in (("trace", trace), ("parent", parent)) if text is not None}
        data = encode_workflow_message(payload, self._workflow_id, **start)
        self._ended, self.error = Event(), None
        self._pair = open_pair(self._settings, "daebus:workflow", [channel], [], deadline)
        try:
            self._deliver(data)
        except DaebusError:
            self._pair.close()
            raise
        arguments = (self._ended, channel, callback, deadline)
        self._thread = Thread(target=self._listen, args=arguments, name="daebus-workflow", daemon=True)
        self._thread.start()
        return self._workflow_id

    def send(self, payload: Any) -> None:
        """Send the workflow a further message. Raises as `start` does. Any thread."""
        if not self._workflow_id or self._ended.is_set():
            raise self._is_closed()
        self._deliver(encode_workflow_message(payload, self._workflow_id))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; True if it has come. Raises the error that ended the workflow."""
        ended = self._ended.wait(seconds)
        if self.error is not None:
            raise self.error
        return ended

    def unsubscribe(self) -> None:
        """Hear no more of the workflow; returns when its thread has ended (unless called on that)."""
        self._ended.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.join(LOOK * 2)

    close = unsubscribe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.unsubscribe()

    def _deliver(self, data: bytes) -> None:
        channel = f"{self.target_service}.workflows".encode()
        with self._lock:
            if self._pair is None:
                raise RedisUnavailable("the connection to Redis was lost")
            try:
                result = _deliver(self._pair.publishing, channel, data, monotonic() + SEND_LIMIT)
            except TimeoutError:
                raise RedisUnavailable(f"Redis at {self._settings} does not answer") from None
        if isinstance(result, ReplyError):
            raise RedisRefused(f"Redis refuses this: {result}{way_out(result, 'calls')}")
        if not was_delivered(result):
            raise self._explained(ServiceUnavailable())

    # --- on the thread ---

    def _listen(self, ended: Event, channel: str, callback: Callable[[Any], object], deadline: float) -> None:
        try:
            while not ended.is_set():
                self._hear(ended, channel, callback, deadline)
        except DaebusError as error:
            self.error = error
        except Exception:  # noqa: BLE001 - the last stop of the thread: the user's callback may raise anything
            logger.error("The callback of workflow %s failed", self._workflow_id, exc_info=True)
        finally:
            ended.set()
            with self._lock:  # not under the feet of a `send` that waits for its confirmation
                if self._pair is not None:
                    self._pair.close()

    def _hear(self, ended: Event, channel: str, callback: Callable[[Any], object], deadline: float) -> None:
        if monotonic() >= deadline:
            raise RequestTimeout(f"The workflow of {self.target_service!r} did not end in time")
        try:
            replies = self._pair.subscribed.wait(min(deadline, monotonic() + LOOK)) if self._pair else []
        except TimeoutError:
            return
        except RedisUnavailable:
            self._connect_again(ended, channel, deadline)
            return
        for reply in replies:
            if isinstance(reply, list) and reply[0] == b"message" and not ended.is_set():
                self._take(ended, reply[2], callback)

    def _take(self, ended: Event, data: bytes, callback: Callable[[Any], object]) -> None:
        try:
            part = loads(data)
        except BadMessage:
            return
        if not isinstance(part, dict) or part.get("workflow_id") != self._workflow_id:
            return
        payload = part.get("payload")
        if part.get("status") == "error":
            text = payload.get("error") if isinstance(payload, dict) else None
            raise error_from_wire(str(text), part.get("code"), None)
        callback(payload)
        if part.get("final"):
            ended.set()

    def _connect_again(self, ended: Event, channel: str, deadline: float) -> None:
        attempt = 0
        while not ended.is_set() and monotonic() < deadline:
            try:
                pair = open_pair(self._settings, "daebus:workflow", [channel], [], deadline)
            except RedisUnavailable:
                attempt += 1
                ended.wait(backoff(attempt, 0.05, 1.0))
                continue
            with self._lock:
                old, self._pair = self._pair, pair
            if old is not None:
                old.close()
            return


def _deliver(link: Link, channel: bytes, data: bytes, deadline: float) -> Any:
    """Publish if somebody is subscribed; return what Redis says, for `was_delivered`, or its refusal.

    Raises `TimeoutError` at the deadline (monotonic seconds), or `RedisUnavailable`.
    """
    replies = link.ask(deadline, *deliver(channel, data))
    refusal = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
    if refusal is None or not str(refusal).startswith("OOM"):
        return refusal or replies[-1]
    counted = link.ask(deadline, count(channel))[0]
    if isinstance(counted, ReplyError) or not counted[1]:
        return counted if isinstance(counted, ReplyError) else 0
    return link.ask(deadline, publish(channel, data))[0]
