"""`daebus.modules.redis_client` of the older package."""

from ..context import cache as redis_client
from ..context import get_redis_client

__all__ = ["get_redis_client", "redis_client"]
