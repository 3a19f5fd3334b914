"""The OpenAPI document, made of the pydantic models."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from emulator.routes.deepinfra import ROUTE, Inference, InferenceRequest, offered
from emulator.routes.downloads import DownloadRequest
from emulator.routes.prompts import InterruptRequest
from handler import HandlerError, Service, __version__
from handler.choices import CHOICE
from handler.graphs import workflows
from handler.graphs.workflows import Workflow
from handler.schemas.request import PromptRequest
from handler.schemas.result import Result

_REF = "#/components/schemas/{model}"
_CHOICE_SHOWN = 60


class Status(BaseModel):
    version: str = Field(description="Version of this server.")
    status: str


class Error(BaseModel):
    """What every failure answers."""

    statusCode: int  # noqa: N815 - the reference's name
    code: str = Field(description="Names the kind of failure.")
    error: str = Field(description="One sentence for the caller.")
    location: str | None = Field(None, description="The path in the request that is at fault.")
    node_errors: dict[str, Any] | None = Field(None, description="ComfyUI's own table of errors, node id to errors.")


class Accepted(BaseModel):
    """The answer to a request with a webhook or an asynchronous upload: its own fields, and these."""

    model_config = ConfigDict(extra="allow")

    id: str
    prompt: dict[str, Any] = Field(description="The graph, as it will be run.")
    status: Literal["ok"]


class Downloaded(BaseModel):
    url: str = Field(description="Without what may be secret in it.")
    model_type: str
    filename: str
    status: Literal["started", "completed"]
    size: int | None = Field(None, description="In bytes, once it is there.")
    duration: float | None = Field(None, description="In seconds.")


class Interrupted(BaseModel):
    id: str
    interrupted: Literal["success", "failed"]
    was: Literal["queued", "running"] | None = Field(None, description="Where the prompt was.")


Json = dict[str, Any]


def openapi_document(service: Service) -> Json:
    """The OpenAPI 3.1 document of all routes. Lists of ComfyUI's are left open while it does not answer."""
    models: list[type[BaseModel]] = [PromptRequest, InterruptRequest, DownloadRequest, InferenceRequest]
    _, requests = models_json_schema([(model, "validation") for model in models], by_alias=True, ref_template=_REF)
    answers: list[type[BaseModel]] = [Result, Accepted, Interrupted, Downloaded, Inference, Status, Error]
    _, results = models_json_schema([(model, "serialization") for model in answers], ref_template=_REF)
    schemas: Json = {**results["$defs"], **requests["$defs"]}
    names, ask = _names(service.workflows), _Lists(service)
    for route, workflow in service.workflows.items():
        name = names[route]
        schemas |= _inputs(workflow, name)
        schemas[f"{name}Request"] = _request(schemas["PromptRequest"], name)
        _fill(schemas[f"{name}Input"], workflow, ask, service.warmup_checkpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ComfyUI API",
            "version": __version__,
            "description": "Runs ComfyUI workflows: any graph through /prompt, typed endpoints under /workflow.",
        },
        "servers": [{"url": "/", "description": "This server"}],
        "paths": {
            **_PROBES,
            "/prompt": _post(PromptRequest, _PROMPT_DOC, _RUN),
            "/download": _post(DownloadRequest, _DOWNLOAD_DOC, _DOWNLOAD),
            "/interrupt": _post(InterruptRequest, _INTERRUPT_DOC, _INTERRUPT),
            **_workflow_paths(service, names, schemas),
            **({ROUTE: _post(InferenceRequest, _INFERENCE_DOC, _INFERENCE)} if offered(service) else {}),
        },
        "components": {"schemas": schemas},
    }


def _names(routes: Iterable[str]) -> dict[str, str]:
    """Route to what its schemas' names begin with: ASCII, and no two alike."""
    seen: Counter[str] = Counter()
    names = {}
    for route in routes:
        name = "Workflow" + "".join(word.capitalize() for word in re.findall("[a-zA-Z0-9]+", route))
        seen[name] += 1
        names[route] = name if seen[name] == 1 else f"{name}_{seen[name]}"  # no other has a "_"
    return names


