"""`daebus.modules.blueprint` of the older package."""

from ..registry import Blueprint

__all__ = ["Blueprint"]
