"""The functions around handlers: before them, after them, and for their errors. They serve actions and routes."""

from __future__ import annotations

from .errors import DaebusError, HttpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .dispatch import Call
    from .registry import Record, Registry


class Hooks:
    """What a service declares with `app.before`, `app.after` and `app.error`."""

    def __init__(self, before: list[Record], after: list[Record], errors: list[Record]) -> None:
        self._before = [record.function for record in before]
        self._after = [record.function for record in after]
        self._errors = {record.subject: _taking_error(record.function) for record in errors}

    def run(self, call: Call) -> Any:
        """Run a call's handler, unless a function before it has the answer already."""
        if call.work.hooked:
            for function in self._before:
                result = function()
                if result is not None:
                    return result
        return call.work.function(*call.arguments)

    def after(self, answer: Any) -> Any:
        """Return the answer as the functions after the handler leave it."""
        for function in self._after:
            changed = function(answer)
            answer = answer if changed is None else changed
        return answer

    def for_error(self, error: BaseException, call: Call) -> Callable[[BaseException], Any] | None:
        """Return the function for an error: by its class, or (in a route) by its status; for an `HttpError` the latter
        is the closer one."""
        if call.response is None or not call.work.hooked:
            return None
        status = error.http_status if isinstance(error, DaebusError) else 0
        by_class = next((self._errors[cls] for cls in type(error).__mro__ if cls in self._errors), None)
        by_status = self._errors.get(status) if call.response.streams else None
        if by_class or by_status:
            call.response.begin_error(error)
        return by_status or by_class if isinstance(error, HttpError) else by_class or by_status


def hooks_of(registry: Registry) -> Hooks | None:
    """Return the hooks that are declared, None if there are none."""
    before, after, errors = (list(registry.records(kind)) for kind in ("before", "after", "error"))
    return Hooks(before, after, errors) if before or after or errors else None


def _taking_error(function: Callable[..., Any]) -> Callable[[BaseException], Any]:
    code = getattr(function, "__code__", None)
    bound = getattr(function, "__self__", None) is not None
    if code is not None and code.co_argcount - bound == 0:
        return lambda _error: function()
    return function
