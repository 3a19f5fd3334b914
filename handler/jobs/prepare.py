"""From a request to the graph that runs: expanded, checked, its models and inputs fetched, its outputs in the job's folder."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from handler import storage
from handler.errors import BadRequest, ForbiddenUrl, InputUnavailable, PromptTimeout, UnknownWorkflow
from handler.graphs import graph, links, workflows
from handler.graphs.graph import Graph
from handler.graphs.node_classes import NodeClasses
from handler.jobs import inputs
from handler.models.cache import Hold
from handler.net import deadline, guard
from handler.schemas.credentials import Auth
from handler.schemas.event import Request
from handler.schemas.request import WorkflowRequest
from handler.schemas.uploads import Upload
from handler.schemas.worker_comfyui import WorkerRequest
from handler.service import Service
from handler.ticket import Ticket
from handler.urls import redact_urls


class NeedsDownload(Exception):
    """Another server would have to be waited for, for models or else for inputs.

    `deadline` is the job's, in seconds of time.monotonic.
    """

    def __init__(self, deadline: float, *, of_models: bool) -> None:
        super().__init__(deadline, of_models)
        self.deadline = deadline
        self.of_models = of_models


def expanded(request: Request, service: Service) -> tuple[Mapping[str, Any], Graph]:
    """The fields of a workflow request, with its defaults, and the graph to run."""
    if not isinstance(request, WorkflowRequest):
        return {}, request.workflow if isinstance(request, WorkerRequest) else request.prompt
    workflow = service.workflows.get(request.workflow.strip("/"))
    if workflow is None:
        known = ", ".join(service.workflows) or "none"
        raise UnknownWorkflow(f"There is no workflow {request.workflow!r}; there are: {known}.", location="workflow")
    fields, prompt = workflows.expand_workflow(
        workflow, request.input, service.comfy.options, service.warmup_checkpoint
    )
    return {"input": redact_urls(fields)}, prompt


def ready(
    prompt: Graph, request: Request, attempt: str, ticket: Ticket, end: float, service: Service, *, quick: bool
) -> tuple[Graph, Hold]:
    """The graph with its models and inputs fetched and its outputs in the job's own folder; and the hold on the models.

    `end` is the job's deadline, in seconds of time.monotonic. Raises what `pipeline.prepare` does.
    """
    prompt = graph.replace_websocket_outputs(prompt)
    classes = service.comfy.classes(prompt)
    # worker-comfyui runs what only shows previews, and says that there were no images.
    if not isinstance(request, WorkerRequest) and not graph.has_output(prompt, classes):
        raise BadRequest(
            "The prompt has nothing to save: it needs an output node other than PreviewImage, such as SaveImage.",
            location="prompt",
        )
    links.check_links(prompt, classes)
    if isinstance(request, WorkerRequest):
        prompt = graph.set_media(prompt, classes, request.named_images)
    _check_upload(request, service)
    for webhook in filter(None, (request.webhook, request.webhook_v2)):
        guard.check_url(webhook, allow_private=service.settings.allow_private_urls)
    if quick:
        _check_downloads(prompt, classes, request.auth_for, end, service)
    prompt, hold = _fetched(prompt, classes, attempt, request.auth_for, ticket, end, service)
    # worker-comfyui's files are named as the graph says.
    stem = None if isinstance(request, WorkerRequest) else graph.file_stem(request.id)
    keep = service.settings.prepend_filenames
    return graph.prefix_outputs(prompt, classes, folder=attempt, stem=stem, keep=keep), hold


def _check_upload(request: Request, service: Service) -> None:
    """Raise BadRequest for an upload that cannot be right."""
    if request.upload is None:
        return
    store = storage.store_for_upload(request.upload, service.settings)
    try:
        store.check(request.upload, request.auth_for)
    except ForbiddenUrl:
        raise
    except BadRequest:
        # The pattern of one of the credentials may match the files' URLs alone, which nobody knows yet.
        if not any(_would_do(store, request.upload, one.auth) for one in request.credentials):
            raise


def _would_do(store: storage.Storage, upload: Upload, auth: Auth) -> bool:
    with suppress(BadRequest):
        store.check(upload, lambda _: auth)
        return True
    return False


def _check_downloads(
    prompt: Graph, classes: NodeClasses, auth_for: storage.AuthFor, end: float, service: Service
) -> None:
    """Raise NeedsDownload if something in the graph has to be fetched from another server."""
    if not service.models.has_all(graph.model_inputs(prompt, classes), auth_for):
        raise NeedsDownload(end, of_models=True)
    if any(inputs.is_remote(place) for place in graph.media_inputs(prompt, classes)):
        raise NeedsDownload(end, of_models=False)


@contextmanager
def _until(end: float, ticket: Ticket) -> Iterator[None]:
    """Cut what the block waits for at the end, or when the ticket is cancelled. Raises PromptTimeout, or what the ticket says."""
    try:
        with deadline.within(end) as watch:
            ticket.when_cancelled(watch.cut)
            try:
                yield
            finally:
                ticket.when_cancelled(lambda: None)
    except (InputUnavailable, TimeoutError) as exc:
        ticket.check()
        if time.monotonic() < end:
            raise
        # What the cut made fail knows the place.
        location = getattr(exc if isinstance(exc, InputUnavailable) else exc.__context__, "location", None)
        raise PromptTimeout("The prompt's time was over before its inputs were there.", location=location) from exc


def _fetched(
    prompt: Graph,
    classes: NodeClasses,
    attempt: str,
    auth_for: storage.AuthFor,
    ticket: Ticket,
    end: float,
    service: Service,
) -> tuple[Graph, Hold]:
    """The graph with its models and inputs fetched, and the hold on the models."""
    with ExitStack() as undo:
        with _until(end, ticket):
            left = end - time.monotonic()
            prompt, hold = service.models.fetched(prompt, graph.model_inputs(prompt, classes), auth_for, timeout_s=left)
            undo.push(hold)
            placed = inputs.fetch_inputs(
                prompt, classes, attempt, auth_for, service.comfy, service.settings, deadline=end
            )
        undo.pop_all()
    return placed, hold
