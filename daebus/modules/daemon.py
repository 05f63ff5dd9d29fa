"""`daebus.modules.daemon` of the older package."""

from ..app import Daebus

__all__ = ["Daebus"]
