"""`daebus.modules.logger` of the older package."""

from ..log import get_logger, logger, set_log_level

__all__ = ["get_logger", "logger", "set_log_level"]
