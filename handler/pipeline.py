"""What happens to an event: prepare, then execute. The table of contents of the project."""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler import credentials, delivery, graph, inputs, net, outputs, storage, webhooks, workflows
from handler.comfy import Execution
from handler.errors import (
    BadRequest,
    ComfyError,
    DeliveryError,
    InputUnavailable,
    PromptTimeout,
    ServerStopped,
    UnknownWorkflow,
)
from handler.event import Graph, Options, Request, WorkflowRequest, parsed
from handler.line import Ticket
from handler.messages import Message
from handler.models import Hold
from handler.outbox import Promise
from handler.result import ComfyExecution, Result, Stats
from handler.service import Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A request with nothing left to check: only ComfyUI can still refuse it.

    `attempt` is fresh for every job: the name of its folders in ComfyUI's input and output folder. `ticket` is what
    `Comfy.interrupt` takes. `hold` keeps the models that it uses from being removed. Times are in seconds of time.monotonic.
    """

    ticket: Ticket
    request: Request
    fields: Mapping[str, Any]
    graph: Graph
    attempt: str
    hold: Hold
    promise: Promise
    received: float
    prepared: float
    deadline: float


def run(event: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """The answer to an event, as plain JSON values. Raises HandlerError."""
    return execute(prepare(event, service), service).answer()


def prepare(event: Mapping[str, Any], service: Service, ticket: Ticket | None = None) -> Job:
    """Everything that can be the caller's fault: validate, expand a workflow, fetch inputs, rewrite the graph.

    With a `ticket` of one's own the request can be ended from here on. Raises BadRequest and its kinds, PromptTimeout, or what
    the ticket is cancelled with, and leaves nothing behind then.
    """
    received = time.monotonic()
    ticket = ticket or Ticket()
    request = parsed(event)
    ticket.request_id = request.id
    fields, prompt = _expanded(request, service)
    attempt = secrets.token_hex(8)
    seconds = min(request.timeout_s or service.settings.prompt_timeout_s, service.settings.prompt_timeout_s)
    with ExitStack() as undo:
        undo.callback(_remove_folders, attempt, service)
        ready, hold = _rewritten(prompt, request, attempt, received + seconds, service)
        undo.push(hold)
        ticket.check()
        promise = service.outbox.promise(webhooks.failed(request, ready, ServerStopped()))
        undo.pop_all()
    return Job(ticket, request, fields, ready, attempt, hold, promise, received, time.monotonic(), received + seconds)


def accepted(job: Job) -> dict[str, Any]:
    """The answer to a caller who does not wait for the job."""
    return {**_echo(job), "id": job.request.id, "prompt": job.graph, "status": "ok", **job.fields}


def execute(job: Job, service: Service, on_message: Callable[[Message], None] = lambda _: None) -> Result:
    """Everything that needs the GPU and the outside world: run, read and convert the outputs, deliver, announce, clean up.

    `on_message` gets ComfyUI's websocket messages about the prompt and its queue. Raises HandlerError; whatever happens, the
    webhooks are on their way, and the job's files and its entry in ComfyUI's history are gone afterwards. Only outputs that
    could not be delivered stay, and the error names them.
    """
    keep_outputs = False
    try:
        result = _executed(job, service, on_message)
    except Exception as exc:
        keep_outputs = isinstance(exc, DeliveryError)
        job.promise.keep(webhooks.failed(job.request, job.graph, exc))
        raise
    else:
        job.promise.keep(webhooks.succeeded(job.request, result))
        return result
    finally:
        _clean(job, service, keep_outputs=keep_outputs)


def _executed(job: Job, service: Service, on_message: Callable[[Message], None]) -> Result:
    began = time.monotonic()
    turn: list[float] = []
    report = service.events.for_prompt(job.ticket.prompt_id, job.request.id, job.attempt)

    def tell(message: Message) -> None:
        report(message)
        on_message(message)

    execution = service.comfy.run(
        job.graph,
        job.ticket,
        deadline=job.deadline,
        on_turn=lambda: turn.append(time.monotonic()),
        on_message=tell,
    )
    finished = time.monotonic()
    done = _outputs(job, execution, service)
    converted = time.monotonic()
    job.ticket.settle()
    images = _delivered(job, done, service)
    delivered = time.monotonic()
    marks = (job.received, job.prepared, began, turn[0], finished, converted, delivered)
    logger.info("job %r: %d outputs in %.0f ms", job.request.id, len(done), _ms(job.received, delivered))
    return _result(job, done, images, _stats(execution, marks))


def _expanded(request: Request, service: Service) -> tuple[Mapping[str, Any], Graph]:
    """The fields of a workflow request, with its defaults, and the graph to run."""
    if not isinstance(request, WorkflowRequest):
        return {}, request.prompt
    workflow = service.workflows.get(request.workflow.strip("/"))
    if workflow is None:
        known = ", ".join(service.workflows) or "none"
        raise UnknownWorkflow(f"There is no workflow {request.workflow!r}; there are: {known}.", location="workflow")
    fields, prompt = workflows.expanded(workflow, request.input, service.comfy.options, service.warmup_checkpoint)
    return {"input": fields}, prompt


def _rewritten(prompt: Graph, request: Request, attempt: str, deadline: float, service: Service) -> tuple[Graph, Hold]:
    """The graph with its models and inputs fetched and its outputs in the job's own folder; and the hold on the models."""
    classes = service.comfy.classes(prompt)
    if not graph.saves(prompt, classes):
        raise BadRequest(
            "The prompt has nothing to save: it needs an output node other than PreviewImage, such as SaveImage.",
            location="prompt",
        )
    if request.upload is not None:
        storage.receiver(request.upload, service.settings).check(request.upload, _auth_for(request))
    for webhook in filter(None, (request.webhook, request.webhook_v2)):
        net.check(webhook, allow_private=service.settings.allow_private_urls)
    prompt, hold = _fetched(prompt, classes, attempt, _auth_for(request), deadline, service)
    stem, keep = graph.stem(request.id), service.settings.prepend_filenames
    return graph.prefixed(prompt, classes, folder=attempt, stem=stem, keep=keep), hold


