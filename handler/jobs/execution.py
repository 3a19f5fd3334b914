"""Runs a job's graph on ComfyUI."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from handler.comfyui import Execution, Message
from handler.errors import OutOfMemory
from handler.jobs import cleanup
from handler.jobs.job import Job
from handler.service import Service

logger = logging.getLogger(__name__)

# What ComfyUI needs to start freeing its memory.
_FREE_S = 1.0


@dataclass(frozen=True)
class Executed:
    """A finished run, and when it was submitted to the admission, admitted and finished, in seconds of time.monotonic."""

    execution: Execution
    submitted: float
    admitted: float
    finished: float


def run_graph(job: Job, service: Service, on_message: Callable[[Message], None]) -> Executed:
    """Wait until the job is admitted, and run its graph to the end. `on_message` gets ComfyUI's messages about it.

    Raises ComfyError and its kinds, or what the ticket is cancelled with.
    """
    submitted, admitted = time.monotonic(), []
    emit = service.system_events.for_prompt(job.ticket.prompt_id, job.request.id, job.folder)

    def on_admitted() -> None:
        # The files of an earlier try would be counted on from.
        cleanup.remove_folder(service.settings.output_dir / job.folder)
        admitted.append(time.monotonic())

    def pass_on(message: Message) -> None:
        emit(message)
        on_message(message)

    execution = _run(job, service, on_admitted, pass_on)
    return Executed(execution, submitted, admitted[0], time.monotonic())


def _run(
    job: Job, service: Service, on_admitted: Callable[[], None], on_message: Callable[[Message], None]
) -> Execution:
    """Run the graph; once more, with ComfyUI's memory freed, when there was too little of it."""

    def run() -> Execution:
        return service.comfy.run(
            job.graph,
            job.ticket,
            deadline=job.deadline,
            extra_data=_extra_data(job, service),
            on_admitted=on_admitted,
            on_message=on_message,
        )

    try:
        return run()
    except OutOfMemory as exc:
        if time.monotonic() + _FREE_S > job.deadline:
            raise
        logger.warning("job %r: %s Its memory is freed, and it runs once more.", job.request.id, exc.message)
    service.comfy.forget(job.ticket.prompt_id)
    service.comfy.free()
    time.sleep(_FREE_S)
    return run()


def _extra_data(job: Job, service: Service) -> dict[str, str]:
    """What API nodes look for."""
    key = job.request.comfy_org_api_key or service.settings.comfy_org_api_key
    return {"api_key_comfy_org": key.get_secret_value()} if key else {}
