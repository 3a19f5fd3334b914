"""What happens to an event: prepare, then execute. The table of contents of the project."""

import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from handler import delivery, graph, inputs, outputs, workflows
from handler.comfy import Execution
from handler.errors import BadRequest, ComfyError, UnknownWorkflow
from handler.event import Graph, Request, WorkflowRequest, parsed
from handler.messages import Message
from handler.result import ComfyExecution, Result, Stats
from handler.service import Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A request with nothing left to check: only ComfyUI can still refuse it.

    `attempt` is fresh for every job: the name of its folders in ComfyUI's input and output folder. Times are in seconds of
    time.monotonic.
    """

    request: Request
    fields: Mapping[str, Any]
    graph: Graph
    attempt: str
    received: float
    prepared: float
    deadline: float
    prompt_id: str = field(default_factory=lambda: str(uuid4()))


def run(event: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """The answer to an event, as plain JSON values. Raises HandlerError."""
    return execute(prepare(event, service), service).answer()


def prepare(event: Mapping[str, Any], service: Service) -> Job:
    """Everything that can be the caller's fault: validate, expand a workflow, fetch inputs, rewrite the graph.

    Raises BadRequest and its kinds, and leaves nothing behind then.
    """
    received = time.monotonic()
    request = parsed(event)
    fields, prompt = _expanded(request, service)
    attempt = secrets.token_hex(8)
    try:
        ready = _rewritten(prompt, request, attempt, service)
    except BaseException:
        _remove_folders(attempt, service)
        raise
    seconds = min(request.timeout_s or service.settings.prompt_timeout_s, service.settings.prompt_timeout_s)
    return Job(request, fields, ready, attempt, received, time.monotonic(), received + seconds)


def execute(job: Job, service: Service, on_message: Callable[[Message], None] = lambda _: None) -> Result:
    """Everything that needs the GPU and the outside world: run, read and convert the outputs, deliver, clean up.

    `on_message` gets ComfyUI's websocket messages about the prompt. Raises HandlerError; whatever happens, the job's files
    and its entry in ComfyUI's history are gone afterwards.
    """
    began = time.monotonic()
    turn: list[float] = []
    try:
        execution = service.comfy.run(
            job.graph,
            prompt_id=job.prompt_id,
            deadline=job.deadline,
            on_turn=lambda: turn.append(time.monotonic()),
            on_message=on_message,
        )
        finished = time.monotonic()
        done = _outputs(job, execution, service)
        converted = time.monotonic()
        images = delivery.inline(done)
        logger.info("job %r: %d outputs in %.0f ms", job.request.id, len(done), _ms(job.received, time.monotonic()))
        marks = (job.received, job.prepared, began, turn[0], finished, converted, time.monotonic())
        return _result(job, done, images, _stats(execution, marks))
    finally:
        _clean(job, service)


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


def _rewritten(prompt: Graph, request: Request, attempt: str, service: Service) -> Graph:
    """The graph with its inputs fetched and its outputs in the job's own folder."""
    classes = service.comfy.classes(prompt)
    if not graph.saves(prompt, classes):
        raise BadRequest(
            "The prompt has nothing to save: it needs an output node other than PreviewImage, such as SaveImage.",
            location="prompt",
        )
    places = [place for place in graph.media(prompt, classes) if not _is_there(place.value, service)]
    if places:
        prompt = _with_inputs(prompt, places, attempt, service)
    stem, keep = graph.stem(request.id), service.settings.prepend_filenames
    return graph.prefixed(prompt, classes, folder=attempt, stem=stem, keep=keep)


def _is_there(value: str | list[str], service: Service) -> bool:
    return isinstance(value, str) and inputs.is_name(value) and service.comfy.has_input(value)


def _with_inputs(prompt: Graph, places: list[graph.Place], attempt: str, service: Service) -> Graph:
    """Fetch inputs into ComfyUI's input folder; over HTTP when that folder is not on this disk."""
    settings, comfy = service.settings, service.comfy
    if settings.input_dir.is_dir():
        folder = settings.input_dir / attempt
        done = inputs.fetched(places, folder, settings)
        if comfy.has_input(f"{attempt}/{done[0].files[0].relative_to(folder).as_posix()}"):
            return inputs.rewritten(prompt, done, attempt)
        inputs.uploaded(done, folder, attempt, comfy)
        _remove(folder)
        return inputs.rewritten(prompt, done, attempt)
    with tempfile.TemporaryDirectory() as name:
        done = inputs.fetched(places, Path(name), settings)
        inputs.uploaded(done, Path(name), attempt, comfy)
    return inputs.rewritten(prompt, done, attempt)


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


def _result(job: Job, done: list[outputs.Output], images: list[str], stats: Stats) -> Result:
    echo = {k: v for k, v in job.request.echo().items() if k not in ("prompt", "input", "workflow")}
    return Result.model_validate(
        {
            **echo,
            "prompt": job.graph,
            "id": job.request.id,
            "images": images,
            "filenames": [output.filename for output in done if output.filename is not None],
            "outputs": [outputs.described(output, job.graph) for output in done],
            "stats": stats,
            **job.fields,
        }
    )


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


def _clean(job: Job, service: Service) -> None:
    """Remove a finished job's files and its entry in ComfyUI's history."""
    _remove_folders(job.attempt, service)
    try:
        service.comfy.forget(job.prompt_id)
    except ComfyError as exc:
        logger.warning("job %s: its history entry stays: %s", job.request.id, exc)


def _remove_folders(attempt: str, service: Service) -> None:
    _remove(service.settings.input_dir / attempt)
    _remove(service.settings.output_dir / attempt)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder, onerror=lambda _, path, exc: logger.warning("%s cannot be removed: %s", path, exc[1]))
