"""What happens to an event, step by step: the table of contents of the handler.

    event ─ check ─► CheckedRequest ─ fetch ─► Job ─ produce ─► Produced ─ deliver ─► Result

`check` and `fetch` (together: `prepare`) do all that can be the caller's fault, `produce` and `deliver` (`execute`) all that
needs the GPU and other servers. Each step gets what the one before has returned.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from handler.comfyui import Message
from handler.errors import DeliveryError, ServerStopped
from handler.jobs import (
    CheckedRequest,
    Job,
    Produced,
    Times,
    build_result,
    check_destinations,
    check_graph,
    clean_up,
    convert_outputs,
    deliver_outputs,
    expand,
    failure_webhooks,
    fetch_files,
    prefix_outputs,
    read_outputs,
    remove_folders,
    run_graph,
    success_webhooks,
)
from handler.schemas import Result, parse_event
from handler.service import Service
from handler.storage import runpod_bucket
from handler.ticket import Ticket

logger = logging.getLogger(__name__)

OnMessage = Callable[[Message], None]
"""Gets ComfyUI's websocket messages about a job's prompt, and about ComfyUI's queue."""


def _ignore(_message: Message) -> None: ...


def run(event: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """The answer to an event, as plain JSON values. Raises HandlerError."""
    return execute(prepare(event, service), service).answer()


def prepare(event: Mapping[str, Any], service: Service, ticket: Ticket | None = None) -> Job:
    """A job of an event: `check`, then `fetch`."""
    return fetch(check(event, service, ticket), service)


def execute(job: Job, service: Service, on_message: OnMessage = _ignore) -> Result:
    """The result of a job: `produce`, then `deliver`."""
    return deliver(produce(job, service, on_message), service)


def check(event: Mapping[str, Any], service: Service, ticket: Ticket | None = None) -> CheckedRequest:
    """Validate an event, expand its workflow, check its graph and where its outputs go.

    Through a `ticket` of the caller's own the request can be ended from here on. Asks ComfyUI, but no other server. Raises
    BadRequest and its kinds, PromptRejected, ComfyError, or what the ticket is cancelled with.
    """
    ticket, settings = ticket or Ticket(), service.settings
    request = parse_event(event)
    ticket.request_id = request.id
    ticket.check()
    bucket = runpod_bucket.choose_bucket(event, request.id, settings)
    fields, graph = expand(request, service)
    graph, classes = check_graph(graph, request, service.comfy)
    check_destinations(request, settings)
    return CheckedRequest(
        ticket=ticket,
        request=request,
        fields=fields,
        graph=graph,
        classes=classes,
        folder=secrets.token_hex(8),
        bucket=bucket,
        deadline=ticket.received + min(request.timeout_s or settings.prompt_timeout_s, settings.prompt_timeout_s),
    )


def fetch(checked: CheckedRequest, service: Service) -> Job:
    """Fetch the models and inputs of a checked request, and promise its webhooks.

    Raises BadRequest and its kinds, PromptTimeout, or what the ticket is cancelled with, and leaves nothing behind then.
    """
    with ExitStack() as undo:
        undo.callback(remove_folders, checked.folder, service.settings)
        graph, hold = fetch_files(checked, service)
        undo.callback(hold.close)
        graph = prefix_outputs(graph, checked, service.settings)
        checked.ticket.check()
        promise = service.webhooks.promise(failure_webhooks(checked.request, graph, ServerStopped()))
        undo.pop_all()
    return Job(**{**vars(checked), "graph": graph}, hold=hold, promise=promise, prepared=time.monotonic())


def produce(job: Job, service: Service, on_message: OnMessage = _ignore) -> Produced:
    """Run the graph, read and convert its outputs. Then `deliver` must follow.

    Raises HandlerError; by then the webhooks are on their way and the job is cleaned up.
    """
    with _failing(job, service):
        executed = run_graph(job, service, on_message)
        outputs = read_outputs(
            executed.execution.entry["outputs"],
            job.graph,
            service.comfy,
            output_dir=service.settings.output_dir,
            folder=job.folder,
        )
        if job.request.target:
            outputs = convert_outputs(outputs, job.request.target)
        job.ticket.settle()
        times = Times(
            received=job.ticket.received,
            prepared=job.prepared,
            submitted=executed.submitted,
            admitted=executed.admitted,
            finished=executed.finished,
            converted=time.monotonic(),
        )
        return Produced(job, outputs, executed.execution, times)


def deliver(produced: Produced, service: Service) -> Result:
    """Encode or upload the outputs, build the answer, tell the webhooks, clean up.

    Raises HandlerError; by then the webhooks are on their way and the job is cleaned up, except for outputs that could not be
    delivered, which the error names.
    """
    job = produced.job
    with _failing(job, service):
        delivered = deliver_outputs(produced, service)
        result = build_result(produced, delivered, service)
    logger.info("job %r: %d outputs in %.0f ms", job.request.id, len(produced.outputs), result.stats.total_time)
    try:
        job.promise.keep(success_webhooks(job.request, result))
    finally:
        clean_up(job, service)
    return result


def accepted(job: Job) -> dict[str, Any]:
    """The answer to a caller who does not wait for the job."""
    return {**job.request.echo(), "id": job.request.id, "prompt": job.graph, "status": "ok", **job.fields}


@contextmanager
def _failing(job: Job, service: Service) -> Iterator[None]:
    """When the block raises: tell the webhooks, clean up."""
    try:
        yield
    except BaseException as exc:
        try:
            if isinstance(exc, Exception):
                job.promise.keep(failure_webhooks(job.request, job.graph, exc))
        finally:
            clean_up(job, service, keep_outputs=isinstance(exc, DeliveryError))
        raise
