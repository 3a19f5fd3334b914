"""Run ComfyUI workflows: `handler(event)`. Importing this starts nothing and reads nothing."""

from handler.errors import HandlerError
from handler.jobs import CheckedRequest, Job, Produced
from handler.lifecycle import Lifecycle, handler
from handler.pipeline import accepted, check, deliver, execute, fetch, prepare, produce
from handler.schemas import Result
from handler.service import Service
from handler.settings import Settings
from handler.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "CheckedRequest",
    "HandlerError",
    "Job",
    "Lifecycle",
    "Produced",
    "Result",
    "Service",
    "Settings",
    "Ticket",
    "accepted",
    "check",
    "deliver",
    "execute",
    "fetch",
    "handler",
    "prepare",
    "produce",
]