def _inputs(workflow: Workflow, name: str) -> Json:
    """The schema of a workflow's fields, and those of the models in them under names of its own."""
    fields = create_model(f"{name}Input", __base__=workflow.schema)
    schema = fields.model_json_schema(ref_template=_REF.format(model=f"{name}.{{model}}"))
    nested = schema.pop("$defs", {})
    return {f"{name}Input": schema, **{f"{name}.{model}": one for model, one in nested.items()}}


def _request(prompt: Json, name: str) -> Json:
    """The request body of a workflow: that of POST /prompt with `input` in place of `prompt`."""
    # Copies: YAML would show what is shared as anchors.
    options = {field: deepcopy(schema) for field, schema in prompt["properties"].items() if field != "prompt"}
    inputs = {"$ref": _REF.format(model=f"{name}Input"), "description": "The fields of the workflow."}
    properties = {**options, "input": inputs}
    return {"properties": properties, "required": ["input"], "title": f"{name}Request", "type": "object"}


def _fill(schema: Json, workflow: Workflow, ask: "_Lists", warmup_checkpoint: str | None) -> None:
    """Put ComfyUI's lists, and the defaults that depend on them, into a workflow's schema."""
    for field in schema.get("properties", {}).values():
        class_type, _, name = field.pop(CHOICE, "").partition(".")
        known = ask(class_type, name) if name else []
        if known:
            field["enum"] = known
    for name, default in workflows.checkpoint_defaults(workflow, ask, warmup_checkpoint).items():
        schema["properties"][name]["default"] = default
        schema["required"] = [one for one in schema.get("required", []) if one != name]


