"""What happens to an event: prepare, then execute. The table of contents of the project."""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from handler import answers, bucket, graph, inputs, links, net, outputs, storage, webhooks, workflows
from handler.comfy import Execution
from handler.errors import (
    BadRequest,
    ComfyError,
    DeliveryError,
    InputUnavailable,
    OutOfMemory,
    PromptTimeout,
    ServerStopped,
    UnknownWorkflow,
)
from handler.event import Graph, Request, WorkerRequest, WorkflowRequest, parsed
from handler.job import Job
from handler.line import Ticket
from handler.messages import Message
from handler.models import Hold
from handler.result import Result
from handler.service import Service

logger = logging.getLogger(__name__)

# What ComfyUI needs to begin with freeing its memory.
_FREE_S = 1.0


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
    store = bucket.chosen(event, request.id, service.settings)
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
    now, deadline = time.monotonic(), received + seconds
    return Job(ticket, request, fields, ready, attempt, hold, promise, store, received, now, deadline)


def accepted(job: Job) -> dict[str, Any]:
    """The answer to a caller who does not wait for the job."""
    return {**job.request.echo(), "id": job.request.id, "prompt": job.graph, "status": "ok", **job.fields}


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

    marks = (job.received, job.prepared, began, turns[0], finished, converted)
    answer = answers.made(job, done, execution, marks, service)
    logger.info("job %r: %d outputs in %.0f ms", job.request.id, len(done), answer.stats.total_time)
    return answer


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


def _expanded(request: Request, service: Service) -> tuple[Mapping[str, Any], Graph]:
    """The fields of a workflow request, with its defaults, and the graph to run."""
    if not isinstance(request, WorkflowRequest):
        return {}, request.workflow if isinstance(request, WorkerRequest) else request.prompt
    workflow = service.workflows.get(request.workflow.strip("/"))
    if workflow is None:
        known = ", ".join(service.workflows) or "none"
        raise UnknownWorkflow(f"There is no workflow {request.workflow!r}; there are: {known}.", location="workflow")
    fields, prompt = workflows.expanded(workflow, request.input, service.comfy.options, service.warmup_checkpoint)
    return {"input": net.echoed(fields)}, prompt


def _rewritten(prompt: Graph, request: Request, attempt: str, deadline: float, service: Service) -> tuple[Graph, Hold]:
    """The graph with its models and inputs fetched and its outputs in the job's own folder; and the hold on the models."""
    prompt = graph.saving_files(prompt)
    classes = service.comfy.classes(prompt)
    # worker-comfyui runs what only shows previews, and says that there were no images.
    if not isinstance(request, WorkerRequest) and not graph.saves(prompt, classes):
        raise BadRequest(
            "The prompt has nothing to save: it needs an output node other than PreviewImage, such as SaveImage.",
            location="prompt",
        )
    links.check(prompt, classes)
    if isinstance(request, WorkerRequest):
        prompt = graph.with_media(prompt, classes, request.named_images)
    if request.upload is not None:
        storage.receiver(request.upload, service.settings).check(request.upload, request.auth_for)
    for webhook in filter(None, (request.webhook, request.webhook_v2)):
        net.check(webhook, allow_private=service.settings.allow_private_urls)
    prompt, hold = _fetched(prompt, classes, attempt, request.auth_for, deadline, service)
    # worker-comfyui's files are named as the graph says.
    stem = None if isinstance(request, WorkerRequest) else graph.stem(request.id)
    keep = service.settings.prepend_filenames
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
