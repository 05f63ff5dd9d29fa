"""The channels that somebody hears, as Redis lists them."""

from __future__ import annotations

from ..names import MARKER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..settings import RedisSettings

NOT_OURS = ("caller:", "workflow:", "__")
AT_ONCE = 500


def heard(settings: RedisSettings) -> list[tuple[str, int]]:
    """Return each channel with how many hear it; those of callers, and Redis' and Daebus' own, apart.

    Globs are not among them: Redis does not list those. Raises `RedisUnavailable` or `RedisRefused`.
    """
    from ..hub import command_now

    listed: list[bytes] = command_now(settings, "PUBSUB", "CHANNELS")
    names = sorted(name for name in (entry.decode(errors="replace") for entry in listed) if _is_shown(name))
    found: list[tuple[str, int]] = []
    for start in range(0, len(names), AT_ONCE):
        counts: list[Any] = command_now(settings, "PUBSUB", "NUMSUB", *names[start : start + AT_ONCE])
        found += zip((name.decode(errors="replace") for name in counts[::2]), counts[1::2], strict=True)
    return [(name, number) for name, number in found if number]


def _is_shown(name: str) -> bool:
    return not name.startswith(NOT_OURS) and not name.endswith(MARKER)
