"""`daebus.modules.workflow` of the older package (0.0.19)."""

from ..message import WorkflowRequest
from ..pubsub import WorkflowResponse
from ..workflow_caller import DaebusWorkflow

__all__ = ["DaebusWorkflow", "WorkflowRequest", "WorkflowResponse"]
