"""`daebus.modules.http` of the older package: HTTP, and its JSON helpers."""

from ..exchange import HttpRequest, HttpResponse
from ..http import DaebusHttp
from ..jsontext import DaebusJSONEncoder, make_json_serializable

__all__ = ["DaebusHttp", "DaebusJSONEncoder", "HttpRequest", "HttpResponse", "make_json_serializable"]
