"""RunPod's jobs: what the worker does with one, and with all of them at its end. It does not know RunPod's SDK."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from handler import json_codec
from handler.errors import ComfyCrashed, ComfyUnreachable, GpuLost, HandlerError, InternalError, ServerStopped
from handler.jobs import JobRegistry, Progress, Send
from handler.lifecycle import Lifecycle
from handler.pipeline import execute, prepare
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

MAX_RESULT_SIZE_MB = 19
"""RunPod takes 20 MB from /runsync, and 10 MB from /run."""

# After these a ComfyUI that is not restarted is of no use any more.
_FATAL = (ComfyCrashed, ComfyUnreachable, GpuLost)


class Worker:
    """Runs jobs, and knows whether it can go on. Safe to use from many threads."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._jobs = JobRegistry()

    def handle(self, job: Mapping[str, Any], ticket: Ticket, send: Send) -> dict[str, Any]:
        """What the SDK is to return for a job: its answer, or `error` with the rest of the error beside it.

        `refresh_worker` is with it when RunPod should replace this worker. `send` gets the job's progress.
        """
        try:
            self._jobs.add(ticket)
            return json_codec.replace_surrogates(self._run(job, ticket, Progress(send)))
        except HandlerError as exc:
            logger.info("job %s: %s: %s", job.get("id"), exc.code, exc.message)
            return self._failure(exc)
        except Exception:
            # The SDK would send the traceback and the host's name to the caller.
            logger.exception("job %s: a bug", job.get("id"))
            return InternalError().answer()
        finally:
            self._jobs.remove(ticket)

    def interrupt(self, ticket: Ticket) -> None:
        """End one job; it need not have started."""
        self._lifecycle.service.comfy.interrupt(ticket)

    def end_all(self, reason: Callable[[], HandlerError] = ServerStopped) -> None:
        """End all jobs for this reason, also those that still arrive."""
        self._jobs.end_all(reason)

    def abandoned(self) -> dict[str, Any]:
        """What the SDK is to return for a job that goes on though all jobs were ended."""
        return self._failure(self._jobs.end_reason())

    def _run(self, job: Mapping[str, Any], ticket: Ticket, progress: Progress) -> dict[str, Any]:
        progress.preparing()
        # RunPod gives a job that fails to no other worker.
        self._lifecycle.wait_for_restart()
        prepared = prepare(_event(job), self._lifecycle.service, ticket)
        progress.queued(prepared.graph)
        return execute(prepared, self._lifecycle.service, on_message=progress.message).answer()

    def _failure(self, exc: HandlerError) -> dict[str, Any]:
        final = isinstance(exc, _FATAL) and not self._lifecycle.service.settings.always_restart_comfyui
        return json_codec.replace_surrogates(exc.answer()) | ({"refresh_worker": True} if final else {})


def _event(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job as an event. As in worker-comfyui its input may be an object written as JSON text."""
    if isinstance(job.get("input"), str):
        try:
            return {**job, "input": json.loads(job["input"])}
        except (ValueError, RecursionError):
            logger.debug("job %s: its input is text that is not JSON", job.get("id"))
    return job
