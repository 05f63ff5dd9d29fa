"""`daebus.modules.http` of the older package: its JSON helpers."""

from ..jsontext import DaebusJSONEncoder, make_json_serializable

__all__ = ["DaebusJSONEncoder", "make_json_serializable"]
