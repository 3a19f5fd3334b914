"""Run ComfyUI workflows: `handler(event)`. Importing this starts nothing and reads nothing."""

from handler.errors import HandlerError
from handler.jobs.job import Job
from handler.jobs.prepare import NeedsDownload
from handler.lifecycle import Lifecycle, handler
from handler.pipeline import Made, accepted, deliver, execute, prepare, produce
from handler.schemas.result import Result
from handler.service import Service
from handler.settings import Settings
from handler.ticket import Ticket

__version__ = "0.1.0"

__all__ = [
    "HandlerError",
    "Job",
    "Lifecycle",
    "Made",
    "NeedsDownload",
    "Result",
    "Service",
    "Settings",
    "Ticket",
    "accepted",
    "deliver",
    "execute",
    "handler",
    "prepare",
    "produce",
]