class _Lists:
    """ComfyUI's lists as of now, each asked for once; empty ones while it does not answer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[tuple[str, str], list[str]] = {}

    def __call__(self, class_type: str, name: str, *, fresh: bool = True) -> list[str]:
        key = (class_type, name)
        if key not in self._known:
            try:
                self._known[key] = self._service.comfy.options(class_type, name, fresh=fresh)
            except HandlerError:
                self._known[key] = []
        return self._known[key]


def _workflow_paths(service: Service, names: Mapping[str, str], schemas: Json) -> Json:
    paths: Json = {}
    for route, workflow in service.workflows.items():
        text = workflow.description
        if service.settings.markdown_schema_descriptions:
            text = f"{text}\n\n{_table(schemas[f'{names[route]}Input'])}".strip()
        doc = {"summary": workflow.summary, "description": text, "tags": ["workflows"]}
        paths[f"/workflow/{route}"] = _post(f"{names[route]}Request", doc, _RUN)
    return paths


def _table(schema: Json) -> str:
    """The fields of a workflow as a Markdown table."""
    required = schema.get("required", [])
    rows = [
        f"| {name} | {_type(field)} | {field.get('description', '')} | {_default(field, name in required)} |"
        for name, field in schema.get("properties", {}).items()
    ]
    return "\n".join(["| Field | Type | Description | Default |", "|-|-|-|-|", *rows])


def _type(field: Json) -> str:
    values = [field["const"]] if "const" in field else field.get("enum", [])
    if values:
        more = ", ..." if len(values) > _CHOICE_SHOWN else ""
        return f"enum ({', '.join(f'`{value}`' for value in values[:_CHOICE_SHOWN])}{more})"
    low, high = field.get("minimum"), field.get("maximum")
    limits = f", {low} to {high}" if low is not None and high is not None else ""
    return f"{field.get('type', 'any')}{limits}"


def _default(field: Json, required: bool) -> str:
    if "default" in field:
        return f"`{json.dumps(field['default'], ensure_ascii=False)}`"
    return "required" if required else "-"


def _post(body: type[BaseModel] | str, doc: Json, answers: dict[str, tuple[str, str]]) -> Json:
    """A POST route. `answers` maps a status to its text and its model."""
    name = body if isinstance(body, str) else body.__name__
    responses = {status: _answer(text, model) for status, (text, model) in answers.items()}
    return {"post": {**doc, "requestBody": {"required": True, "content": _content(name)}, "responses": responses}}


def _answer(text: str, model: str) -> Json:
    return {"description": text, "content": _content(model)}


def _content(model: str) -> Json:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}


def _probe(summary: str, description: str, answers: Iterable[tuple[str, str]]) -> Json:
    responses = {status: _answer(text, "Status") for status, text in answers}
    return {"get": {"summary": summary, "description": description, "tags": ["probes"], "responses": responses}}


_NOT_READ = {
    "401": ("API_KEYS is set, and none of them was shown.", "Error"),
    "408": ("The body took longer than BODY_TIMEOUT_S.", "Error"),
    "413": ("The body or an input is too large.", "Error"),
    "415": ("The body is of another type.", "Error"),
}
_REFUSALS = {
    **_NOT_READ,
    "400": ("The request cannot be run as it stands, or ComfyUI's validation refused it.", "Error"),
    "429": ("Too many requests are waiting; see Retry-After.", "Error"),
    "503": ("ComfyUI is not up.", "Error"),
    "507": ("There is no room on the disk for the files of the request.", "Error"),
}
_FAILURES = {
    **_REFUSALS,
    "499": ("The prompt was interrupted.", "Error"),
    "500": ("A node failed.", "Error"),
    "502": ("ComfyUI went away, or an upload failed.", "Error"),
    "504": ("The time limit was reached.", "Error"),
}
_RUN = {
    "200": ("The outputs.", "Result"),
    "202": ("Accepted: the webhooks tell the rest.", "Accepted"),
    **_FAILURES,
}
_INTERRUPT = {
    "200": ("It ends.", "Interrupted"),
    "404": ("There is none, or it has finished.", "Interrupted"),
    "400": ("No id.", "Error"),
    **_NOT_READ,
}
_DOWNLOAD = {
    "200": ("It is there.", "Downloaded"),
    "202": ("It has begun.", "Downloaded"),
    **_REFUSALS,
}
_DOWNLOAD_DOC = {
    "summary": "Download a model",
    "description": "Fetches a model into the folder where ComfyUI looks for it. Without `wait` it goes on in the background.",
    "tags": ["models"],
}
_INFERENCE = {"200": ("The picture, or with a webhook the request's id.", "Inference"), **_FAILURES}
_INTERRUPT_DOC = {
    "summary": "Interrupt a prompt",
    "description": "Ends the prompts of a request's id: one that waits never runs, one that runs is interrupted.",
    "tags": ["prompt"],
}
_INFERENCE_DOC = {
    "summary": "DeepInfra's FLUX-1-schnell",
    "description": "DeepInfra's request and answer on the flux workflows. Takes JSON or a multipart form.",
    "tags": ["workflows"],
}
_PROMPT_DOC = {
    "summary": "Run a graph",
    "description": "Runs a ComfyUI graph in API format. Inputs that take an uploaded image, video or audio file may be given as "
    "a URL, a data URI, base64, or the name of a file that is already there.",
    "tags": ["prompt"],
}
_LISTS: Json = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
_PROBES: Json = {
    "/health": _probe(
        "Health probe",
        "Healthy once the warm-up prompt has run, and for as long as the server lives.",
        [("200", "Healthy."), ("500", "Not warm yet.")],
    ),
    "/ready": _probe(
        "Readiness probe",
        "Ready to take prompts: warm, with a ComfyUI that answers, and below MAX_QUEUE_DEPTH.",
        [("200", "Ready."), ("503", "Not ready.")],
    ),
    "/metrics": {
        "get": {
            "summary": "Metrics",
            "description": "Queue depth, jobs by outcome and how long they took, in Prometheus' text format.",
            "tags": ["probes"],
            "responses": {
                "200": {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}
            },
        }
    },
    "/models": {
        "get": {
            "summary": "List models",
            "description": "The names in each model folder.",
            "tags": ["models"],
            "responses": {
                "200": {
                    "description": "Folder to names.",
                    "content": {"application/json": {"schema": _LISTS}},
                },
                "503": _answer("ComfyUI is not up.", "Error"),
            },
        }
    },
}
