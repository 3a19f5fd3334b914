"""From a request to a graph that is ready to run: expand, check, fetch models and inputs, prefix the outputs."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Literal

from handler import graphs, storage
from handler.comfyui import ComfyClient
from handler.errors import BadRequest, ForbiddenUrl, InputUnavailable, PromptTimeout, UnknownWorkflow
from handler.graphs import Graph, NodeClasses, check_links, expand_workflow
from handler.jobs import inputs
from handler.jobs.job import CheckedRequest
from handler.models import Hold
from handler.net import check_url, deadline
from handler.schemas import Auth, Request, Upload, WorkflowRequest
from handler.service import Service
from handler.settings import Settings
from handler.urls import redact_urls


def expand(request: Request, service: Service) -> tuple[Mapping[str, Any], Graph]:
    """The fields of a workflow request, with its defaults, and the graph to run. Raises UnknownWorkflow or BadRequest."""
    if not isinstance(request, WorkflowRequest):
        return {}, request.graph
    workflow = service.workflows.get(request.workflow.strip("/"))
    if workflow is None:
        known = ", ".join(service.workflows) or "none"
        raise UnknownWorkflow(f"There is no workflow {request.workflow!r}; there are: {known}.", location="workflow")
    fields, graph = expand_workflow(workflow, request.input, service.comfy.options, service.warmup_checkpoint)
    return {"input": redact_urls(fields)}, graph


def check_graph(graph: Graph, request: Request, comfy: ComfyClient) -> tuple[Graph, NodeClasses]:
    """The graph with outputs that can be read and the request's named images, and what ComfyUI says of its classes.

    Raises BadRequest for a graph without an output, PromptRejected for links that ComfyUI cannot follow.
    """
    graph = graphs.replace_websocket_outputs(graph)
    classes = comfy.classes(graph)
    if request.needs_output and not graphs.has_output(graph, classes):
        raise BadRequest(
            "The prompt has nothing to save: it needs an output node other than PreviewImage, such as SaveImage.",
            location="prompt",
        )
    check_links(graph, classes)
    return graphs.set_media(graph, classes, request.named_images), classes


def check_destinations(request: Request, settings: Settings) -> None:
    """Raise BadRequest for an upload or a webhook that cannot succeed."""
    if request.upload is not None:
        _check_upload(request.upload, request, settings)
    for webhook in filter(None, (request.webhook, request.webhook_v2)):
        check_url(webhook, allow_private=settings.allow_private_urls)


def _check_upload(upload: Upload, request: Request, settings: Settings) -> None:
    store = storage.store_for_upload(upload, settings)
    try:
        store.check(upload, request.auth_for)
    except ForbiddenUrl:
        raise
    except BadRequest:
        # The pattern of one of the credentials may match the files' URLs alone, which nobody knows yet.
        if not any(_would_pass(store, upload, one.auth) for one in request.credentials):
            raise


def _would_pass(store: storage.Storage, upload: Upload, auth: Auth) -> bool:
    with suppress(BadRequest):
        store.check(upload, lambda _: auth)
        return True
    return False


def remote_source(checked: CheckedRequest, service: Service) -> Literal["models", "inputs"] | None:
    """What the job has to download from other servers, None for nothing. Models are fetched first."""
    models = graphs.model_inputs(checked.graph, checked.classes)
    if not service.models.has_all(models, checked.request.auth_for):
        return "models"
    media = graphs.media_inputs(checked.graph, checked.classes)
    return "inputs" if any(inputs.is_remote(each) for each in media) else None


def fetch_files(checked: CheckedRequest, service: Service) -> tuple[Graph, Hold]:
    """The graph with its models and inputs where ComfyUI looks for them, and the hold on the models.

    Raises BadRequest and its kinds, PromptTimeout at the job's deadline, or what the ticket is cancelled with.
    """
    auth_for, classes = checked.request.auth_for, checked.classes
    with ExitStack() as undo:
        with _until_deadline(checked):
            models = graphs.model_inputs(checked.graph, classes)
            graph, hold = service.models.fetch(checked.graph, models, auth_for)
            undo.callback(hold.close)
            graph = inputs.fetch_inputs(graph, classes, checked.folder, auth_for, service.comfy, service.settings)
        undo.pop_all()
    return graph, hold


def prefix_outputs(graph: Graph, checked: CheckedRequest, settings: Settings) -> Graph:
    """The graph with every output node saving into the job's folder, in files named by the request's id."""
    stem, keep = checked.request.file_stem, settings.prepend_filenames
    return graphs.prefix_outputs(graph, checked.classes, folder=checked.folder, stem=stem, keep=keep)


@contextmanager
def _until_deadline(checked: CheckedRequest) -> Iterator[None]:
    """Cut the block's connections at the job's deadline, or when it is cancelled. Raises PromptTimeout or the ticket's reason."""
    try:
        with deadline.within(checked.deadline) as block, checked.ticket.on_cancel(block.expire):
            yield
    except (InputUnavailable, TimeoutError) as exc:
        checked.ticket.check()
        if time.monotonic() < checked.deadline:
            raise
        # What failed because its connection was cut knows the place.
        location = getattr(exc if isinstance(exc, InputUnavailable) else exc.__context__, "location", None)
        raise PromptTimeout("The prompt's time was over before its inputs were there.", location=location) from exc
