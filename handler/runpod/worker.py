"""RunPod's jobs: what the worker does with one, and with all of them at its end. It does not know RunPod's SDK."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from handler.errors import ComfyCrashed, ComfyUnreachable, GpuLost, HandlerError, ServerStopped
from handler.jobs.progress import Progress, Tell
from handler.lifecycle import Lifecycle
from handler.pipeline import execute, prepare
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

MAX_RESULT_SIZE_MB = 19
"""RunPod takes 20 MB from /runsync, and 10 MB from /run."""

# After these a ComfyUI that nobody starts anew is of no use any more.
_FATAL = (ComfyCrashed, ComfyUnreachable, GpuLost)


class Worker:
    """Runs jobs, and knows whether it can go on."""

    def __init__(self, host: Lifecycle) -> None:
        self._host = host
        self._tickets: set[Ticket] = set()
        self._lock = threading.Lock()
        self._over: Callable[[], HandlerError] | None = None

    def answer(self, job: Mapping[str, Any], ticket: Ticket, tell: Tell) -> dict[str, Any]:
        """What the SDK is to return for a job: its answer, or `error` with the rest of the error beside it.

        `refresh_worker` is with it when RunPod should replace this worker.
        """
        try:
            self._enter(ticket)
            return _sendable(self._run(job, ticket, Progress(tell)))
        except HandlerError as exc:
            logger.info("job %s: %s: %s", job.get("id"), exc.code, exc.message)
            return self._failed(exc)
        except Exception:
            # The SDK would send the traceback and the host's name to the caller.
            logger.exception("job %s: a bug", job.get("id"))
            return {"code": HandlerError.code, "error": "Internal error; the worker's log says more."}
        finally:
            self._leave(ticket)

    def interrupt(self, ticket: Ticket) -> None:
        """End one job; it need not have begun."""
        self._host.service.comfy.interrupt(ticket)

    def close(self, reason: Callable[[], HandlerError] = ServerStopped) -> None:
        """End all jobs for this reason, also those that still come."""
        with self._lock:
            self._over = reason
            tickets = list(self._tickets)
        for ticket in tickets:
            self._host.service.comfy.interrupt(ticket, reason())

    def abandoned(self) -> dict[str, Any]:
        """What the SDK is to return for a job that does not end though the worker is closed."""
        return self._failed((self._over or ServerStopped)())

    def _enter(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.add(ticket)
            if self._over is not None:
                raise self._over()

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.discard(ticket)

    def _run(self, job: Mapping[str, Any], ticket: Ticket, progress: Progress) -> dict[str, Any]:
        progress.preparing()
        # RunPod gives a job that fails to nobody else.
        self._host.wait_for_restart()
        prepared = prepare(_event(job), self._host.service, ticket)
        progress.queued(prepared.graph)
        return execute(prepared, self._host.service, on_message=progress.message).answer()

    def _failed(self, exc: HandlerError) -> dict[str, Any]:
        return _sendable(exc.answer()) | ({"refresh_worker": True} if self._is_the_end(exc) else {})

    def _is_the_end(self, exc: HandlerError) -> bool:
        if isinstance(exc, GpuLost):
            # Every later prompt of this ComfyUI would fail like this one.
            self._host.process.kill()
        return isinstance(exc, _FATAL) and not self._host.service.settings.always_restart_comfyui


def _event(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """worker-comfyui takes an input that is an object written as JSON text as well."""
    if isinstance(job.get("input"), str):
        try:
            return {**job, "input": json.loads(job["input"])}
        except (ValueError, RecursionError):
            logger.debug("job %s: its input is a text that is no JSON", job.get("id"))
    return job


def _sendable(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with lone surrogates as question marks: the SDK sends UTF-8, which has none, and would send nothing."""
    try:
        orjson.dumps(answer)
    except TypeError:
        cleaned: dict[str, Any] = json.loads(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))
        return cleaned
    return answer
