"""`from Daebus import ...`: the same objects as `from daebus import ...`, under the name's other spelling."""

import daebus

__all__ = daebus.__all__


def __getattr__(name: str) -> object:
    return getattr(daebus, name)
