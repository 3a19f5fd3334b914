"""Run ComfyUI workflows: `handler(event)`. Importing this starts nothing and reads nothing."""

from handler.errors import HandlerError
from handler.host import Host, handler
from handler.job import Job
from handler.line import Ticket
from handler.pipeline import Made, accepted, deliver, execute, prepare, produce
from handler.result import Result
from handler.rewrite import NeedsDownload
from handler.service import Service
from handler.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "HandlerError",
    "Host",
    "Job",
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
