"""`daebus.modules.pubsub` of the older package."""

from ..context import Broadcast
from ..message import PubSubRequest
from ..pubsub import PubSubResponse

PubSubBroadcast = Broadcast

__all__ = ["PubSubBroadcast", "PubSubRequest", "PubSubResponse"]
