"""The OpenAPI document, made of the pydantic models."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from handler import HandlerError, Service, __version__, workflows
from handler.choices import CHOICE
from handler.event import Options, PromptRequest
from handler.result import Result
from handler.workflows import Workflow

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


Json = dict[str, Any]


def document(service: Service) -> Json:
    """The OpenAPI 3.1 document of all routes. Lists of ComfyUI's are left open while it does not answer."""
    bodies = {route: _body(workflow) for route, workflow in service.workflows.items()}
    models: list[type[BaseModel]] = [PromptRequest, *bodies.values()]
    _, requests = models_json_schema([(model, "validation") for model in models], by_alias=True, ref_template=_REF)
    answers: list[type[BaseModel]] = [Result, Status, Error]
    _, results = models_json_schema([(model, "serialization") for model in answers], ref_template=_REF)
    schemas: Json = {**results["$defs"], **requests["$defs"]}
    ask = _Lists(service)
    for route, workflow in service.workflows.items():
        _fill(schemas[_name(route) + "Input"], workflow, ask, service.warmup_checkpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ComfyUI API",
            "version": __version__,
            "description": "Runs ComfyUI workflows: any graph through /prompt, typed endpoints under /workflow.",
        },
        "servers": [{"url": "/", "description": "This server"}],
        "paths": {**_PROBES, "/prompt": _post(PromptRequest, _PROMPT_DOC), **_workflow_paths(service, schemas)},
        "components": {"schemas": schemas},
    }


def _body(workflow: Workflow) -> type[BaseModel]:
    """The request body of a workflow: the options of POST /prompt with `input` in place of `prompt`."""
    fields = create_model(f"{_name(workflow.route)}Input", __base__=workflow.schema)
    input_field = (fields, Field(description="The fields of the workflow."))
    return create_model(f"{_name(workflow.route)}Request", __base__=Options, input=input_field)


def _name(route: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in route).split()
    return "Workflow" + "".join(word.capitalize() for word in words)


def _fill(schema: Json, workflow: Workflow, ask: "_Lists", warmup_checkpoint: str | None) -> None:
    """Put ComfyUI's lists, and the defaults that depend on them, into a workflow's schema."""
    for field in schema["properties"].values():
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


def _workflow_paths(service: Service, schemas: Json) -> Json:
    paths: Json = {}
    for route, workflow in service.workflows.items():
        text = workflow.description
        if service.settings.markdown_schema_descriptions:
            text = f"{text}\n\n{_table(schemas[_name(route) + 'Input'])}".strip()
        doc = {"summary": workflow.summary, "description": text, "tags": ["workflows"]}
        paths[f"/workflow/{route}"] = _post(_name(route) + "Request", doc)
    return paths


def _table(schema: Json) -> str:
    """The fields of a workflow as a Markdown table."""
    required = schema.get("required", [])
    rows = [
        f"| {name} | {_type(field)} | {field.get('description', '')} | {_default(field, name in required)} |"
        for name, field in schema["properties"].items()
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


def _post(body: type[BaseModel] | str, doc: Json) -> Json:
    name = body if isinstance(body, str) else body.__name__
    responses: Json = {"200": _answer("The outputs.", "Result")}
    for status, text in _FAILURES.items():
        responses[status] = _answer(text, "Error")
    return {"post": {**doc, "requestBody": {"required": True, "content": _content(name)}, "responses": responses}}


def _answer(text: str, model: str) -> Json:
    return {"description": text, "content": _content(model)}


def _content(model: str) -> Json:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}


def _probe(summary: str, description: str, answers: Iterable[tuple[str, str]]) -> Json:
    responses = {status: _answer(text, "Status") for status, text in answers}
    return {"get": {"summary": summary, "description": description, "tags": ["probes"], "responses": responses}}


_FAILURES = {
    "400": "The request cannot be run as it stands, or ComfyUI's validation refused it.",
    "413": "The body or an input is too large.",
    "415": "The body is not JSON.",
    "499": "The prompt was interrupted.",
    "500": "A node failed.",
    "502": "ComfyUI went away.",
    "503": "ComfyUI is not up.",
    "504": "The time limit was reached.",
}
_PROMPT_DOC = {
    "summary": "Run a graph",
    "description": "Runs a ComfyUI graph in API format. Inputs that take an uploaded image, video or audio file may be given as "
    "a URL, a data URI, base64, or the name of a file that is already there.",
    "tags": ["prompt"],
}
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
    "/models": {
        "get": {
            "summary": "List models",
            "description": "The names in each model folder.",
            "tags": ["models"],
            "responses": {
                "200": {
                    "description": "Folder to names.",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "additionalProperties": {"type": "array", "items": {"type": "string"}},
                            }
                        }
                    },
                },
                "503": _answer("ComfyUI is not up.", "Error"),
            },
        }
    },
}
