"""What happens to an event: prepare, then execute. The table of contents of the project."""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.comfyui.client import Execution
from handler.comfyui.websocket import Message
from handler.errors import (
    ComfyError,
    DeliveryError,
    OutOfMemory,
    ServerStopped,
)
from handler.jobs import answer, outputs
from handler.jobs import prepare as rewrite
from handler.jobs.job import Job
from handler.schemas.event import parse_event
from handler.schemas.result import Result
from handler.service import Service
from handler.storage import runpod_bucket
from handler.ticket import Ticket
from handler.webhooks import message as webhooks

logger = logging.getLogger(__name__)

# What ComfyUI needs to begin with freeing its memory.
_FREE_S = 1.0


def run(event: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """The answer to an event, as plain JSON values. Raises HandlerError."""
    return execute(prepare(event, service), service).answer()


def prepare(event: Mapping[str, Any], service: Service, ticket: Ticket | None = None, *, quick: bool = False) -> Job:
    """Everything that can be the caller's fault: validate, expand a workflow, fetch inputs, rewrite the graph.

    With a `ticket` of one's own the request can be ended from here on. `quick` is for threads that must not wait for a
    download: where there is one to make it raises NeedsDownload, for another call that is not quick. Raises BadRequest and its
    kinds, PromptTimeout, or what the ticket is cancelled with, and leaves nothing behind then.
    """
    ticket = ticket or Ticket()
    request = parse_event(event)
    ticket.request_id = request.id
    ticket.check()
    store = runpod_bucket.choose_bucket(event, request.id, service.settings)
    fields, prompt = rewrite.expanded(request, service)
    attempt = secrets.token_hex(8)
    seconds = min(request.timeout_s or service.settings.prompt_timeout_s, service.settings.prompt_timeout_s)
    deadline = ticket.received + seconds
    with ExitStack() as undo:
        undo.callback(_remove_folders, attempt, service)
        ready, hold = rewrite.ready(prompt, request, attempt, ticket, deadline, service, quick=quick)
        undo.push(hold)
        ticket.check()
        promise = service.outbox.promise(webhooks.failed(request, ready, ServerStopped()))
        undo.pop_all()
    now = time.monotonic()
    return Job(ticket, request, fields, ready, attempt, hold, promise, store, ticket.received, now, deadline)


def accepted(job: Job) -> dict[str, Any]:
    """The answer to a caller who does not wait for the job."""
    return {**job.request.echo(), "id": job.request.id, "prompt": job.graph, "status": "ok", **job.fields}


def execute(job: Job, service: Service, on_message: Callable[[Message], None] = lambda _: None) -> Result:
    """Everything that needs the GPU and the outside world: run, read and convert the outputs, deliver, announce, clean up.

    `on_message` gets ComfyUI's websocket messages about the prompt and its queue. Raises HandlerError; whatever happens, the
    webhooks are on their way, and the job's files and its entry in ComfyUI's history are gone afterwards. Only outputs that
    could not be delivered stay, and the error names them.
    """
    return deliver(produce(job, service, on_message), service)


@dataclass(frozen=True)
class Made:
    """A job whose outputs exist: what `produce` gives and `deliver` takes. `marks` are those of `answers.made`."""

    job: Job
    outputs: list[outputs.Output]
    execution: Execution
    marks: tuple[float, ...]


def produce(job: Job, service: Service, on_message: Callable[[Message], None] = lambda _: None) -> Made:
    """The half of `execute` that needs the GPU. When it raises, all is said and done; otherwise `deliver` must follow."""
    with _ending_badly(job, service):
        return _made(job, service, on_message)


def deliver(made: Made, service: Service) -> Result:
    """The half of `execute` that may wait for a store."""
    job = made.job
    with _ending_badly(job, service):
        result = answer.made(job, made.outputs, made.execution, made.marks, service)
    logger.info("job %r: %d outputs in %.0f ms", job.request.id, len(made.outputs), result.stats.total_time)
    try:
        job.promise.keep(webhooks.succeeded(job.request, result))
    finally:
        _clean(job, service, keep_outputs=False)
    return result


@contextmanager
def _ending_badly(job: Job, service: Service) -> Iterator[None]:
    """Announce and clean up when the block raises."""
    try:
        yield
    except BaseException as exc:
        try:
            if isinstance(exc, Exception):
                job.promise.keep(webhooks.failed(job.request, job.graph, exc))
        finally:
            _clean(job, service, keep_outputs=isinstance(exc, DeliveryError))
        raise


def _made(job: Job, service: Service, on_message: Callable[[Message], None]) -> Made:
    began = time.monotonic()
    turns: list[float] = []
    report = service.events.for_prompt(job.ticket.prompt_id, job.request.id, job.attempt)

    def tell(message: Message) -> None:
        report(message)
        on_message(message)

    def on_turn() -> None:
        # What a try before this one has saved would be counted on from.
        _remove(service.settings.output_dir / job.attempt)
        turns.append(time.monotonic())

    execution = _run(job, service, on_turn, tell)
    finished = time.monotonic()
    done = _outputs(job, execution, service)
    converted = time.monotonic()
    job.ticket.settle()
    return Made(job, done, execution, (job.received, job.prepared, began, turns[0], finished, converted))


def _run(job: Job, service: Service, on_turn: Callable[[], None], on_message: Callable[[Message], None]) -> Execution:
    """Run the graph; once more, with ComfyUI's memory freed, when there was too little of it."""
    comfy = service.comfy
    for is_last in (False, True):
        try:
            extra = _extra_data(job, service)
            return comfy.run(
                job.graph, job.ticket, deadline=job.deadline, extra_data=extra, on_turn=on_turn, on_message=on_message
            )
        except OutOfMemory as exc:
            if is_last or time.monotonic() + _FREE_S > job.deadline:
                raise
            logger.warning("job %r: %s Its memory is freed, and it runs once more.", job.request.id, exc.message)
            comfy.forget(job.ticket.prompt_id)
            comfy.free()
            time.sleep(_FREE_S)
    raise AssertionError("the last try returns or raises")


def _extra_data(job: Job, service: Service) -> dict[str, str]:
    """What API nodes look for."""
    key = job.request.comfy_org_api_key or service.settings.comfy_org_api_key
    return {"api_key_comfy_org": key.get_secret_value()} if key else {}


def _outputs(job: Job, execution: Execution, service: Service) -> list[outputs.Output]:
    found = outputs.read_outputs(
        execution.entry["outputs"],
        job.graph,
        service.comfy,
        output_dir=service.settings.output_dir,
        folder=job.attempt,
    )
    target = job.request.target
    return outputs.convert_outputs(found, target) if target else found


def _clean(job: Job, service: Service, *, keep_outputs: bool) -> None:
    """Remove a finished job's files and its entry in ComfyUI's history, and let go of its models."""
    job.ticket.finish()
    job.hold.close()
    _remove(service.settings.input_dir / job.attempt)
    if not keep_outputs:
        _remove(service.settings.output_dir / job.attempt)
    try:
        service.comfy.forget(job.ticket.prompt_id)
    except ComfyError as exc:
        logger.warning("job %r: its history entry stays: %s", job.request.id, exc)


def _remove_folders(attempt: str, service: Service) -> None:
    _remove(service.settings.input_dir / attempt)
    _remove(service.settings.output_dir / attempt)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, onerror=lambda _, path, exc: logger.warning("%s cannot be removed: %s", path, exc[1]))
