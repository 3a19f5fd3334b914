"""A job between its steps: checked, ready to run, run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.comfyui import Execution
from handler.graphs import Graph, NodeClasses
from handler.jobs.outputs import Output
from handler.models import Hold
from handler.schemas import BucketUpload, Request
from handler.ticket import Ticket
from handler.webhooks import Promise


@dataclass(frozen=True, kw_only=True)
class CheckedRequest:
    """A request in which nothing is wrong, as far as that is known without a download.

    `fields` are those of a workflow request, with its defaults; `graph` is what is to be run, `classes` what ComfyUI says of its
    node classes. `folder` is fresh random hex: the name of the job's folders in ComfyUI's input and output folder. `bucket` is
    where outputs go that are too large for the answer, and all of worker-comfyui's dialect. `deadline` is in seconds of
    time.monotonic.
    """

    ticket: Ticket
    request: Request
    fields: Mapping[str, Any]
    graph: Graph
    classes: NodeClasses
    folder: str
    bucket: BucketUpload | None
    deadline: float


@dataclass(frozen=True, kw_only=True)
class Job(CheckedRequest):
    """A request with nothing left to check: only ComfyUI can still refuse its graph.

    Its inputs and models are where ComfyUI looks for them, and `hold` keeps the models from being removed. `promise` is what
    its webhooks are owed. `prepared` is in seconds of time.monotonic.
    """

    hold: Hold
    promise: Promise
    prepared: float


@dataclass(frozen=True)
class Times:
    """The moments of a job, in seconds of time.monotonic."""

    received: float
    prepared: float
    submitted: float
    """To the admission before ComfyUI's queue."""
    admitted: float
    finished: float
    converted: float


@dataclass(frozen=True)
class Produced:
    """A job whose outputs exist and have not been delivered."""

    job: Job
    outputs: list[Output]
    execution: Execution
    times: Times

    @property
    def files(self) -> list[Output]:
        """The outputs that are files; texts are none."""
        return [output for output in self.outputs if output.filename is not None]
