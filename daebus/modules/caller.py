"""`daebus.modules.caller` of the older package."""

from ..client import DaebusCaller

__all__ = ["DaebusCaller"]
