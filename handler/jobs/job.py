"""What `prepare` makes and `execute` takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.graphs.graph import Graph
from handler.models.cache import Hold
from handler.schemas.event import Request
from handler.schemas.uploads import BucketUpload
from handler.ticket import Ticket
from handler.webhooks.queue import Promise


@dataclass(frozen=True)
class Job:
    """A request with nothing left to check: only ComfyUI can still refuse it.

    `attempt` is fresh for every job: the name of its folders in ComfyUI's input and output folder. `ticket` is what
    `Comfy.interrupt` takes. `hold` keeps the models that it uses from being removed. `bucket` is where outputs go that are too
    large for the answer, and all of worker-comfyui's dialect. Times are in seconds of time.monotonic.
    """

    ticket: Ticket
    request: Request
    fields: Mapping[str, Any]
    graph: Graph
    attempt: str
    hold: Hold
    promise: Promise
    bucket: BucketUpload | None
    received: float
    prepared: float
    deadline: float