def _fetched(
    prompt: Graph,
    classes: graph.NodeClasses,
    attempt: str,
    auth_for: storage.AuthFor,
    deadline: float,
    service: Service,
) -> tuple[Graph, Hold]:
    """The graph with its models and inputs fetched, and the hold on the models. Raises PromptTimeout after the deadline."""
    with ExitStack() as undo:
        try:
            left = deadline - time.monotonic()
            prompt, hold = service.models.fetched(prompt, graph.models(prompt, classes), auth_for, timeout_s=left)
            undo.push(hold)
            placed = inputs.placed(
                prompt, classes, attempt, auth_for, service.comfy, service.settings, deadline=deadline
            )
        except InputUnavailable as exc:
            if time.monotonic() < deadline:
                raise
            raise PromptTimeout("The time limit was over before the inputs were there.", location=exc.location) from exc
        undo.pop_all()
    return placed, hold


def _outputs(job: Job, execution: Execution, service: Service) -> list[outputs.Output]:
    found = outputs.read(
        execution.entry["outputs"],
        job.graph,
        service.comfy,
        output_dir=service.settings.output_dir,
        folder=job.attempt,
    )
    target = job.request.target
    return outputs.converted(found, target) if target else found


def _delivered(job: Job, done: list[outputs.Output], service: Service) -> list[str]:
    upload = job.request.upload
    if upload is None:
        return delivery.inline(done)
    files = [output for output in done if output.filename is not None]
    try:
        urls = delivery.uploaded(files, upload, service.settings, _auth_for(job.request))
    except DeliveryError as exc:
        names = ", ".join(str(file.filename) for file in files)
        raise DeliveryError(
            f"{exc.message} The outputs are kept in the output folder, in {job.attempt}: {names}."
        ) from exc
    for url, file in zip(urls, files, strict=True):
        service.events.emit("file_uploaded", {"id": job.request.id, "url": url, "size": file.size})
    return urls


def _auth_for(request: Options) -> storage.AuthFor:
    return lambda url: credentials.chosen(request.credentials, url)


def _result(job: Job, done: list[outputs.Output], images: list[str], stats: Stats) -> Result:
    return Result.model_validate(
        {
            **_echo(job),
            "prompt": job.graph,
            "id": job.request.id,
            "images": images,
            "filenames": [output.filename for output in done if output.filename is not None],
            "outputs": [outputs.described(output, job.graph) for output in done],
            "stats": stats,
            **job.fields,
        }
    )


def _echo(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.request.echo().items() if name not in ("prompt", "input", "workflow")}


def _stats(execution: Execution, marks: tuple[float, ...]) -> Stats:
    received, prepared, began, turn, finished, converted, delivered = marks
    return Stats(
        comfy_execution=ComfyExecution.of(
            execution.entry["status"]["messages"], execution.node_started, execution.node_ended
        ),
        preprocess_time=_ms(received, prepared),
        queue_time=_ms(began, turn),
        comfy_round_trip_time=_ms(turn, finished),
        postprocess_time=_ms(finished, converted),
        upload_time=_ms(converted, delivered),
        total_time=_ms(received, delivered),
    )


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)


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
